import { storeActivations } from '../dots';
import { maxF32x4, sumI32x4 } from '../lanes';

/**
 * Per-token int8: s = f32(127 / max(1e-5, max |h|)), q = round half to even(h * s). h f32 [dim], dim a multiple of 16.
 *
 *   out   +0 f32 s   +4 i32 sum of q   +64 q, in the layout of the ternary dot (dots.ts), for tiles or for one row at a time,
 *         or int8 `inOrder`, and zeros up to whole blocks of 128
 */
export function quantizeI8(h: usize, dim: i32, out: usize, tiles: bool, inOrder: bool): void {
  const end = h + (<usize>dim << 2);
  let m = f32x4.splat(0);
  for (let at = h; at < end; at += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(at)));
  const s = <f32>(127.0 / max<f64>(1e-5, <f64>maxF32x4(m)));
  const scale = f32x4.splat(s);
  let sum = i32x4.splat(0);
  for (let k = 0; k < dim; k += 16, h += 64) {
    const a = rounded(v128.load(h), scale), b = rounded(v128.load(h, 16), scale);
    const c = rounded(v128.load(h, 32), scale), d = rounded(v128.load(h, 48), scale);
    sum = i32x4.add(sum, i32x4.add(i32x4.add(a, b), i32x4.add(c, d)));
    storeActivations(out + 64, k, i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d), tiles, inOrder);
  }
  const zero = i16x8.splat(0);
  for (let k = dim; k & 127; k += 16) storeActivations(out + 64, k, zero, zero, tiles, inOrder);
  store<f32>(out, s);
  store<i32>(out, sumI32x4(sum), 4);
}

// @ts-ignore: decorator
@inline export function rounded(x: v128, scale: v128): v128 {
  return i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(x, scale)));
}
