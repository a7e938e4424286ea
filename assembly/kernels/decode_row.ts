import { F16_BIAS, f16High, f16Low, f16Mask } from '../lanes';
import { BF16, F16, F32, Q4_0, Q6_K, Q8_0 } from './prepare';

/** Bytes of a row of `cols` weights of any type but I2_S, whose scale lies behind all rows. */
export function rowBytes(cols: i32, weightType: i32): usize {
  if (weightType == F32) return <usize>cols << 2;
  if (weightType == Q8_0) return <usize>(cols >> 5) * 34;
  if (weightType == Q6_K) return <usize>(cols >> 8) * 210;
  if (weightType == Q4_0) return <usize>(cols >> 5) * 18;
  return <usize>cols << 1;
}

/**
 * out f32 [cols] = row `row` of w [rows][cols], exact. The layouts are drawn in src/gguf/layouts/.
 *
 *   w   any type but I2_S, weights and scales finite; cols a multiple of 8, of 32 for Q8_0 and Q4_0, of 256 for Q6_K
 */
export function decodeRow(weightType: i32, w: usize, row: i32, cols: i32, out: usize): void {
  w += <usize>row * rowBytes(cols, weightType);
  const end = out + (<usize>cols << 2);
  if (weightType == F16) decodeF16(w, out, end);
  else if (weightType == BF16) decodeBf16(w, out, end);
  else if (weightType == Q8_0) decodeQ8_0(w, out, end);
  else if (weightType == Q6_K) decodeQ6K(w, out, end);
  else if (weightType == Q4_0) decodeQ4_0(w, out, end);
  else memory.copy(out, w, end - out);
}

function decodeF16(w: usize, out: usize, end: usize): void {
  const mask = f16Mask();
  const bias = f32x4.splat(F16_BIAS);
  while (out < end) {
    const v = v128.load(w);
    v128.store(out, f32x4.mul(f16Low(v, mask), bias));
    v128.store(out, f32x4.mul(f16High(v, mask), bias), 16);
    w += 16; out += 32;
  }
}

function decodeBf16(w: usize, out: usize, end: usize): void {
  const zero = i32x4.splat(0);
  while (out < end) {
    const v = v128.load(w);
    v128.store(out, i16x8.shuffle(zero, v, 0, 8, 1, 9, 2, 10, 3, 11));
    v128.store(out, i16x8.shuffle(zero, v, 4, 12, 5, 13, 6, 14, 7, 15), 16);
    w += 16; out += 32;
  }
}

function decodeQ8_0(w: usize, out: usize, end: usize): void {
  while (out < end) {
    const d = f32x4.splat(scaleAt(w));
    storeScaled(v128.load(w, 2), d, out);
    storeScaled(v128.load(w, 18), d, out + 64);
    w += 34; out += 128;
  }
}

function decodeQ4_0(w: usize, out: usize, end: usize): void {
  const low = i8x16.splat(15), offset = i8x16.splat(8);
  while (out < end) {
    const d = f32x4.splat(scaleAt(w)), codes = v128.load(w, 2);
    storeScaled(i8x16.sub(v128.and(codes, low), offset), d, out);
    storeScaled(i8x16.sub(i8x16.shr_u(codes, 4), offset), d, out + 64);
    w += 18; out += 128;
  }
}

function decodeQ6K(w: usize, out: usize, end: usize): void {
  const low = i8x16.splat(15), high = i8x16.splat(3 << 4), offset = i8x16.splat(32);
  while (out < end) {
    const d = scaleAt(w + 208);
    for (let half: usize = 0; half < 2; half++) {
      // Sixteen l of the drawing at a time, each with its scale.
      for (let part: usize = 0; part < 2; part++) {
        const ql = w + half * 64 + part * 16;
        const a = v128.load(ql), b = v128.load(ql, 32), h = v128.load(w + half * 32 + part * 16, 128);
        const sc = w + half * 8 + part;
        const to = out + part * 64;
        let code = v128.or(v128.and(a, low), v128.and(i16x8.shl(h, 4), high));
        storeScaled(i8x16.sub(code, offset), f32x4.splat(d * <f32>load<i8>(sc, 192)), to);
        code = v128.or(v128.and(b, low), v128.and(i16x8.shl(h, 2), high));
        storeScaled(i8x16.sub(code, offset), f32x4.splat(d * <f32>load<i8>(sc, 194)), to + 128);
        code = v128.or(v128.and(i16x8.shr_u(a, 4), low), v128.and(h, high));
        storeScaled(i8x16.sub(code, offset), f32x4.splat(d * <f32>load<i8>(sc, 196)), to + 256);
        code = v128.or(v128.and(i16x8.shr_u(b, 4), low), v128.and(i16x8.shr_u(h, 2), high));
        storeScaled(i8x16.sub(code, offset), f32x4.splat(d * <f32>load<i8>(sc, 198)), to + 384);
      }
      out += 512;
    }
    w += 210;
  }
}

/** The finite f16 at `at`. */
// @ts-ignore: decorator
@inline function scaleAt(at: usize): f32 {
  const half = <u32>load<u16>(at);
  return reinterpret<f32>(((half & 0x8000) << 16) | ((half & 0x7fff) << 13)) * F16_BIAS;
}

/** out f32 [16] = sixteen int8 times d. */
// @ts-ignore: decorator
@inline function storeScaled(q: v128, d: v128, out: usize): void {
  const first = i16x8.extend_low_i8x16_s(q), second = i16x8.extend_high_i8x16_s(q);
  v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(first)), d));
  v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(first)), d), 16);
  v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(second)), d), 32);
  v128.store(out, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(second)), d), 48);
}
