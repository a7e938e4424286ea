import type { Tiles, WeightType } from '../backend/backend.ts';
import { bitLinear } from './bit_linear.ts';
import { bitLinearTq } from './bit_linear_tq.ts';
import { denseLinear } from './dense_linear.ts';
import { quantizeI8 } from './quantize_i8.ts';
import { quantizeQ8K } from './quantize_q8_k.ts';
import { repackTq1 } from './repack.ts';
import { repackTl } from './repack_tl.ts';

/** y [rows] = W x for one row x [cols] f32, W stored as `type`; a ternary W sees x quantised to int8. */
export function linear(
  type: WeightType,
  w: Uint8Array,
  rows: number,
  cols: number,
  x: Float32Array,
  tiles?: Tiles,
): Float32Array {
  if (type === 'i2_s') return bitLinear(w, rows, cols, quantizeI8(x));
  if (type === 'tl1' || type === 'tl2') {
    return bitLinear(repackTl({ type, rows, cols, tiles }, w), rows, cols, quantizeI8(x));
  }
  if (type === 'tq2_0') return bitLinearTq(w, rows, cols, quantizeQ8K(x));
  if (type === 'tq1_0') return bitLinearTq(repackTq1(w, (rows * cols) / 256), rows, cols, quantizeQ8K(x));
  return denseLinear(type, w, rows, cols, x);
}
