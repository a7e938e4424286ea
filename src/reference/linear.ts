import type { Tiles, WeightType } from '../backend/backend.ts';
import { bitLinear } from './bit_linear.ts';
import { denseLinear } from './dense_linear.ts';
import { quantizeI8 } from './quantize_i8.ts';
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
  return denseLinear(type, w, rows, cols, x);
}
