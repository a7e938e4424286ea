// BitNet b1.58's weights (arXiv 2402.17764): scale = mean |W|, w = W / scale rounded to the nearest of -1, 0 and 1.
import type { Ternary } from '../gguf/layouts/ternary.ts';
import { ConvertError } from './error.ts';

/** A matrix of floats that is read by rows. */
export interface Floats {
  readonly rows: number;
  readonly cols: number;
  /** For messages: file and tensor. */
  readonly where: string;
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
  for (let r = 0; r < w.rows; r++) round(w.row(r), 0, w.cols, scale, weights, r * w.cols);
  return { weights, scales: Float32Array.of(scale) };
}

/**
 * Rounds a matrix to ternary weights with one scale, or with one for each `block` weights (a multiple of 256 that divides a
 * row), which is given as often as there are 256 weights.
 *
 * The scale is the mean in f64, rounded to f32; torch adds up in f32, in an order of its own, so the last bit may differ. As
 * there, W is multiplied by the scale's reciprocal, and 0.5 goes to 0.
 * @throws ConvertError on a value that is infinite or NaN
 */
export function quantize(w: Floats, block?: number): Ternary {
  const weights = new Int8Array(w.rows * w.cols);
  if (block === undefined) {
    let sum = 0;
    for (let r = 0; r < w.rows; r++) sum += sumOfSizes(w.row(r), 0, w.cols);
    const scale = scaleOf(w, sum / weights.length);
    for (let r = 0; r < w.rows; r++) round(w.row(r), 0, w.cols, scale, weights, r * w.cols);
    return { weights, scales: Float32Array.of(scale) };
  }
  const scales = new Float32Array(weights.length / SCALE_WEIGHTS);
  for (let r = 0; r < w.rows; r++) {
    const row = w.row(r);
    for (let from = 0; from < w.cols; from += block) {
      const at = r * w.cols + from;
      const scale = scaleOf(w, sumOfSizes(row, from, from + block) / block);
      scales.fill(scale, at / SCALE_WEIGHTS, (at + block) / SCALE_WEIGHTS);
      round(row, from, from + block, scale, weights, at);
    }
  }
  return { weights, scales };
}

function sumOfSizes(row: Float32Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += Math.abs(row[i]);
  return sum;
}

function scaleOf(w: Floats, mean: number): number {
  if (!(mean < Infinity)) throw notFinite(w, mean);
  return Math.fround(Math.max(mean, LEAST_SCALE));
}

/**
 * w = 1, 0 or -1 by whether f32(x / scale) lies above 1/2, between, or below -1/2. Sizes of floats compare as their bits do, and
 * that without a branch, which would be guessed wrong for every third weight.
 */
function round(row: Float32Array, from: number, to: number, scale: number, into: Int8Array, at: number): void {
  const bits = new Int32Array(row.buffer, row.byteOffset, row.length);
  const last = lastZero(scale);
  for (let i = from; i < to; i++, at++) {
    const isBeyond = (last - (bits[i] & 0x7fffffff)) >> 31; // -1 or 0
    into[at] = ((bits[i] >> 31) | 1) & isBeyond;
  }
}

/** Bits of the largest number that is rounded to 0. */
function lastZero(scale: number): number {
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
