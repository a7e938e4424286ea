import { host } from '#host';
import type { Backend, BackendLostError, KvType, Tensor } from './backend/backend.ts';
import { type WasmOptions, wasmBackend } from './backend/wasm/backend.ts';
import type { Tier } from './backend/wasm/tier.ts';
import { createEngine, type Device, type Engine, isLost } from './engine/engine.ts';
import { ROWS, type Subject } from './evaluate.ts';
import { GgufError } from './gguf/error.ts';
import type { GgufHeader } from './gguf/header.ts';
import type { Source } from './gguf/source.ts';
import { adviceOf } from './model/advice.ts';
import type { Config } from './model/config.ts';
import {
  fitOf,
  needsOf,
  needsText,
  positionsWarning,
  type Sizing,
  screenWarning,
  stepLimits,
  systemWarnings,
  type Wishes,
} from './model/fit.ts';
import { createKvCache, type KvBlocks, kvBlockBytes, kvBlocksOf } from './model/kv_cache.ts';
import { createStepper } from './model/step.ts';
import { type LoadedWeights, type LoadOptions, loadWeights } from './model/weights.ts';

/** What of a model lies on a backend. */
export interface Placed<T extends Tensor = Tensor> {
  readonly backend: Backend<T>;
  readonly weights: LoadedWeights<T>;
  readonly head: 'auto' | 'exact';
  /** What generates; none of an embedding model. */
  readonly device: Device<T> | undefined;
  /** Bytes of a full cache. */
  readonly kvBytes: number;
  readonly warnings: readonly string[];
  /** Of the CPU backend. */
  readonly tier?: Tier;
  readonly threads?: number;
}

/** How a model is to lie there. */
interface LayOptions extends LoadOptions {
  readonly head: 'auto' | 'exact';
  readonly repack: 'auto' | 'none';
  readonly kv: KvType;
  readonly contextSize: number;
  readonly parallel: number;
}

export interface PlaceOptions extends LayOptions {
  /** The backend, or what opens it; without one the CPU computes. */
  readonly backend: Backend | (() => Promise<Backend>) | undefined;
  /** Whether the CPU takes over where that fails or is lost later. */
  readonly fallback: boolean;
  readonly cpu: WasmOptions;
}

/** A model on the backend that it has now, which it owns. */
export interface Placement {
  readonly placed: Placed;
  /** None of an embedding model. */
  readonly engine: Engine | undefined;
  /** Work beside the engine, on the backend of now; it fails where that is lost meanwhile. */
  beside<R>(work: (on: Subject) => Promise<R>): Promise<R>;
  /** Ends what runs with `reason` and frees everything. Reading has to be aborted before. */
  dispose(reason: Error): Promise<void>;
}

/**
 * Brings a checked file onto a backend, which it owns from the call on.
 *
 * @throws GgufError when the file's tensors are broken
 * @throws RangeError when memory does not suffice
 * @throws what opening the backend throws; it is disposed of
 */
export async function placeModel(
  source: Source,
  header: GgufHeader,
  config: Config,
  options: PlaceOptions,
): Promise<Placement> {
  const { backend: given, fallback, cpu } = options;

  async function onCpu(why: string[], placing: LayOptions): Promise<Placed> {
    const backend = await wasmBackend(cpu);
    const { warnings, ...placed } = await placeOn<Tensor>(backend, source, header, config, placing);
    const { tier, threads, whyFewer } = backend;
    const notes = whyFewer === undefined ? why : [...why, `one thread: ${whyFewer}`];
    return { ...placed, warnings: [...notes, ...warnings], tier, threads };
  }

  async function onGiven(): Promise<Placed> {
    if (given === undefined) return onCpu([], options);
    try {
      const backend = typeof given === 'function' ? await given() : given;
      checkBackend(backend);
      return await placeOn(backend, source, header, config, options);
    } catch (error) {
      // A broken file is broken for the CPU as well; where an option is wrong the CPU says so.
      if (!fallback || error instanceof GgufError || options.signal?.aborted) throw error;
      return onCpu([`the CPU computes: ${error instanceof Error ? error.message : error}`], options);
    }
  }

  let placed = await onGiven();
  /** Where the model lies, or will when it has moved. */
  let place: Promise<Placed> = Promise.resolve(placed);
  /** Why it was disposed of. */
  let gone: Error | undefined;

  /** From a lost backend to the CPU. */
  async function move(error: BackendLostError): Promise<Placed> {
    const { backend } = placed;
    await backend.dispose();
    // Nobody waits for it with a bar.
    placed = await onCpu([`the CPU took over from ${backend.name}: ${error.message}`], {
      ...options,
      onProgress: undefined,
    });
    return placed;
  }
  function leave(error: BackendLostError): Promise<Placed> {
    place = move(error);
    return place;
  }
  const recover = async (error: BackendLostError) => (await leave(error)).device as Device;
  const engine = placed.device && createEngine(placed.device, fallback ? recover : undefined, host.turn);

  return {
    get placed() {
      return placed;
    },
    engine,
    async beside(work) {
      const here = place;
      const { backend, weights } = await here;
      try {
        return await work({ backend, config, weights });
      } catch (error) {
        if (gone !== undefined && isLost(error)) throw gone;
        if (fallback && isLost(error) && here === place) {
          if (engine !== undefined) engine.lose(error);
          else leave(error).catch(() => {}); // the next one who asks hears of it
        }
        throw error;
      }
    },
    async dispose(reason) {
      gone = reason;
      await engine?.close(reason);
      // A move that failed has left nothing.
      await place.then(
        ({ backend }) => backend.dispose(),
        () => {},
      );
    },
  };
}

/** @throws TypeError where it is none, which only a caller without types can do */
export function checkBackend(backend: Backend): void {
  if (typeof backend?.record === 'function') return;
  throw new TypeError(`backend: got ${String(backend)}, expected a Backend or a function that opens one`);
}

/** Brings weights, and a cache and working memory for `parallel` sequences, onto a backend, which is disposed of where that fails. */
async function placeOn<T extends Tensor>(
  backend: Backend<T>,
  source: Source,
  header: GgufHeader,
  config: Config,
  options: LayOptions,
): Promise<Placed<T>> {
  const { head: wished, repack, kv: kvType, contextSize, parallel } = options;
  const warnings: string[] = [];
  try {
    const wishes = { head: wished, repack, kv: kvType, contextSize, parallel, rows: ROWS };
    const needs = needsOf(header, config, backend, wishes);
    const fit = fitOf(needs, backend.limitBytes, parallel);
    if (fit === undefined) throw refusal(source.name, header, config, backend, wishes);
    const head = needs.screen > 0 && !fit.screened ? 'exact' : wished;
    if (head !== wished) warnings.push(screenWarning(needs));
    const { availableBytes }: Sizing = backend;
    warnings.push(...systemWarnings(fit.totalBytes, fit.blocks * needs.block, availableBytes));
    const weights = await loadWeights(backend, source, header, config, { ...options, head });
    warnings.push(...weights.warnings);
    if (config.headTensor === undefined) return { backend, weights, head, device: undefined, kvBytes: 0, warnings };
    const device = openDevice(backend, config, weights, wishes, fit.blocks);
    // A GPU tells late that it had not the memory: now rather than at the first token.
    await backend.read(device.kv.cache.tables, 0, new Uint8Array(4));
    const { blocks } = device.kv;
    if (blocks < kvBlocksOf(contextSize) * parallel) warnings.push(positionsWarning(blocks, wishes));
    // Some backends gain nothing from a screen and have none.
    const screened = weights.screen === undefined ? 'exact' : head;
    return { backend, weights, head: screened, device, kvBytes: blocks * kvBlockBytes(config, kvType), warnings };
  } catch (error) {
    await backend.dispose();
    throw error;
  }
}

/** @returns what takes how much, and what would fit; of a model that `fitOf` has no place for */
function refusal(file: string, header: GgufHeader, config: Config, backend: Sizing, wishes: Wishes): RangeError {
  const { limitBytes: limit } = backend;
  const text = needsText(needsOf(header, config, backend, wishes), wishes.contextSize, limit);
  const advice = adviceOf(header, config, backend, wishes, limit).map(({ text }) => text);
  const how = advice.length === 0 ? '' : `; it fits with ${advice.join(', or with ')}`;
  return new RangeError(`${file}: does not fit: ${text}${how}`);
}

/** Cache of `most` blocks and working memory; fewer blocks where the system gives less than its limit, but one full context. */
function openDevice<T extends Tensor>(
  backend: Backend<T>,
  config: Config,
  weights: LoadedWeights<T>,
  wishes: Wishes,
  most: number,
): Device<T> {
  const { kv: type, contextSize, parallel } = wishes;
  const least = kvBlocksOf(contextSize);
  for (let blocks = most; ; blocks = Math.max(least, blocks - Math.ceil(least / 8))) {
    let kv: KvBlocks<T> | undefined;
    try {
      kv = createKvCache(backend, config, type, contextSize, parallel, blocks);
      return { kv, stepper: createStepper(backend, config, weights, kv, stepLimits(wishes)) };
    } catch (error) {
      kv?.dispose();
      if (!(error instanceof RangeError)) throw error;
      if (blocks > least) continue;
      throw new RangeError(`contextSize: ${contextSize} positions do not fit; ${error.message}`, { cause: error });
    }
  }
}
