import type { Backend } from './backend/backend.ts';
import { wasmSizing } from './backend/wasm/backend.ts';
import { ROWS } from './evaluate.ts';
import type { GgufHeader, TensorInfo } from './gguf/header.ts';
import { readHeader } from './gguf/header.ts';
import { openSource } from './gguf/source.ts';
import { type LoadModelOptions, layOptions } from './load_model.ts';
import { type Advice, adviceOf, maxContext } from './model/advice.ts';
import { type Config, readConfig } from './model/config.ts';
import { fitOf, needsOf, positionsWarning, type Sizing, screenWarning, type Wishes } from './model/fit.ts';
import { BLOCK_SIZE } from './model/kv_cache.ts';

export interface EstimateOptions
  extends Pick<
    LoadModelOptions,
    | ('contextSize' | 'parallel' | 'kv' | 'head' | 'repack' | 'activation' | 'signal')
    | ('threads' | 'tier' | 'revectorize')
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
  /** The output head; 0 of an embedding model. */
  readonly headBytes: number;
  /** The embedding table, where the backend holds it and it is not the head as well. */
  readonly embeddingBytes: number;
  /** The copy that the head is screened with (`head: 'auto'`); 0 where there is none. */
  readonly screenBytes: number;
  /** Keys and values of `positions`. The CPU takes them from the system as they fill. */
  readonly kvBytes: number;
  /** Keys and values of 1024 positions, and their angles. */
  readonly kvBytesPer1k: number;
  /** What a step computes in. */
  readonly workingBytes: number;
  /** All of the above: `info.memoryBytes` of the loaded model. */
  readonly totalBytes: number;
  /** Most that is allocated at a time, while it is loaded or while it generates. */
  readonly peakBytes: number;
  /** Most that the backend can have, or the option. */
  readonly limitBytes: number;
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
  readonly trainedContext: number;
  /** The largest contextSize that fits with these options, trained for or not; 0 where none does. */
  readonly maxContextSize: number;
}

/**
 * Tells what memory a model takes before it is loaded. Only the header of the file is read, behind an address by ranges; no thread
 * is started.
 *
 * @throws GgufError when the header is broken or not supported, as loadModel does
 * @throws RangeError when an option is out of range
 */
export async function estimate(
  input: Parameters<typeof openSource>[0],
  options: EstimateOptions = {},
): Promise<MemoryEstimate> {
  const { backend, signal, threads, tier, revectorize } = options;
  layOptions(options, undefined);
  const source = await openSource(input, { signal });
  try {
    const header = await readHeader(source);
    const config = readConfig(header, source.name, options.activation);
    const sizing = backend ?? (await wasmSizing({ threads, tier, revectorize }));
    return estimateOf(source.name, header, config, sizing, options);
  } finally {
    await source.close();
  }
}
