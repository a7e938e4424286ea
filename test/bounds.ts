import type { Activation, TernaryType, WeightType } from '../dist/backend/backend.js';
import { attention } from '../dist/reference/attention.js';
import { decodeRow } from '../dist/reference/decode_row.js';
import { roundTo } from '../dist/reference/dense_linear.js';
import { GUARD, type HostMatrix } from './outcome.js';

// How far a float op of any backend may be from the reference. Bounds are derived from the arithmetic, for any order of
// summation; they belong to the op.

/** Relative error of one rounding to f32. */
export const ULP = 2 ** -24;
/** Relative error that an op's exponential may have. */
export const EXP = 2e-7;

export function isTernary(type: WeightType): type is TernaryType {
  return ['i2_s', 'tl1', 'tl2', 'tq1_0', 'tq2_0'].includes(type);
}

/**
 * |y - W x| of two backends: none for integers; cols roundings of sums, one of each product, one at the end otherwise. Decoding
 * a weight is exact in every type.
 */
export function linearBound({ type, rows, cols, bytes }: HostMatrix, x: Float32Array): Float64Array {
  if (isTernary(type)) return new Float64Array(rows);
  const seen = roundTo(type, x);
  const bound = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    const w = decodeRow(type, bytes, i, cols);
    for (let k = 0; k < cols; k++) bound[i] += Math.abs(w[k] * seen[k]);
    bound[i] *= (cols + 2) * ULP;
  }
  return bound;
}

/** Bounds of a whole output [rows][...], guard included, from those of its rows. */
export function boundsOf(rows: number, each: (row: number) => Float64Array): Float64Array {
  const all: number[] = [];
  for (let i = 0; i < rows; i++) all.push(...each(i));
  return Float64Array.from([...all, ...new Array(GUARD / 4).fill(0)]);
}

/**
 * |act(g) u| of two backends whose g and u differ by dg and du. relu2 of equal g is rounded alike, twice. silu and gelu: the
 * exponential's error, three roundings of the backend (1 + e, quotient, product) and two of the reference; an exponential
 * may stop growing at e^88, the end of f32, which leaves |g| e^-88 where there should be less.
 */
export function gluBound(
  activation: Activation,
  g: Float32Array,
  u: Float32Array,
  dg: Float64Array,
  du: Float64Array,
): Float64Array {
  return dg.map((d, i) => {
    const [gi, ui] = [Math.abs(g[i]), Math.abs(u[i]) + du[i]];
    if (activation === 'relu2') {
      const act = Math.max(g[i], 0) ** 2;
      const roundings = d + du[i] > 0 ? 4 * ULP * act * ui : 0;
      return (2 * gi * d + d * d) * ui + act * du[i] + roundings;
    }
    // gelu is g / (1 + e^x) with x of five roundings, which move the exponential by a factor e^(5 ULP |x|). The slope of
    // silu is at most 1.1, that of gelu 1.13; where x is off by more than 1 both sides are next to 0.
    const x = activation === 'silu' ? -g[i] : -2 * Math.sqrt(2 / Math.PI) * (g[i] + 0.044715 * g[i] ** 3);
    const act = Math.abs(g[i] / (1 + Math.exp(x)));
    const exponent = activation === 'silu' ? 0 : Math.expm1(Math.min(5 * ULP * Math.abs(x), 1));
    const roundings = EXP + exponent + 5 * ULP;
    return 1.13 * d * ui + act * du[i] + roundings * act * ui + gi * Math.exp(-88) * ui;
  });
}

/**
 * |rope(x)| of two backends: two products and a sum, each rounded or fused, on both sides. |cos| and |sin| are at most 1.
 */
export function ropeBound(x: Float32Array, headDim: number, ropeDim: number, style: 'neox' | 'norm'): Float64Array {
  const bound = new Float64Array(x.length);
  for (let head = 0; head < x.length; head += headDim) {
    for (let i = 0; i < ropeDim / 2; i++) {
      const a = head + (style === 'neox' ? i : 2 * i);
      const b = style === 'neox' ? a + ropeDim / 2 : a + 1;
      bound[a] = 4 * ULP * (Math.abs(x[a]) + Math.abs(x[b]));
      bound[b] = bound[a];
    }
  }
  return bound;
}

/** Widths of an attention. */
export interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ropeDim: number;
  readonly ropeStyle: 'neox' | 'norm';
}

/**
 * |attention| of a backend in f32 against f64. A score differs by D: the rotation's dq, headDim sums and products, scaling
 * and subtraction of the maximum. So a weight e^s / sum e^s is off by a factor e^(2 D).
 *
 * A backend may go over the positions once, in steps of any size: the largest score so far then grows up to count - 1 times,
 * and all sums so far are multiplied by e^(before - after). The differences add up to that from the last maximum, so their
 * roundings are within D; but above and below the line there are up to `count` exponentials, each with its error, and
 * `count` products beside `count` sums, each rounded. Six more roundings: the product with the value, the inverse of the sum
 * twice (f64 to f32), its product with a weight and with such a factor, the reference's own.
 */
export function attentionBound(
  q: Float32Array,
  dq: Float64Array,
  keys: Float32Array,
  values: Float32Array,
  { heads, kvHeads, headDim }: HeadShape,
): Float64Array {
  const kvDim = kvHeads * headDim;
  const count = keys.length / kvDim;
  const spread = attention(q, keys, values.map(Math.abs), heads, kvHeads, headDim);
  const largest = values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const bound = new Float64Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    const kvAt = Math.floor((head * kvHeads) / heads) * headDim;
    let off = 0;
    for (let t = 0; t < count; t++) {
      let [sum, rotation] = [0, 0];
      for (let d = 0; d < headDim; d++) {
        const key = Math.abs(keys[t * kvDim + kvAt + d]);
        sum += Math.abs(q[head * headDim + d]) * key;
        rotation += dq[head * headDim + d] * key;
      }
      off = Math.max(off, (rotation + (headDim + 6) * ULP * sum) / Math.sqrt(headDim));
    }
    const factor = Math.expm1(2 * off) + 2 * count * EXP + (4 * count + 6) * ULP;
    for (let d = 0; d < headDim; d++) {
      // Weights below e^-87 may be 0.
      bound[head * headDim + d] = factor * spread[head * headDim + d] + count * Math.exp(-87) * largest;
    }
  }
  return bound;
}
