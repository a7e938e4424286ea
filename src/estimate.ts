import type { Backend, KvType } from './backend/backend.ts';
import { wasmSizing } from './backend/wasm/backend.ts';
import { ROWS } from './evaluate.ts';
import { type GgufHeader, readHeader, type TensorInfo } from './gguf/header.ts';
import type { Source } from './gguf/source.ts';
import { checkOptions } from './hub/input.ts';
import { type OpenOptions, openModel } from './hub/open.ts';
import { checkAlone, type LoadModelOptions, layOptions, type ModelInput } from './load_model.ts';
import { type Advice, adviceOf, maxContext } from './model/advice.ts';
import { type Config, readConfig } from './model/config.ts';
import {
  fitOf,
  isWhole,
  leastOf,
  needsOf,
  positionsWarning,
  type Sizing,
  screenWarning,
  systemWarnings,
  type Wishes,
} from './model/fit.ts';
import { BLOCK_SIZE } from './model/kv_cache.ts';
import { planTensors } from './model/matrices.ts';

export interface EstimateOptions
  extends Omit<OpenOptions, 'cache' | 'onProgress'>,
    Pick<
      LoadModelOptions,
      ('contextSize' | 'parallel' | 'kv' | 'head' | 'repack' | 'activation') | ('threads' | 'tier' | 'revectorize')
    > {
  /** An open backend, which stays the caller's. Default: the CPU. */
  readonly backend?: Backend;
  /** Bytes that the model may take in the backend's memory. Default: what the backend can have; 4 GiB of the CPU's. */
  readonly limitBytes?: number;
}

/** Bytes that a model takes, as it would be loaded with the same options. */
export interface MemoryEstimate {
  readonly file: string;
  readonly fileBytes: number;
  /** Matrices and norms of the layers, as they are computed with. */
  readonly weightsBytes: number;
  /** What matrices of the layers are stored as, in the file and in memory: 'TL2 as I2_S'. */
  readonly weightTypes: string;
  /** The output head; 0 of an embedding model. */
  readonly headBytes: number;
  /** The embedding table, where the backend holds it and it is not the head as well. */
  readonly embeddingBytes: number;
  /** The copy that the head is screened with (`head: 'auto'`); 0 where there is none. */
  readonly screenBytes: number;
  /** Keys and values of `positions`. The CPU takes them from the system as they fill. */
  readonly kvBytes: number;
  /** Keys and values of 1024 positions. */
  readonly kvPer1kBytes: number;
  /** What a step computes in. */
  readonly workingBytes: number;
  /** All of the above: `info.memoryBytes` of the loaded model. */
  readonly totalBytes: number;
  /**
   * What the JavaScript side takes beside the runtime itself, about: vocabulary, code, threads, garbage. By measurements on Node 20;
   * engines differ.
   */
  readonly hostBytes: number;
  /** Most that is allocated at a time, while it is loaded or while it generates. */
  readonly peakBytes: number;
  /** Most that the backend can have, or the option. */
  readonly limitBytes: number;
  /** What the system can give now; undefined where it does not tell, and on a GPU. Less than the total is a warning. */
  readonly availableBytes: number | undefined;
  /** 'reduced' where something has to be left out, which `warnings` tells as loading would. */
  readonly fits: 'yes' | 'reduced' | 'no';
  readonly warnings: readonly string[];
  /** What makes it fit, or fit whole; each is enough alone, and computed as all of this is. */
  readonly advice: readonly Advice[];
  /** Positions of a sequence. */
  readonly contextSize: number;
  /** Of all sequences together: fewer than contextSize times parallel where memory is short. */
  readonly positions: number;
  readonly parallel: number;
  readonly kv: KvType;
  readonly trainedContext: number;
  /** The largest contextSize, in whole blocks of the cache, that fits with these options, trained for or not; 0 where none does. */
  readonly maxContextSize: number;
}

/**
 * Tells what memory a model takes before it is loaded. Only the header of the file is read, behind an address by ranges; no thread
 * is started.
 *
 * @throws GgufError when the header is broken or not supported, as loadModel does
 * @throws RangeError when an option is out of range
 */
export async function estimate(input: ModelInput, options: EstimateOptions = {}): Promise<MemoryEstimate> {
  checkOptions(options);
  const { backend, threads, tier, revectorize } = options;
  checkAlone(options);
  layOptions(options);
  const source = await openModel(input, { ...options, cache: false });
  try {
    const header = await readHeader(source);
    const config = readConfig(header, source.name, options.activation);
    return estimateOf(source, header, config, backend ?? (await wasmSizing({ threads, tier, revectorize })), options);
  } finally {
    await source.close();
  }
}

/** The same of a header that was read. */
export function estimateOf(
  source: Pick<Source, 'name' | 'size' | 'readSync'>,
  header: GgufHeader,
  config: Config,
  sizing: Sizing,
  options: EstimateOptions = {},
): MemoryEstimate {
  const { limitBytes = sizing.limitBytes } = options;
  if (!(limitBytes > 0)) throw new RangeError(`limitBytes: got ${limitBytes}, expected a number above 0`);
  const { contextOf, ...lay } = layOptions(options);
  const wishes: Wishes = { ...lay, contextSize: contextOf(config), rows: ROWS };
  const { parallel, contextSize } = wishes;
  const needs = needsOf(header, config, sizing, wishes);
  const fit = fitOf(needs, limitBytes, parallel);
  // What does not fit is told as the least that it takes.
  const { screened, blocks, totalBytes, peakBytes } = fit ?? leastOf(needs);
  const warnings: string[] = [];
  if (fit !== undefined && screened !== needs.screen > 0) warnings.push(screenWarning(needs));
  if (fit !== undefined && blocks < needs.blocks * parallel) warnings.push(positionsWarning(blocks, wishes));
  const { availableBytes } = sizing;
  warnings.push(...systemWarnings(totalBytes, blocks * needs.block, availableBytes));
  return {
    file: source.name,
    fileBytes: source.size,
    weightsBytes: needs.layers,
    weightTypes: weightTypes(header, config, sizing, wishes.repack),
    headBytes: needs.head,
    embeddingBytes: needs.embedding,
    screenBytes: screened ? needs.screen : 0,
    kvBytes: blocks * needs.block,
    kvPer1kBytes: (1024 / BLOCK_SIZE) * needs.block,
    workingBytes: needs.working,
    totalBytes,
    hostBytes: hostBytesOf(header, config, sizing, source),
    peakBytes,
    limitBytes,
    availableBytes,
    fits: fit === undefined ? 'no' : isWhole(fit, needs, parallel) ? 'yes' : 'reduced',
    warnings,
    advice: adviceOf(header, config, sizing, wishes, limitBytes),
    contextSize,
    positions: blocks * BLOCK_SIZE,
    kv: wishes.kv,
    parallel,
    trainedContext: config.contextLength,
    maxContextSize: maxContext(header, config, sizing, wishes, limitBytes),
  };
}

function weightTypes(header: GgufHeader, c: Config, sizing: Sizing, repack: 'auto' | 'none'): string {
  const matrices = planTensors(header, c, sizing, repack).filter(({ info }) => /^blk\..*\./.test(info.name));
  const types = matrices
    .filter(({ info }) => info.dims.length > 1)
    .map(({ info, to }) => (to === undefined ? info.type : `${info.type} as ${to.toUpperCase()}`));
  return [...new Set(types)].join(', ');
}

// Of process memory, Node 20, November 2026: 16 to 19 MB with the demo model on one thread, 31 to 33 MB on two; 18 MB of heap and
// arrays for 128,256 tokens in a header of 3.5 MB. Node 24 takes 15 MB a thread, and less than 4 % more of a 2B model in all.

/** Code, its compiler and garbage. */
const ENGINE_BYTES = 16e6;
/** Of each thread, where there are several. */
const THREAD_BYTES = 8e6;
/** Tokenizer and metadata for each byte of the header, nearly all of which is vocabulary. */
const VOCABULARY_FACTOR = 5;

function hostBytesOf(
  header: GgufHeader,
  c: Config,
  { threads = 1, maxRepeats }: Sizing,
  source: Pick<Source, 'readSync'>,
) {
  const table = header.tensors.get('token_embd.weight') as TensorInfo;
  const isCopied = c.headTensor !== table.name && maxRepeats === 1 && source.readSync === undefined;
  const workers = threads === 1 ? 0 : threads;
  return ENGINE_BYTES + THREAD_BYTES * workers + VOCABULARY_FACTOR * header.dataAt + (isCopied ? table.bytes : 0);
}
