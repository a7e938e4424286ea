import { ACTIVATION_BYTES } from '../dots';
import { F16_BIAS, roundToF16 } from '../lanes';
import { quantizeI8 } from './quantize_i8';
import { q8kHeaderBytes, quantizeQ8K } from './quantize_q8_k';
import { rmsNorm } from './rms_norm';

/** The weight types a row can be prepared for; also the type argument of the kernels that read weights. */
export const I2_S: i32 = 0;
export const F16: i32 = 1;
export const BF16: i32 = 2;
export const F32: i32 = 3;
export const Q8_0: i32 = 4;
export const Q6_K: i32 = 5;
export const TL1: i32 = 6;
export const TL2: i32 = 7;
export const TQ1_0: i32 = 8;
export const TQ2_0: i32 = 9;
export const Q4_0: i32 = 10;

/** Columns of an I2_S row in memory: whole blocks of 128. */
// @ts-ignore: decorator
@inline export function paddedCols(cols: i32): i32 {
  return (cols + 127) & ~127;
}

/** Bytes of one prepared row of `dim` numbers: 64 for scale and sum (TQ: those of all blocks), then the numbers, padded to 64. */
// @ts-ignore: decorator
@inline export function preparedBytes(dim: i32, weightType: i32): i32 {
  if (weightType == I2_S) return 64 + paddedCols(dim) * ACTIVATION_BYTES;
  if (weightType == TL1 || weightType == TL2) return 64 + paddedCols(dim) + 16 * dim;
  if (weightType == TQ1_0 || weightType == TQ2_0) return q8kHeaderBytes(dim) + dim * ACTIVATION_BYTES;
  return 64 + ((4 * dim + 63) & ~63);
}

/**
 * RMSNorm(x) * weight, or x where `weight` is 0, then the same with `weight2`, in the form that a matmul with weights of
 * `weightType` reads:
 *
 *   I2_S   as quantize_i8 leaves it, for `tiles` or not
 *   TL1, TL2   the same with q int8 in order; tables follow, 16 bytes a column at most, which are built after (lookup.ts)
 *   TQ1_0, TQ2_0   as quantize_q8_k does
 *   F16    +64 f32 [dim], rounded to f16, times F16_BIAS
 *   BF16   +64 f32 [dim], rounded to bf16
 *   else   +64 f32 [dim]
 *
 * x f32 [dim]; h f32 [dim] is scratch.
 */
export function prepareRow(
  x: usize, weight: usize, weight2: usize, eps: f32, dim: i32, weightType: i32, tiles: bool, h: usize, out: usize,
): void {
  if (weight != 0) {
    rmsNorm(x, weight, eps, dim, h);
    x = h;
  }
  if (weight2 != 0) {
    rmsNorm(x, weight2, eps, dim, h);
    x = h;
  }
  const bytes = <usize>dim << 2;
  if (weightType == I2_S) quantizeI8(x, dim, out, tiles, false);
  else if (weightType == TL1 || weightType == TL2) quantizeI8(x, dim, out, tiles, true);
  else if (weightType == TQ1_0 || weightType == TQ2_0) quantizeQ8K(x, dim, out, tiles);
  else if (weightType == F16) {
    for (let i: usize = 0; i < bytes; i += 4) store<f32>(out + i, roundToF16(load<f32>(x + i)) * F16_BIAS, 64);
  } else if (weightType == BF16) {
    for (let i: usize = 0; i < bytes; i += 4) {
      const bits = load<u32>(x + i);
      store<u32>(out + i, (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000, 64);
    }
  } else memory.copy(out + 64, x, bytes);
}
