import type { Backend, KvType, Tensor } from './backend/backend.ts';
import type { Device } from './engine/engine.ts';
import { ROWS } from './evaluate.ts';
import type { GgufHeader } from './gguf/header.ts';
import type { Source } from './gguf/source.ts';
import type { Config } from './model/config.ts';
import { fitOf, needsOf } from './model/fit.ts';
import { createKvCache, type KvBlocks, kvBlockBytes, kvBlocksOf } from './model/kv_cache.ts';
import { createStepper, type StepLimits } from './model/step.ts';
import { type LoadedWeights, type LoadOptions, loadWeights } from './model/weights.ts';
import { paramsBytes } from './sampler.ts';

/** What of a model lies on a backend. */
export interface Loaded<T extends Tensor = Tensor> {
  readonly backend: Backend<T>;
  readonly weights: LoadedWeights<T>;
  readonly head: 'auto' | 'exact';
  /** What generates; none of an embedding model. */
  readonly device: Device<T> | undefined;
  /** Bytes of a full cache. */
  readonly kvBytes: number;
  readonly warnings: readonly string[];
}

/** How a model is to lie there. */
export interface Placing extends LoadOptions {
  readonly head: 'auto' | 'exact';
  readonly repack: 'auto' | 'none';
  readonly kv: KvType;
  readonly contextSize: number;
  readonly parallel: number;
}

/**
 * Brings a checked file onto a backend: its weights, and a cache and working memory for `parallel` sequences. What was
 * allocated when it throws goes with the backend.
 *
 * @throws GgufError when the file's tensors are broken
 * @throws RangeError when memory does not suffice
 */
export async function loadOn<T extends Tensor>(
  backend: Backend<T>,
  source: Source,
  header: GgufHeader,
  config: Config,
  placing: Placing,
): Promise<Loaded<T>> {
  const { head: wished, repack, kv: kvType, contextSize, parallel } = placing;
  const warnings: string[] = [];
  const wishes = { head: wished, repack, kv: kvType, contextSize, rows: ROWS, outs: parallel };
  const needs = needsOf(header, config, backend, wishes);
  const fits = fitOf(source.name, config, needs, backend.limitBytes, contextSize);
  const head = fits === 'all' ? wished : 'exact';
  if (head !== wished) {
    const bytes = `${(needs.screen / 1e9).toFixed(2)} GB`;
    warnings.push(`head: exact, since memory does not hold the copy of ${bytes} that would make it faster`);
  }
  const weights = await loadWeights(backend, source, header, config, { ...placing, head });
  warnings.push(...weights.warnings);
  if (config.headTensor === undefined) return { backend, weights, head, device: undefined, kvBytes: 0, warnings };
  const limits = { maxRows: ROWS, maxOuts: parallel, paramsStride: paramsBytes(contextSize + 1) };
  const device = openDevice(backend, config, weights, kvType, contextSize, limits);
  const { kv } = device;
  if (kv.blocks < kvBlocksOf(contextSize) * parallel) {
    const positions = kv.blocks * kv.cache.blockSize;
    warnings.push(`memory holds ${positions} positions in all, not ${contextSize} for each of ${parallel} sequences`);
  }
  return { backend, weights, head, device, kvBytes: kv.blocks * kvBlockBytes(config, kvType), warnings };
}

/** Cache and working memory for `limits.maxOuts` sequences; fewer blocks where memory is short, but one full context. */
function openDevice<T extends Tensor>(
  backend: Backend<T>,
  config: Config,
  weights: LoadedWeights<T>,
  type: KvType,
  contextSize: number,
  limits: StepLimits,
): Device<T> {
  const least = kvBlocksOf(contextSize);
  for (let blocks = least * limits.maxOuts; ; blocks = Math.max(least, blocks - Math.ceil(least / 8))) {
    let kv: KvBlocks<T> | undefined;
    try {
      kv = createKvCache(backend, config, type, contextSize, limits.maxOuts, blocks);
      return { kv, stepper: createStepper(backend, config, weights, kv, limits) };
    } catch (error) {
      kv?.dispose();
      if (!(error instanceof RangeError)) throw error;
      if (blocks > least) continue;
      throw new RangeError(`contextSize: ${contextSize} positions do not fit; ${error.message}`, { cause: error });
    }
  }
}
