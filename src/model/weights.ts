import type { Backend, DenseType, Matrix, Norm, Tensor, TernaryType, WeightType } from '../backend/backend.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { checkScales, negativeScale } from '../gguf/layouts/blocks.ts';
import { checkTrits, blocks as tq1 } from '../gguf/layouts/tq1_0.ts';
import { blocks as tq2 } from '../gguf/layouts/tq2_0.ts';
import { decode, layoutOf, TERNARY } from '../gguf/layouts.ts';
import type { Source } from '../gguf/source.ts';
import { isTiled, type TilesOption, tilesOf } from '../gguf/tiles.ts';
import type { Config } from './config.ts';
import type { LayerWeights, ModelWeights } from './forward.ts';
import { checkTernary, type LoadedMatrix, matrixOf, type PlannedTensor, planTensors } from './matrices.ts';

/** Bytes of tensors read so far, of all that will be. */
export interface LoadProgress {
  readonly phase: 'load';
  readonly loadedBytes: number;
  readonly totalBytes: number;
  /** Tensor being read. */
  readonly tensor: string;
}

/**
 * The input embedding: in the backend's memory where it is the head as well or where steps are repeated there, else outside,
 * as one row a token is read from it.
 */
export interface EmbeddingTable<T extends Tensor> {
  /** In the backend's memory. */
  readonly tensor: T | undefined;
  readonly rowBytes: number;
  /** Of a table outside: row of `token`, rowBytes long, into `into`. */
  readonly readRow: ((token: number, into: Uint8Array) => void) | undefined;
}

/** How the matrices of the layers are stored. */
export interface WeightStorage {
  /** In the file: 'TL2'. */
  readonly file: string;
  /** In memory: 'i2_s', where they were repacked. */
  readonly memory: string;
  /** Where the tile parameters of TL1 and TL2 come from: 'file', 'option' or 'preset NAME'. */
  readonly tiles: string | undefined;
}

export interface LoadedWeights<T extends Tensor> extends ModelWeights<T> {
  readonly storage: WeightStorage;
  /** What is odd but harms nobody. */
  readonly warnings: readonly string[];
  /** Copy of the head that it is screened with. */
  readonly screen: T | undefined;
  readonly embedding: EmbeddingTable<T>;
  /** [ropeDim / 2] divisors of the rotation frequencies, where the file has them. */
  readonly ropeFreqs: Float32Array | undefined;
  free(): void;
}

export interface LoadOptions {
  /** 'exact' computes every logit of the head for each token; 'auto' those that can matter. Default 'auto'. */
  readonly head?: 'auto' | 'exact';
  /** 'none' leaves every matrix in the layout of the file. Default 'auto': as the backend is quicker with. */
  readonly repack?: 'auto' | 'none';
  /** Tile parameters of TL1 and TL2. Default: what the file or a preset says of the shape. */
  readonly layout?: TilesOption;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly signal?: AbortSignal;
}

/** Among the tensors, a matrix before it is repacked; no name of a file, as those are not empty. */
const STAGED = '';

/**
 * Reads the tensors of a checked file, in file order, straight into the backend's memory.
 *
 * @throws GgufError for a scale that is no positive number or a byte that codes no weights in a ternary layout, or a scale that
 * is not finite in other ones, with its byte; for tile parameters that are not known. Rows of an embedding outside of the backend
 * are read as they come, unchecked.
 * @throws RangeError for a layout that the backend neither computes with nor is to repack
 * @throws the signal's reason when aborted; whatever was allocated is freed
 */
export async function loadWeights<T extends Tensor>(
  backend: Backend<T>,
  source: Source,
  header: GgufHeader,
  c: Config,
  options: LoadOptions = {},
): Promise<LoadedWeights<T>> {
  const { onProgress, signal, head = 'auto', repack = 'auto', layout } = options;
  const tensors = new Map<string, T>();
  const matrices = new Map<string, LoadedMatrix<T>>();
  const warnings: string[] = [];
  /** Under way while the file is read on. */
  let screening: Promise<T | undefined> = Promise.resolve(undefined);
  const free = () => {
    for (const tensor of tensors.values()) backend.free(tensor);
  };
  const planned = planTensors(header, c, backend, repack);
  const totalBytes = planned.reduce((sum, { info }) => sum + info.bytes, 0);
  let loadedBytes = 0;
  checkComputed(backend, planned, repack, source.name);

  try {
    for (const { info, to, bytes } of planned) {
      const where = `${source.name}: tensor '${info.name}'`;
      if (info.dims.length === 1) {
        const tensor = backend.alloc(bytes);
        tensors.set(info.name, tensor);
        const packed = new Uint8Array(info.bytes);
        await source.read(info.at, packed);
        const values = decode(info.type, packed, info.dims, where);
        backend.write(tensor, 0, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
        loadedBytes += info.bytes;
      } else {
        const blocks = layoutOf(info.type)?.blocks;
        const tiles = isTiled(info.type) ? tilesOf(info.type, info.dims, header.metadata, where, layout) : undefined;
        // What stays comes first: what is freed behind it leaves no hole.
        const kept = backend.alloc(bytes);
        tensors.set(info.name, kept);
        const tensor = to === undefined ? kept : backend.alloc(info.bytes);
        if (to !== undefined) tensors.set(STAGED, tensor);
        await backend.fill(tensor, async (at, into) => {
          signal?.throwIfAborted();
          await source.read(info.at + at, into);
          if (blocks !== undefined) checkScales(blocks, into, at, where, info.at);
          const odd = warnings.length === 0 ? oddity(info, into, at) : undefined;
          if (odd !== undefined) warnings.push(`${where}: ${odd}; there may be more`);
          loadedBytes += into.length;
          onProgress?.({ phase: 'load', loadedBytes, totalBytes, tensor: info.name });
        });
        const matrix = matrixOf(info, tensor, tiles);
        matrices.set(info.name, { info, matrix, tiles });
        if (to !== undefined) {
          const repacked = { type: to, rows: matrix.rows, cols: matrix.cols, tensor: kept };
          await checkTernary(backend, [{ info, matrix }], source.name, repacked);
          tensors.delete(STAGED);
          backend.free(tensor);
          matrices.set(info.name, { info, matrix: repacked, tiles });
        }
      }
      signal?.throwIfAborted();
      onProgress?.({ phase: 'load', loadedBytes, totalBytes, tensor: info.name });
      if (info.name === c.headTensor && head === 'auto') {
        screening = buildScreen(backend, (matrices.get(info.name) as LoadedMatrix<T>).matrix, tensors);
        screening.catch(() => {}); // looked at below
      }
    }
    const asInFile = [...matrices.values()].filter(({ info, matrix }) => matrix.type === info.type.toLowerCase());
    await checkTernary(backend, asInFile, source.name);
    const table = header.tensors.get('token_embd.weight') as TensorInfo;
    const embedding = await openEmbedding(source, table, tensors.get(table.name));
    const freqs = header.tensors.get('rope_freqs.weight');
    let ropeFreqs: Float32Array | undefined;
    if (freqs !== undefined) {
      const packed = new Uint8Array(freqs.bytes);
      await source.read(freqs.at, packed);
      ropeFreqs = decode(freqs.type, packed, freqs.dims, `${source.name}: tensor 'rope_freqs.weight'`);
    }
    const collected = collect(header, c, tensors, matrices);
    return {
      ...collected,
      storage: storageOf(matrices),
      warnings,
      embedding,
      ropeFreqs,
      screen: await screening,
      free,
    };
  } catch (error) {
    await screening.catch(() => {});
    free();
    throw error;
  }
}

/** What no writer of TQ tensors leaves in a piece of one, its bytes from `at` on, though it can be computed with. */
function oddity({ type, at: tensorAt }: TensorInfo, piece: Uint8Array, at: number): string | undefined {
  if (type !== 'TQ1_0' && type !== 'TQ2_0') return undefined;
  const byte = type === 'TQ1_0' ? checkTrits(piece, at) : -1;
  if (byte >= 0) {
    return `byte ${tensorAt + at + byte}: ${piece[byte]} encodes no five trits (TQ1_0), read as llama.cpp reads it`;
  }
  const scale = negativeScale(type === 'TQ1_0' ? tq1 : tq2, piece, at);
  return scale < 0 ? undefined : `byte ${tensorAt + at + scale}: a scale below 0 (${type})`;
}

/** @throws RangeError where no op takes a ternary layout of the file as it will be in memory */
function checkComputed<T extends Tensor>(
  { name, computes }: Backend<T>,
  all: readonly PlannedTensor[],
  repack: 'auto' | 'none',
  file: string,
): void {
  for (const { info, to } of all) {
    const { type } = info;
    if (!Object.hasOwn(TERNARY, type)) continue;
    if (computes.includes(to ?? (type.toLowerCase() as TernaryType))) continue;
    const only = `${name} computes only with ${computes.join(', ').toUpperCase()}; ${file} has ${type}`;
    throw new RangeError(repack === 'none' ? `repack: 'none', but ${only}` : only);
  }
}

/** Bytes that building a screen takes beside it. */
export function screenScratchBytes({ scratchBytes }: Pick<Backend, 'scratchBytes'>, cols: number): number {
  return scratchBytes(1, cols, 1, 1);
}

/** The copy that the head is screened with, if there is any gain in one; it is freed with the tensors. */
async function buildScreen<T extends Tensor>(
  backend: Backend<T>,
  w: Matrix<T>,
  tensors: Map<string, T>,
): Promise<T | undefined> {
  const bytes = backend.screenBytes(w.rows, w.cols);
  if (bytes === 0) return undefined;
  let copy: T;
  try {
    copy = backend.alloc(bytes);
  } catch (error) {
    const without = `head: the copy that it is screened with takes ${bytes} bytes, which 'exact' does without`;
    throw new RangeError(`${without}; ${(error as Error).message}`, { cause: error });
  }
  tensors.set('screen', copy);
  const scratch = backend.alloc(screenScratchBytes(backend, w.cols));
  const program = backend.record(() => backend.ops.buildScreen({ w, copy, scratch }));
  try {
    await backend.run(program);
  } finally {
    program.free();
    backend.free(scratch);
  }
  return copy;
}

/** Where matrices differ, all there are, in the order of the file. */
function storageOf<T extends Tensor>(matrices: ReadonlyMap<string, LoadedMatrix<T>>): WeightStorage {
  const layers = [...matrices.values()].filter(({ info }) => info.name.startsWith('blk.'));
  const all = (of: (m: LoadedMatrix<T>) => string | undefined) =>
    [...new Set(layers.map(of).filter((text) => text !== undefined))].join(', ');
  return {
    file: all(({ info }) => info.type),
    memory: all(({ matrix }) => matrix.type),
    tiles: all(({ tiles }) => tiles?.origin) || undefined,
  };
}

function collect<T extends Tensor>(
  header: GgufHeader,
  c: Config,
  tensors: ReadonlyMap<string, T>,
  matrices: ReadonlyMap<string, LoadedMatrix<T>>,
): ModelWeights<T> {
  const tensor = (name: string) => tensors.get(name) as T;
  const typeOf = (name: string) => (header.tensors.get(name) as TensorInfo).type.toLowerCase() as WeightType;
  const matrix = (name: string): Matrix<T> => (matrices.get(name) as LoadedMatrix<T>).matrix;
  const norm = (name: string): Norm<T> => ({ weight: tensor(name), eps: c.eps });
  const layers = Array.from({ length: c.layers }, (_, i): LayerWeights<T> => {
    const at = (name: string) => `blk.${i}.${name}.weight`;
    const input = (name: string) => norm(at(`${name}_norm_in`));
    const inputOr = (name: string, subNorm: string) =>
      c.hasInputNorms ? input(name) : c.hasSubNorm ? norm(at(subNorm)) : undefined;
    return {
      attnNorm: norm(at('attn_norm')),
      qkvNorms: c.hasInputNorms ? [input('attn_q'), input('attn_k'), input('attn_v')] : undefined,
      wq: matrix(at('attn_q')),
      wk: matrix(at('attn_k')),
      wv: matrix(at('attn_v')),
      headNorms: c.hasHeadNorms ? [norm(at('attn_q_norm')), norm(at('attn_k_norm'))] : undefined,
      woNorm: inputOr('attn_output', 'attn_sub_norm'),
      wo: matrix(at('attn_output')),
      postAttnNorm: c.hasPostNorms ? norm(at('post_attention_norm')) : undefined,
      ffnNorm: norm(at('ffn_norm')),
      gateUpNorms: c.hasInputNorms ? [input('ffn_gate'), input('ffn_up')] : undefined,
      gate: matrix(at('ffn_gate')),
      up: matrix(at('ffn_up')),
      downNorm: inputOr('ffn_down', 'ffn_sub_norm'),
      down: matrix(at('ffn_down')),
      postFfnNorm: c.hasPostNorms ? norm(at('post_ffw_norm')) : undefined,
    };
  });
  return {
    layers,
    outputNorm: norm('output_norm.weight'),
    head: c.headTensor === undefined ? undefined : matrix(c.headTensor),
    embeddingType: typeOf('token_embd.weight') as DenseType,
  };
}

/** Rows outside are read from the source as they are needed, or, where it cannot be read at once, from a copy of the table. */
async function openEmbedding<T extends Tensor>(
  source: Source,
  info: TensorInfo,
  tensor: T | undefined,
): Promise<EmbeddingTable<T>> {
  const rowBytes = info.bytes / info.dims[1];
  if (tensor !== undefined) return { tensor, rowBytes, readRow: undefined };
  const { readSync } = source;
  if (readSync !== undefined) {
    const readRow = (token: number, into: Uint8Array) => readSync.call(source, info.at + token * rowBytes, into);
    return { tensor, rowBytes, readRow };
  }
  const table = new Uint8Array(info.bytes);
  await source.read(info.at, table);
  const readRow = (token: number, into: Uint8Array) =>
    into.set(table.subarray(token * rowBytes, (token + 1) * rowBytes));
  return { tensor, rowBytes, readRow };
}
