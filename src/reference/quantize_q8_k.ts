import { roundEven } from './quantize_i8.ts';

/** A row x [cols] as integers with a scale for each block of 256: x ~ q * d. */
export interface BlockQuantizedRow {
  /** [cols], -127..127. */
  readonly q: Int8Array;
  /** f32 [cols / 256]. */
  readonly d: Float32Array;
}

/**
 * x [cols] f32 to int8 in blocks of 256 (ggml's Q8_K): inverse scale 127 / max|x| and d = 1 / inverse scale, both rounded to
 * f32; products rounded to f32, then to the nearest integer, ties to even. A block of zeros, or of numbers so small that the
 * inverse scale is infinite, has d = 0.
 *
 * ggml gives the inverse scale the sign that makes the first largest number -127. That turns the signs of a block's q and of
 * its d and no bit else, as both roundings are symmetric, so no product of the two can tell; here it is left out.
 */
export function quantizeQ8K(x: Float32Array): BlockQuantizedRow {
  const q = new Int8Array(x.length);
  const d = new Float32Array(x.length / 256);
  for (let block = 0; block < d.length; block++) {
    const end = 256 * (block + 1);
    let max = 0;
    for (let i = end - 256; i < end; i++) max = Math.max(max, Math.abs(x[i]));
    const inverse = Math.fround(127 / max);
    d[block] = 1 / inverse;
    if (d[block] === 0) continue;
    for (let i = end - 256; i < end; i++) q[i] = roundEven(Math.fround(x[i] * inverse));
  }
  return { q, d };
}
