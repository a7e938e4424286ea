import { maxF32x4, storeActivations, sumI32x4 } from '../lanes';

/**
 * Per-token int8: s = f32(127 / max(1e-5, max |h|)), q = round half to even(h * s). h f32 [dim], dim a multiple of 128.
 *
 *   out   +0 f32 s   +4 i32 sum of q   +64 q, in the layout of the ternary dot (lanes.ts)
 */
export function quantizeI8(h: usize, dim: i32, out: usize): void {
  const bytes = <usize>dim << 2;
  let m = f32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 16) m = f32x4.max(m, f32x4.abs(v128.load(h + i)));
  const s = <f32>(127.0 / max<f64>(1e-5, <f64>maxF32x4(m)));
  const scale = f32x4.splat(s);
  let sum = i32x4.splat(0);
  for (let k = 0; k < dim; k += 4) {
    const q = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(h + (<usize>k << 2)), scale)));
    sum = i32x4.add(sum, q);
    storeActivations(out + 64, k, q);
  }
  store<f32>(out, s);
  store<i32>(out, sumI32x4(sum), 4);
}
