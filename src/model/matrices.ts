import type { Backend, Matrix, Tensor, TernaryType, WeightType } from '../backend/backend.ts';
import { GgufError } from '../gguf/error.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { readScale, TAIL_BYTES, tileText } from '../gguf/layouts/ternary.ts';
import { TERNARY } from '../gguf/layouts.ts';
import type { FoundTiles } from '../gguf/tiles.ts';
import type { Config } from './config.ts';

/** A tensor of the file that goes into the backend's memory. */
export interface PlannedTensor {
  readonly info: TensorInfo;
  /** What a matrix is repacked to. */
  readonly to: TernaryType | undefined;
  /** In the backend's memory; norms are f32 there. */
  readonly bytes: number;
}

/** What loading puts into the backend's memory, in file order. */
export function planTensors(
  header: GgufHeader,
  c: Config,
  { repacks, maxRepeats }: Pick<Backend, 'repacks' | 'maxRepeats'>,
  repack: 'auto' | 'none',
): PlannedTensor[] {
  const skipped = new Set(['rope_freqs.weight']);
  if (c.headTensor !== 'output.weight') skipped.add('output.weight');
  // One row a token is read from a table that is not the head.
  if (c.headTensor !== 'token_embd.weight' && maxRepeats === 1) skipped.add('token_embd.weight');
  const wanted = [...header.tensors.values()].filter((t) => !skipped.has(t.name)).sort((a, b) => a.at - b.at);
  return wanted.map((info): PlannedTensor => {
    if (info.dims.length === 1) return { info, to: undefined, bytes: 4 * info.dims[0] };
    const to = repack === 'auto' ? repacks[info.type.toLowerCase() as TernaryType] : undefined;
    return { info, to, bytes: to === undefined ? info.bytes : repackedBytes(info, to) };
  });
}

/** Bytes of a tensor where it is repacked; rows of I2_S are whole blocks of 128 there. */
function repackedBytes({ dims: [cols, rows] }: TensorInfo, type: TernaryType): number {
  const { rowMultiple, sizeBytes } = TERNARY[type.toUpperCase() as Uppercase<TernaryType>];
  return sizeBytes([Math.ceil(cols / rowMultiple) * rowMultiple, rows]);
}

/** A matrix in the backend's memory, and the tensor of the file that it is, or was repacked from. */
export interface LoadedMatrix<T extends Tensor> {
  readonly info: TensorInfo;
  readonly matrix: Matrix<T>;
  /** Of TL1 and TL2 in the file. */
  readonly tiles: FoundTiles | undefined;
}

export function matrixOf<T extends Tensor>(info: TensorInfo, tensor: T, found: FoundTiles | undefined): Matrix<T> {
  const [cols, rows] = info.dims;
  return { type: info.type.toLowerCase() as WeightType, rows, cols, tensor, tiles: found?.tiles };
}

/**
 * Checks the ternary ones of these matrices, in the backend's memory, where that is quickest; `to` takes what the only one is
 * repacked to on the way.
 * @throws GgufError for the first byte that codes no weights, or a scale that is no positive number
 */
export async function checkTernary<T extends Tensor>(
  backend: Backend<T>,
  all: readonly Pick<LoadedMatrix<T>, 'info' | 'matrix'>[],
  file: string,
  to?: Matrix<T>,
): Promise<void> {
  const ternary = all.filter(({ info }) => Object.hasOwn(TERNARY, info.type));
  const found = backend.alloc(4 * ternary.length);
  const offsets = new Uint32Array(ternary.length).fill(0xffff_ffff);
  const bytes = new Uint8Array(offsets.buffer);
  backend.write(found, 0, bytes);
  const program = backend.record(() => {
    ternary.forEach(({ info, matrix }, i) => {
      if (to !== undefined) backend.ops.repack({ from: matrix, to, found, at: 4 * i });
      else if (info.type !== 'TQ1_0') backend.ops.checkTernary({ w: matrix, found, at: 4 * i }); // all its bytes are weights
    });
  });
  try {
    await backend.run(program);
    await backend.read(found, 0, bytes);
    const tail = new Uint8Array(TAIL_BYTES);
    for (const [i, { info, matrix }] of ternary.entries()) {
      const where = `${file}: tensor '${info.name}'`;
      if (offsets[i] !== 0xffff_ffff) throw new GgufError(`${where}: ${fault(info, matrix)}`, info.at + offsets[i]);
      if (info.type === 'TQ1_0' || info.type === 'TQ2_0') continue; // with scales in their blocks, which are checked
      await backend.read(matrix.tensor, info.bytes - TAIL_BYTES, tail);
      readScale(info.type, tail, where, info.at + info.bytes - TAIL_BYTES);
    }
  } finally {
    program.free();
    backend.free(found);
  }
}

function fault<T extends Tensor>({ type, dims }: TensorInfo, { tiles }: Matrix<T>): string {
  if (tiles === undefined) return `code 3 in a byte of ${type}, expected 0, 1 or 2`;
  const why = 'the tile parameters do not fit the file, or its data is broken';
  return `a byte that codes no weights: ${why} (${type}, ${tileText(dims, tiles)})`;
}
