import type { Random } from './random.js';

/** Rows of logits of every kind that a sampler may meet. */
export const LOGITS: Record<string, (r: Random, vocab: number) => Float32Array> = {
  normal: (r, vocab) => r.normal(vocab, 3),
  peaked: (r, vocab) => r.normal(vocab, 2).map((v) => (r.below(100) === 0 ? v + 9 : v)),
  flat: (r, vocab) => r.normal(vocab, 1e-3),
  ties: (r, vocab) => r.normal(vocab, 2).map((v) => Math.round(v)),
  equal: (r, vocab) => new Float32Array(vocab).fill(r.below(3) - 1),
  rising: (_, vocab) => Float32Array.from({ length: vocab }, (_, i) => (8 * i) / vocab - 12),
  huge: (r, vocab) => r.normal(vocab, 1e38),
  zeros: (r, vocab) => Float32Array.from({ length: vocab }, () => [0, -0, 1e-40, -1e-40][r.below(4)]),
  broken: (r, vocab) => {
    const broken = [Number.NaN, -Number.NaN, Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
    return r.normal(vocab, 3).map((v) => broken[r.below(6)] ?? v);
  },
  infinite: (r, vocab) => r.normal(vocab).map((v) => (r.below(20) === 0 ? Number.POSITIVE_INFINITY : v)),
};

export function oneOf<V>(r: Random, values: readonly V[]): V {
  return values[r.below(values.length)];
}
