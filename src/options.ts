import type { KvType } from './backend/backend.ts';
import { MAX_CONTEXT } from './model/advice.ts';
import type { Config } from './model/config.ts';

// The border where options of loading are checked, for loadModel and estimate alike.

/** Most sequences, and most rows that can ask for logits: 0.5 MB each for a vocabulary of 128,256, taken at loading. */
export const MAX_OUTS = 16;

interface Lay {
  readonly parallel: number;
  readonly kv: KvType;
  readonly head: 'auto' | 'exact';
  readonly repack: 'auto' | 'none';
}

/** How a model is to lie in memory: what these options say, checked, or leave open. */
export function layOptions(options: Partial<Lay> & { readonly contextSize?: number | undefined }): Lay & {
  contextOf(config: Pick<Config, 'contextLength'>): number;
} {
  const { contextSize, parallel = 4, kv = 'f16', head = 'auto', repack = 'auto' } = options;
  count('parallel', parallel, MAX_OUTS);
  checkKv(kv);
  checkHead(head);
  checkRepack(repack);
  if (contextSize !== undefined) count('contextSize', contextSize, MAX_CONTEXT);
  return {
    ...{ parallel, kv, head, repack },
    contextOf: ({ contextLength }) => contextSize ?? Math.min(contextLength, 4096),
  };
}

const CPU_OPTIONS = ['threads', 'tier', 'revectorize'] as const;

/** @throws RangeError where options of the CPU are given beside a backend */
export function checkAlone(
  options: Readonly<Partial<Record<'backend' | (typeof CPU_OPTIONS)[number], unknown>>>,
): void {
  const set = CPU_OPTIONS.filter((name) => options[name] !== undefined);
  if (options.backend === undefined || set.length === 0) return;
  throw new RangeError(`${set.join(', ')}: of the CPU, expected only where no backend is given`);
}

/** @throws RangeError */
export function checkKv(type: KvType): void {
  if (type !== 'f16' && type !== 'f32') throw new RangeError(`kv: got '${String(type)}', expected f16 or f32`);
}

function checkHead(head: 'auto' | 'exact'): void {
  if (head !== 'auto' && head !== 'exact') throw new RangeError(`head: got '${String(head)}', expected auto or exact`);
}

function checkRepack(repack: 'auto' | 'none'): void {
  if (repack !== 'auto' && repack !== 'none')
    throw new RangeError(`repack: got '${String(repack)}', expected auto or none`);
}

/** @throws RangeError where `value` is no whole number from `least` to `most` */
export function count(option: string, value: number, most: number, least = 1): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`${option}: got ${value}, expected a whole number from ${least} to ${most}`);
  }
}
