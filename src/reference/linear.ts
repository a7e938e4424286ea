import type { WeightType } from '../backend/backend.ts';
import { bitLinear } from './bit_linear.ts';
import { denseLinear } from './dense_linear.ts';
import { quantizeI8 } from './quantize_i8.ts';

/** y [rows] = W x for one row x [cols] f32, W stored as `type`; a ternary W sees x quantised to int8. */
export function linear(type: WeightType, w: Uint8Array, rows: number, cols: number, x: Float32Array): Float32Array {
  return type === 'i2_s' ? bitLinear(w, rows, cols, quantizeI8(x)) : denseLinear(type, w, rows, cols, x);
}
