// BitNet b1.58's weights (arXiv 2402.17764): scale = mean |W|, w = W / scale rounded to the nearest of -1, 0 and 1.
import type { Ternary } from '../gguf/layouts/ternary.ts';
import { ConvertError } from './error.ts';

/** A matrix of floats that is read by rows. */
export interface Floats {
  readonly rows: number;
  readonly cols: number;
  /** For messages: file and tensor. */
  readonly where: string;
  /** Zeros that pruning made have no part in the mean. */
  readonly isPruned?: boolean;
  /** [cols]; the next call may overwrite it. */
  row(index: number): Float32Array;
}

/** Blocks with a scale of their own are whole blocks of TQ1_0 and TQ2_0. */
const SCALE_WEIGHTS = 256;
/** The reference's floor for a scale. */
const LEAST_SCALE = 1e-5;

/**
 * A matrix that is ternary already, every value -s, 0 or s: its weights and s (1 where all are 0). Else undefined, soon.
 * @throws ConvertError on a value that is infinite or NaN
 */
export function asTernary(w: Floats): Ternary | undefined {
  let scale = 0;
  for (let r = 0; r < w.rows; r++) {
    const row = w.row(r);
    for (let i = 0; i < row.length; i++) {
      const size = Math.abs(row[i]);
      if (size === scale || size === 0) continue;
      if (scale !== 0) return undefined;
      scale = size;
    }
  }
  if (!(scale < Infinity)) throw notFinite(w, scale);
  if (scale === 0) scale = 1;
  const weights = new Int8Array(w.rows * w.cols);
  const lastZero = lastZeroOf(scale);
  for (let r = 0; r < w.rows; r++) round(w.row(r), lastZero, weights, r * w.cols);
  return { weights, scales: Float32Array.of(scale) };
}

/** Sums over weights that were rounded, h being the importance of their column. */
export interface RoundingError {
  /** h w^2. */
  readonly power: number;
  /** h (w - s t)^2 with the scale and codes of the absmean. */
  readonly absmean: number;
  /** With those that were taken. */
  readonly taken: number;
}

/** A matrix that was rounded; `error` where it was by importance. */
export interface Rounded extends Ternary {
  readonly error?: RoundingError;
}

/**
 * Rounds a matrix to ternary weights with one scale, or with one for each `block` weights (a multiple of 256 that divides a
 * row), which is given as often as there are 256 weights.
 *
 * The scale is the mean in f64, rounded to f32; torch adds up in f32, in an order of its own, so the last bit may differ. As
 * there, W is multiplied by the scale's reciprocal, and 0.5 goes to 0.
 *
 * @param importance [cols], finite and not negative: scale s and weights t are then those with the smallest sum of
 * importance * (w - s t)^2
 * @throws ConvertError on a value that is infinite or NaN
 */
export function quantize(w: Floats, block?: number, importance?: Float32Array): Rounded {
  const weights = new Int8Array(w.rows * w.cols);
  const search = importance && createSearch();
  const error = search?.error;
  const ruleOf = (part: Floats, from: number) =>
    search === undefined
      ? absmean(part)
      : search.best(part, (importance as Float32Array).subarray(from, from + part.cols));
  if (block === undefined) {
    const { scale, lastZero } = ruleOf(w, 0);
    for (let r = 0; r < w.rows; r++) round(w.row(r), lastZero, weights, r * w.cols);
    return { weights, scales: Float32Array.of(scale), error };
  }
  const scales = new Float32Array(weights.length / SCALE_WEIGHTS);
  for (let r = 0; r < w.rows; r++) {
    const row = w.row(r);
    for (let from = 0; from < w.cols; from += block) {
      const at = r * w.cols + from;
      const values = row.subarray(from, from + block);
      const { scale, lastZero } = ruleOf({ ...w, rows: 1, cols: block, row: () => values }, from);
      scales.fill(scale, at / SCALE_WEIGHTS, (at + block) / SCALE_WEIGHTS);
      round(values, lastZero, weights, at);
    }
  }
  return { weights, scales, error };
}

/** scale * w as floats. */
export function scaled({ weights, scales }: Ternary, cols: number, where: string): Floats {
  const width = weights.length / scales.length;
  const values = new Float32Array(cols);
  const row = (r: number) => {
    for (let i = 0, at = r * cols; i < cols; i++, at++) values[i] = weights[at] * scales[Math.floor(at / width)];
    return values;
  };
  return { rows: weights.length / cols, cols, where, row };
}

/** How weights become ternary: those up to a size become 0, the others -scale or scale. */
interface Rule {
  readonly scale: number;
  /** Bits of the largest f32 that becomes 0. */
  readonly lastZero: number;
}

/** BitNet's: the mean size, of what is not 0 where weights were pruned; 0 below half of it. */
function absmean(w: Floats): Rule {
  let sum = 0;
  let zeros = 0;
  for (let r = 0; r < w.rows; r++) {
    const row = w.row(r);
    for (let i = 0; i < row.length; i++) {
      sum += Math.abs(row[i]);
      zeros += +(row[i] === 0);
    }
  }
  const count = w.rows * w.cols - (w.isPruned ? zeros : 0);
  const mean = sum / Math.max(1, count);
  if (!(mean < Infinity)) throw notFinite(w, mean);
  const scale = Math.fround(Math.max(mean, LEAST_SCALE));
  return { scale, lastZero: lastZeroOf(scale) };
}

/** Sizes are told apart as BF16 tells them: all of its weights, and others to 0.8 %. */
const SIZE_SHIFT = 16;

interface Search {
  /** Over all parts so far. */
  readonly error: RoundingError;
  best(w: Floats, importance: Float32Array): Rule;
}

/**
 * With the scale s, w is best 0 where |w| < s / 2, whatever its importance h: the best weights are those of some threshold.
 * With a = sum h |w| and b = sum h over the sizes above it the best scale is a / b, and sum h (w - s t)^2 = sum h w^2 - a^2 / b.
 */
function createSearch(): Search {
  const sums = new Float64Array(2 ** (31 - SIZE_SHIFT));
  const counts = new Float64Array(sums.length);
  const error = { power: 0, absmean: 0, taken: 0 };
  return {
    error,
    best(w, importance) {
      const plain = absmean(w);
      let [power, a0, b0, lowest, highest] = [0, 0, 0, sums.length, 0];
      for (let r = 0; r < w.rows; r++) {
        const row = w.row(r);
        const bits = new Int32Array(row.buffer, row.byteOffset, row.length);
        for (let i = 0; i < row.length; i++) {
          const size = bits[i] & 0x7fffffff;
          const h = importance[i];
          if (size === 0 || h === 0) continue;
          const x = Math.abs(row[i]);
          power += h * x * x;
          const bin = size >> SIZE_SHIFT;
          sums[bin] += h * x;
          counts[bin] += h;
          if (bin < lowest) lowest = bin;
          if (bin > highest) highest = bin;
          if (size > plain.lastZero) {
            a0 += h * x;
            b0 += h;
          }
        }
      }
      // The absmean's own threshold may lie between two that are tried.
      let [a, b, most] = [a0, b0, b0 === 0 ? 0 : (a0 * a0) / b0];
      let { lastZero } = plain;
      for (let bin = highest, above = 0, count = 0; bin >= lowest; bin--) {
        if (counts[bin] === 0) continue;
        above += sums[bin];
        count += counts[bin];
        sums[bin] = counts[bin] = 0;
        if (above * above <= most * count) continue;
        [a, b, most] = [above, count, (above * above) / count];
        lastZero = Math.max(0, (bin << SIZE_SHIFT) - 1);
      }
      const scale = Math.fround(a / b);
      const isBetter = scale >= LEAST_SCALE; // nothing to weigh by, or too small to be told from 0
      const plainError = power - 2 * plain.scale * a0 + plain.scale ** 2 * b0;
      error.power += power;
      error.absmean += plainError;
      error.taken += isBetter ? power - 2 * scale * a + scale ** 2 * b : plainError;
      return isBetter ? { scale, lastZero } : plain;
    },
  };
}

/**
 * Sizes of floats compare as their bits do, and that without a branch, which would be guessed wrong for every third weight.
 * @param lastZero of a Rule
 */
function round(row: Float32Array, lastZero: number, into: Int8Array, at: number): void {
  const bits = new Int32Array(row.buffer, row.byteOffset, row.length);
  for (let i = 0; i < row.length; i++, at++) {
    const isBeyond = (lastZero - (bits[i] & 0x7fffffff)) >> 31; // -1 or 0
    into[at] = ((bits[i] >> 31) | 1) & isBeyond;
  }
}

/** Bits of the largest f32 x for which f32(x / scale) is at most 1/2. */
function lastZeroOf(scale: number): number {
  const reciprocal = Math.fround(1 / scale);
  const float = Float32Array.of(scale / 2);
  const bits = new Int32Array(float.buffer);
  while (Math.fround(float[0] * reciprocal) > 0.5) bits[0]--;
  while (Math.fround(float[0] * reciprocal) <= 0.5) bits[0]++;
  return bits[0] - 1;
}

function notFinite(w: Floats, value: number): ConvertError {
  return new ConvertError(`${w.where}: holds a weight that is ${Number.isNaN(value) ? 'NaN' : 'infinite'}`);
}
