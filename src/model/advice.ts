import type { TernaryType } from '../backend/backend.ts';
import type { GgufHeader } from '../gguf/header.ts';
import { blocks as q6k } from '../gguf/layouts/q6_k.ts';
import type { Config } from './config.ts';
import { type Fit, fitOf, isWhole, type Needs, needsOf, type Sizing, type Wishes } from './fit.ts';
import { BLOCK_SIZE } from './kv_cache.ts';
import { planTensors } from './matrices.ts';

/** What to do where memory is short; the model then fits, which has been computed. */
export interface Advice {
  /** "contextSize 2432": what it fits with. */
  readonly text: string;
  /** Options that make it fit, alone or together with a conversion that `text` tells. */
  readonly options: Partial<Pick<Wishes, 'contextSize' | 'parallel' | 'head' | 'kv' | 'repack'>>;
  /** Whether the file has to be converted first. */
  readonly converts: boolean;
}

/** A shorter context is hardly worth a word, where the one that was wished for is twice as long (not tuned). */
const WORTH_POSITIONS = 256;

/** Less of the limit is not worth a conversion (not tuned). */
const WORTH_SHARE = 0.01;

/** Most positions that loadModel takes. */
export const MAX_CONTEXT: number = 1 << 24;

/** The largest context, in whole blocks of the cache and at most `most`, with which a model is loaded so that it is `enough`. */
function largestContext(most: number, enough: (contextSize: number) => boolean): number {
  let [least, beyond] = [0, Math.floor(most / BLOCK_SIZE) + 1];
  while (beyond - least > 1) {
    const blocks = Math.floor((least + beyond) / 2);
    if (enough(blocks * BLOCK_SIZE)) least = blocks;
    else beyond = blocks;
  }
  return least * BLOCK_SIZE;
}

/** The largest context of one sequence that fits into `limit` bytes with these wishes; 0 where none does. */
export function maxContext(header: GgufHeader, c: Config, backend: Sizing, wishes: Wishes, limit: number): number {
  return largestContext(MAX_CONTEXT, (contextSize) => {
    return fitOf(needsOf(header, c, backend, { ...wishes, contextSize }), limit, wishes.parallel) !== undefined;
  });
}

/** The header as it would be with the embedding, and a head of its own, in Q6_K; undefined where that is hardly less. */
function inQ6k(header: GgufHeader, limit: number): GgufHeader | undefined {
  const tensors = new Map(header.tensors);
  let saved = 0;
  for (const name of ['token_embd.weight', 'output.weight']) {
    const info = tensors.get(name);
    if (info === undefined) continue;
    const [cols, rows] = info.dims;
    const bytes = (cols / q6k.weights) * rows * q6k.bytes;
    if (cols % q6k.weights !== 0 || bytes >= info.bytes) return undefined;
    saved += info.bytes - bytes;
    tensors.set(name, { ...info, type: 'Q6_K', bytes });
  }
  if (saved < WORTH_SHARE * limit) return undefined;
  return { ...header, tensors };
}

/**
 * What makes a model fit that does not, or fit as it is wished where something had to be left out. Each is enough alone, the
 * least painful first; where no change alone is, several together are one advice.
 */
export function adviceOf(header: GgufHeader, c: Config, backend: Sizing, wishes: Wishes, limit: number): Advice[] {
  const fits = (options: Partial<Wishes>, of = header): [Fit | undefined, Needs, Wishes] => {
    const changed = { ...wishes, ...options };
    const needs = needsOf(of, c, backend, changed);
    return [fitOf(needs, limit, changed.parallel), needs, changed];
  };
  const isAsWished = ([fit, needs, { parallel }]: ReturnType<typeof fits>) =>
    fit !== undefined && isWhole(fit, needs, parallel);
  const now = fits({});
  if (isAsWished(now)) return [];
  const enough = (options: Partial<Wishes>, of = header) => {
    const then = fits(options, of);
    return now[0] === undefined ? then[0] !== undefined : isAsWished(then);
  };

  const unpacked = planTensors(header, c, backend, wishes.repack).filter(({ to }) => to !== undefined);
  const mayKeep = unpacked.every(({ info }) => backend.computes.includes(info.type.toLowerCase() as TernaryType));
  const less: Advice['options'][] = [
    ...(unpacked.length > 0 && mayKeep ? [{ repack: 'none' } as const] : []),
    ...(wishes.kv === 'f32' ? [{ kv: 'f16' } as const] : []),
    ...(wishes.head === 'auto' && now[1].screen > 0 ? [{ head: 'exact' } as const] : []),
  ];
  const advice: Advice[] = [];
  const add = (options: Advice['options'], isConverted = false) => {
    const told = Object.entries(options).map(
      ([name, value]) => `${name} ${typeof value === 'string' ? `'${value}'` : value}`,
    );
    if (isConverted) told.unshift('a head in Q6_K (ternlm convert --embedding q6_k)');
    advice.push({ text: told.join(' and '), options, converts: isConverted });
  };
  /** The change with the largest context that it makes fit, if any does. */
  const addWith = (options: Advice['options'], of = header, isConverted = false): boolean => {
    if (enough(options, of)) {
      add(options, isConverted);
      return true;
    }
    const contextSize = largestContext(wishes.contextSize - 1, (n) => enough({ ...options, contextSize: n }, of));
    if (contextSize < Math.min(WORTH_POSITIONS, wishes.contextSize / 2)) return false;
    add({ ...options, contextSize }, isConverted);
    return true;
  };

  addWith({});
  for (const options of less) if (enough(options)) add(options);
  for (let parallel = wishes.parallel - 1; parallel > 0; parallel--) {
    if (!enough({ parallel })) continue;
    add({ parallel });
    break;
  }
  const smaller = now[0] === undefined ? inQ6k(header, limit) : undefined;
  if (smaller !== undefined) addWith({}, smaller, true);
  if (advice.length > 0) return advice;
  const together = Object.assign({ parallel: 1 }, ...less);
  if (!addWith(together) && smaller !== undefined) addWith(together, smaller, true);
  return advice;
}
