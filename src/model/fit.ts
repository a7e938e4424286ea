import type { Backend, KvType } from '../backend/backend.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { paramsBytes } from '../sampler.ts';
import type { Config } from './config.ts';
import { BLOCK_SIZE, kvBlockBytes, kvBlocksOf, kvTableBytes } from './kv_cache.ts';
import { planTensors } from './matrices.ts';
import { programBytes, type StepLimits, stepBytes } from './step.ts';
import { screenScratchBytes } from './weights.ts';

/** What sizes hang on of a backend, which need not be open for it. */
export type Sizing = Pick<
  Backend,
  'computes' | 'repacks' | 'limitBytes' | 'maxRepeats' | 'scratchBytes' | 'screenBytes'
> & {
  /** Of the CPU. */
  readonly threads?: number;
  readonly availableBytes?: number | undefined;
};

/** How a model is to lie on a backend. */
export interface Wishes {
  readonly head: 'auto' | 'exact';
  readonly repack: 'auto' | 'none';
  readonly kv: KvType;
  readonly contextSize: number;
  readonly parallel: number;
  /** Of a step. */
  readonly rows: number;
}

/** What a model takes of a backend's memory, in bytes, as it is allocated: each tensor in whole pieces of 64. */
export interface Needs {
  /** Matrices and norms outside the head, as they are computed with. */
  readonly layers: number;
  readonly head: number;
  /** The embedding table, where it has to be there and is not the head as well. */
  readonly embedding: number;
  /** The copy that the head is screened with, and its bounds in a step; 0 where there is none. */
  readonly screen: number;
  /** Keys and values of `contextSize` positions: of so many blocks, each of so many bytes. */
  readonly blocks: number;
  readonly block: number;
  /** A step's tensors, and the cache's tables. */
  readonly working: number;
  /** Beside the weights while they are loaded: the largest matrix before it is repacked, scratch of building a screen. */
  readonly loading: number;
  /** Beside all of it later: programs; of an embedding model what one text of `contextSize` tokens takes, up to all of them. */
  readonly running: number;
}

/** What one step takes at a time, of a model that is to generate. */
export function stepLimits({ rows, parallel, contextSize }: Wishes): StepLimits {
  return { maxRows: rows, maxOuts: parallel, paramsStride: paramsBytes(contextSize + 1) };
}

/** Backends allocate in pieces of 64 bytes, or smaller ones. */
const taken = (bytes: number) => Math.ceil(Math.max(1, bytes) / 64) * 64;
const sum = (all: Iterable<number>) => [...all].reduce((a, b) => a + b, 0);

/** What a model will take, before anything but its header is read. */
export function needsOf(header: GgufHeader, c: Config, backend: Sizing, wishes: Wishes): Needs {
  const { head, repack, kv, contextSize, parallel, rows } = wishes;
  const planned = planTensors(header, c, backend, repack);
  const table = header.tensors.get('token_embd.weight') as TensorInfo;
  const isThere = planned.some(({ info }) => info === table);
  const bytesOf = (wanted: (name: string) => boolean) =>
    sum(planned.filter(({ info }) => wanted(info.name)).map(({ bytes }) => taken(bytes)));
  const isHead = (name: string) => name === c.headTensor;
  const isTable = (name: string) => name === table.name && !isHead(name);

  const generates = c.headTensor !== undefined;
  // An embedding model has neither cache nor step until it is asked; then logits are hidden states, and all rows may be wanted.
  const limits = generates ? stepLimits(wishes) : { maxRows: rows, maxOuts: rows, paramsStride: 64 };
  const blocks = kvBlocksOf(contextSize);
  const { staged, lower, ...always } = stepBytes(backend, c, blocks * BLOCK_SIZE, table.bytes / table.dims[1], limits);
  const step =
    sum(Object.values(always).map(taken)) + (isThere ? 0 : taken(staged)) + taken(kvTableBytes(contextSize, parallel));
  const copy = generates && head === 'auto' ? backend.screenBytes(c.vocab, c.dim) : 0;
  const beforeRepacked = planned.map(({ info, to }) => (to === undefined ? 0 : taken(info.bytes)));
  const block = kvBlockBytes(c, kv);
  return {
    layers: bytesOf((name) => !isHead(name) && !isTable(name)),
    head: bytesOf(isHead),
    embedding: bytesOf(isTable),
    screen: copy === 0 ? 0 : taken(copy) + taken(lower),
    blocks: generates ? blocks : 0,
    block,
    working: generates ? step : 0,
    loading:
      Math.max(0, ...beforeRepacked) +
      (copy === 0 ? 0 : taken(screenScratchBytes(backend, c.dim))) +
      64 * planned.length + // programs that check and repack,
      c.vocab / 16, // and one that builds the screen
    running: generates ? programBytes(c) : programBytes(c) + step + blocks * block,
  };
}

/** How a model lies in a memory that may not hold all that is wished. */
export interface Fit {
  /** Whether the copy that the head is screened with is there. */
  readonly screened: boolean;
  /** Of the cache, for all sequences together. */
  readonly blocks: number;
  /** What is allocated when the model is loaded. */
  readonly totalBytes: number;
  /** What is allocated at most, now or then. */
  readonly peakBytes: number;
}

/** With the screen, or without, which costs speed and no tokens; then as many blocks as there is room for. */
function fitted(needs: Needs, limit: number, parallel: number, screen: number): Fit | undefined {
  const { layers, head, embedding, blocks: least, block, working, loading, running } = needs;
  const weights = layers + head + embedding + screen;
  const room = limit - weights - working - running;
  const blocks = least === 0 ? 0 : Math.min(least * parallel, Math.floor(room / block));
  if (room < 0 || blocks < least || weights + loading > limit) return undefined;
  const totalBytes = weights + working + blocks * block;
  return { screened: screen > 0, blocks, totalBytes, peakBytes: Math.max(weights + loading, totalBytes + running) };
}

/**
 * How a model fits into `limit` bytes: as it is wished, or without the screen, or with fewer positions than `parallel` whole
 * contexts, but one of them at least; undefined where that is too much.
 */
export function fitOf(needs: Needs, limit: number, parallel: number): Fit | undefined {
  return fitted(needs, limit, parallel, needs.screen) ?? fitted(needs, limit, parallel, 0);
}

/** The least that a model takes, whether it fits or not. */
export function leastOf(needs: Needs): Fit {
  return fitted(needs, Number.POSITIVE_INFINITY, 1, 0) as Fit;
}

/** Whether nothing had to be left out. */
export function isWhole(fit: Fit, needs: Needs, parallel: number): boolean {
  return fit.screened === needs.screen > 0 && fit.blocks === needs.blocks * parallel;
}

/** What `fitOf` had to leave out, for people. */
export function screenWarning({ screen }: Needs): string {
  return `head: exact: memory does not hold the copy of ${size(screen)} that makes it faster`;
}

export function positionsWarning(blocks: number, { contextSize, parallel }: Pick<Wishes, 'contextSize' | 'parallel'>) {
  return `memory holds ${blocks * BLOCK_SIZE} positions in all, not ${contextSize} for each of ${parallel} sequences`;
}

/**
 * Where the system has less left than all takes: no reason to refuse, since the cache is taken as it fills, and a system may
 * swap, drop what it caches, or get memory back from others; but it may as well end the process.
 */
export function systemWarnings(totalBytes: number, kvBytes: number, available: number | undefined): string[] {
  if (available === undefined || totalBytes <= available) return [];
  const takes = `the model takes ${size(totalBytes - kvBytes)}, and ${size(kvBytes)} more as its cache fills`;
  return [`memory: the system has ${size(available)} left; ${takes}`];
}

/** What takes how much, of a model that does not fit. */
export function needsText(needs: Needs, contextSize: number, limit: number): string {
  const { layers, head, embedding, blocks, block, working, running } = needs;
  const parts: [string, number][] = [
    ['layers', layers],
    ['head', head],
    ['embedding', embedding],
    [`cache of ${contextSize} positions`, blocks * block],
    ['working memory', working + running],
  ];
  const all = sum(parts.map(([, bytes]) => bytes));
  const listed = parts.filter(([, bytes]) => bytes > 0).map(([name, bytes]) => `${name} ${size(bytes)}`);
  return `${listed.join(', ')}: ${size(all)} of at most ${size(limit)}`;
}

export function size(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(2)} MB`;
}
