import { rowFault } from '../gguf/layouts.ts';
import type { Source } from '../gguf/source.ts';
import { chooseTiles, isTiled, type TilesOption, tilesEntry, tilesOf } from '../gguf/tiles.ts';
import type { TypedValue } from '../gguf/writer.ts';
import type { Folder } from '../safetensors/checkpoint.ts';
import { ConvertError } from './error.ts';
import { planFromCheckpoint } from './from_checkpoint.ts';
import { planFromGguf } from './from_gguf.ts';
import { hasRows, type InputTensor, rowsOf } from './input.ts';
import { type ConvertProgress, type OutputTensor, type Sink, type Written, writeTensors } from './output.ts';
import { createPruning, type Importance, type PruneOptions } from './prune.ts';
import { FILE_TYPES, MATRIX, type MatrixType, TABLE, type TableType } from './types.ts';

export interface ConvertOptions {
  /** Of the seven matrices of a layer. I2_S, TL1 and TL2 are bitnet.cpp's, the others llama.cpp's; ternlm reads all. */
  readonly type: MatrixType;
  /** Of the embedding and of an output head of its own. Default: as it is in a GGUF file, else F16. */
  readonly embedding?: TableType;
  /** Tiles of TL1 and TL2 tensors that are read, where the file does not tell them, and of those that are written. */
  readonly layout?: TilesOption;
  /** Rounds weights that are not ternary, as BitNet's training does. Default: refuses them. */
  readonly quantize?: boolean;
  /** With `quantize`, to TQ1_0 or TQ2_0: weights that share a scale, a multiple of 256. Default: all of a tensor. */
  readonly blockSize?: number;
  /**
   * Mean squares [cols] of what each matrix sees, by its tensor's name (Model.activations): with `quantize`, weights and scales
   * are those that change its results least, and with `prune` the weights that it misses least are taken. Matrices that are
   * ternary, or were trained to be rounded, are not rounded otherwise for it.
   */
  readonly importance?: Importance;
  /** Makes weights of the seven matrices of a layer 0, before they are rounded. The file's shapes stay. */
  readonly prune?: PruneOptions;
  readonly onProgress?: (progress: ConvertProgress) => void;
  readonly signal?: AbortSignal;
}

/** Seen with node-llama-cpp 3.22.1. */
const RELU2_NOTE =
  'ReLU² model called bitnet: llama.cpp opens it, but computes SiLU where it does not read bitnet.hidden_activation';

/**
 * Writes a GGUF version 3 file of ternary matrices.
 *
 * @param input a GGUF file, or the folder of a Hugging Face checkpoint (config.json, safetensors, tokenizer)
 * @throws GgufError, SafetensorsError or ConvertError on an input that is broken, unknown or not ternary, or does not fit the
 * type: before the first write, except for what only the weights themselves tell
 * @throws the signal's reason when aborted, and whatever the sink throws
 */
export async function convert(input: Source | Folder, sink: Sink, options: ConvertOptions): Promise<Written> {
  checkOptions(options);
  const { type, layout } = options;
  const plan = await ('open' in input ? planFromCheckpoint(input, type) : planFromGguf(input, type, layout));
  try {
    const tensors = plan.tensors.map((tensor) => outputOf(tensor, options));
    const metadata = new Map<string, TypedValue>(plan.metadata);
    metadata.set('general.file_type', { type: 'u32', value: FILE_TYPES[type] });
    metadata.set('general.quantization_version', { type: 'u32', value: 2 });
    for (const { tiles, input } of tensors) {
      if (tiles !== undefined) metadata.set(...tilesEntry(rowsOf(input), input.dims[0], tiles));
    }
    const { quantize = false, blockSize: block, importance, onProgress, signal } = options;
    checkImportance(importance, plan.tensors);
    const prune = options.prune && createPruning(options.prune, importance, plan.tensors);
    const work = { quantize, block, importance, prune };
    const written = await writeTensors(sink, metadata, tensors, { ...work, onProgress, signal });
    const isRelu2 = metadata.get('bitnet.hidden_activation')?.value === 'relu2';
    return { ...written, notes: [...plan.notes, ...(isRelu2 ? [RELU2_NOTE] : []), ...written.notes] };
  } finally {
    await plan.close();
  }
}

/** @throws RangeError on options that no input could meet */
export function checkOptions({ type, quantize, blockSize, prune }: ConvertOptions): void {
  if (prune !== undefined && !(prune.ratio >= 0 && prune.ratio <= 1)) {
    throw new RangeError(`prune: ratio ${prune.ratio}, expected a number from 0 to 1`);
  }
  if (blockSize === undefined) return;
  if (!(Number.isInteger(blockSize) && blockSize > 0 && blockSize % 256 === 0)) {
    throw new RangeError(`blockSize: ${blockSize}, expected a multiple of 256`);
  }
  if (!quantize || (type !== 'TQ1_0' && type !== 'TQ2_0')) {
    throw new RangeError(
      `blockSize: ${type}${quantize ? '' : ' without quantize'}, expected TQ1_0 or TQ2_0 with quantize`,
    );
  }
}

/** Each matrix has its numbers: those of another model would be a mistake that nothing shows later. */
function checkImportance(importance: Importance | undefined, tensors: readonly InputTensor[]): void {
  if (importance === undefined) return;
  for (const { name, dims } of tensors.filter((t) => MATRIX.test(t.name))) {
    const h = importance.get(name);
    if (h?.length !== dims[0] || !h.every((x) => x >= 0 && x < Infinity)) {
      const got = h === undefined ? 'nothing' : h.length !== dims[0] ? `${h.length} numbers` : 'others';
      throw new RangeError(`importance: ${got} for ${name}, expected ${dims[0]} finite numbers from 0 up`);
    }
  }
}

/** How a tensor will be written. Throws ConvertError if it cannot be, as far as its shape tells. */
function outputOf(input: InputTensor, options: ConvertOptions): OutputTensor {
  const { name, where, dims } = input;
  const { type, embedding, layout, quantize, blockSize } = options;
  const isMatrix = MATRIX.test(name);
  const target = isMatrix ? type : TABLE.test(name) ? (embedding ?? input.kept) : input.kept;
  const fault = rowFault(target, dims[0]);
  if (fault !== undefined) throw new ConvertError(`${where}: ${fault}`);
  const isRounded = isMatrix && quantize && hasRows(input) && !input.isMaster;
  if (isRounded && blockSize !== undefined && dims[0] % blockSize !== 0) {
    throw new ConvertError(`${where}: row length ${dims[0]}, expected a multiple of the block size ${blockSize}`);
  }
  if (!isMatrix || !isTiled(type)) return { type: target, input };
  const rows = rowsOf(input);
  // A preset that was named for reading TL1 may have nothing for TL2 of the same shape, and the other way round.
  const given = layout !== undefined && input.type !== (type === 'TL1' ? 'TL2' : 'TL1');
  try {
    const tiles = given ? tilesOf(type, dims, new Map(), where, layout).tiles : chooseTiles(type, rows, dims[0]);
    return { type, input, tiles };
  } catch (cause) {
    const { message } = cause as Error;
    throw message.startsWith(where) ? cause : new ConvertError(`${where}: ${message}`, { cause });
  }
}
