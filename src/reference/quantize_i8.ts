/** A row x [cols] as integers: x ~ q / scale. */
export interface QuantizedRow {
  /** [cols], -128..127. */
  readonly q: Int8Array;
  /** f32, 127 / max|x|. */
  readonly scale: number;
  /** Sum of q. */
  readonly sum: number;
}

/**
 * x [cols] f32 to int8, one scale for the row (BitNet b1.58, arXiv 2402.17764, eq. 4; the arithmetic is bitnet.cpp's for
 * I2_S): the largest magnitude in f64, at least 1e-5; the scale rounded to f32; products rounded to f32, then to the
 * nearest integer, ties to even.
 */
export function quantizeI8(x: Float32Array): QuantizedRow {
  let max = 1e-5;
  for (const v of x) max = Math.max(max, Math.abs(v));
  const scale = Math.fround(127 / max);
  const q = new Int8Array(x.length);
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    q[i] = Math.min(127, Math.max(-128, roundEven(Math.fround(x[i] * scale))));
    sum += q[i];
  }
  return { q, scale, sum };
}

/** The nearest integer, ties to the even one. */
export function roundEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}
