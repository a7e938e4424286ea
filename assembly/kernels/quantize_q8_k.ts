import { ACTIVATION_BYTES, storeActivations } from '../dots';
import { maxF32x4, sumI32x4 } from '../lanes';
import { rounded } from './quantize_i8';

/** Bytes of a row's scales and sums. */
// @ts-ignore: decorator
@inline export function q8kHeaderBytes(dim: i32): i32 {
  return ((dim >> 8 << 3) + 63) & ~63;
}

/**
 * int8 with a scale for each block of 256: inverse scale = f32(127 / max |h|), q = round half to even(h * inverse scale),
 * d = f32(1 / inverse scale). Zeros give q = d = 0. h f32 [dim], dim a multiple of 256.
 *
 *   out   +0 (f32 d, i32 sum of q) of each block, padded to 64; then q, in the layout of the ternary dot (dots.ts), for tiles or
 *         for one row at a time. TQ2_0 has the fields of a byte the other way round than I2_S, so those of q are swapped
 */
export function quantizeQ8K(h: usize, dim: i32, out: usize, tiles: bool): void {
  let q = out + <usize>q8kHeaderBytes(dim);
  for (let block = 0; block < dim; block += 256) {
    let m = f32x4.splat(0);
    for (let i: usize = 0; i < 1024; i += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(h + i)));
    const inverse: f32 = <f32>127 / maxF32x4(m);
    const scale = f32x4.splat(inverse);
    let sum = i32x4.splat(0);
    for (let k = 0; k < 256; k += 16, h += 64) {
      // 0 times infinity is no number, and that becomes 0.
      const a = rounded(v128.load(h), scale), b = rounded(v128.load(h, 16), scale);
      const c = rounded(v128.load(h, 32), scale), d = rounded(v128.load(h, 48), scale);
      sum = i32x4.add(sum, i32x4.add(i32x4.add(a, b), i32x4.add(c, d)));
      storeActivations(q, k ^ 96, i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d), tiles, false);
    }
    q += 256 * ACTIVATION_BYTES;
    store<f32>(out, <f32>1 / inverse);
    store<i32>(out, sumI32x4(sum), 4);
    out += 8;
  }
}
