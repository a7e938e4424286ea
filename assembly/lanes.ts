// Shared lane arithmetic. Everything here is inlined into the kernels; the tier-dependent dot at the end is the one place
// where tiers differ.

/** Sum of four i32 lanes. */
// @ts-ignore: decorator
@inline export function sumI32x4(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/** Sum of four f32 lanes, as (0 + 2) + (1 + 3). */
// @ts-ignore: decorator
@inline export function sumF32x4(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 2) + (f32x4.extract_lane(v, 1) + f32x4.extract_lane(v, 3));
}

/** Largest of four f32 lanes. */
// @ts-ignore: decorator
@inline export function maxF32x4(v: v128): f32 {
  return max<f32>(
    max<f32>(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 2)),
    max<f32>(f32x4.extract_lane(v, 1), f32x4.extract_lane(v, 3)),
  );
}

/**
 * 2^112, the difference of the exponent biases of f32 (127) and f16 (15). Half floats whose bits are moved into place
 * (`f16Low`, `f16High`) are too small by this factor; the other operand of a product carries it, which is exact:
 * the largest half, 65504, times 2^112 is still below the largest f32.
 */
export const F16_BIAS: f32 = reinterpret<f32>(0x77800000);

/**
 * Halves 0..3 of v as f32, each too small by F16_BIAS. Subnormal halves become subnormal floats: right, if slower. Infinity
 * and NaN, which no weight is, become numbers from 65536 on.
 */
// @ts-ignore: decorator
@inline export function f16Low(v: v128, mask: v128): v128 {
  const zero = i32x4.splat(0);
  return v128.and(i32x4.shr_s(i16x8.shuffle(zero, v, 0, 8, 1, 9, 2, 10, 3, 11), 3), mask);
}

/** Halves 4..7 of v as f32, each too small by F16_BIAS. */
// @ts-ignore: decorator
@inline export function f16High(v: v128, mask: v128): v128 {
  const zero = i32x4.splat(0);
  return v128.and(i32x4.shr_s(i16x8.shuffle(zero, v, 4, 12, 5, 13, 6, 14, 7, 15), 3), mask);
}

/** f32 -> f16 bits, round to nearest even; overflow gives infinity. */
// @ts-ignore: decorator
@inline export function f16Bits(x: f32): u32 {
  const bits = reinterpret<u32>(x);
  const sign = (bits >> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude < 0x38800000) {
    // Below the smallest normal half: adding 0.5 puts the unit of the last subnormal bit (2^-24) into the last bit of the sum.
    return sign | (reinterpret<u32>(reinterpret<f32>(magnitude) + 0.5) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}

/** As `f16Bits`, in four lanes. */
// @ts-ignore: decorator
@inline export function f16BitsX4(x: v128): v128 {
  const sign = v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000));
  const magnitude = v128.and(x, i32x4.splat(0x7fffffff));
  const even = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.sub(magnitude, i32x4.splat(0x38000000 - 0xfff)), even), 13);
  const subnormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const infinite = v128.bitselect(i32x4.splat(0x7e00), i32x4.splat(0x7c00), i32x4.gt_s(magnitude, i32x4.splat(0x7f800000)));
  const finite = v128.bitselect(subnormal, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  return v128.or(sign, v128.bitselect(finite, infinite, i32x4.lt_s(magnitude, i32x4.splat(0x47800000))));
}

/** f32 rounded to the nearest half and back; halves are exact. Finite input up to 65504. */
// @ts-ignore: decorator
@inline export function roundToF16(x: f32): f32 {
  const half = f16Bits(x);
  return reinterpret<f32>(((half & 0x8000) << 16) | ((half & 0x7fff) << 13)) * F16_BIAS;
}

/** e^x in four lanes, relative error below 2e-7; 0 below -87.3, and from 88.376 on e^88.376, short of infinity. */
// @ts-ignore: decorator
@inline export function expF32x4(x: v128): v128 {
  // pmin and pmax are one instruction each on x86, min and max several.
  const clamped = f32x4.pmin(f32x4.splat(88.37626), f32x4.pmax(f32x4.splat(-87.33654), x));
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that n * ln 2 is exact enough (Cody and Waite).
  const n = f32x4.nearest(f32x4.mul(clamped, f32x4.splat(1.44269504)));
  let r = f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.12194440e-4)));
  // e^r = 1 + r + r^2 p(r), minimax coefficients of Cephes' expf.
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  const e = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1));
  const scaled = i32x4.add(e, i32x4.shl(i32x4.trunc_sat_f32x4_s(n), 23));
  return v128.and(scaled, f32x4.ge(x, f32x4.splat(-87.33654)));
}

// Constants that inner loops keep in registers. V8 rebuilds a v128 literal at every use (three
// instructions; 13.8 against 15.1 GB/s in a prototype of a dot kernel, on an EPYC with Zen 5), so they lie in memory and are loaded once per call. `fillConstants` writes them.
//
//   +0 03 x16   +16 0c x16   +32 00c0 x8   +48 0030 x8   +64 000c x8   +80 0003 x8   +96 8fffffff x4
const CONSTANTS: usize = 1024;

export function fillConstants(): void {
  v128.store(CONSTANTS, i8x16.splat(3));
  v128.store(CONSTANTS, i8x16.splat(12), 16);
  v128.store(CONSTANTS, i16x8.splat(0xc0), 32);
  v128.store(CONSTANTS, i16x8.splat(0x30), 48);
  v128.store(CONSTANTS, i16x8.splat(0x0c), 64);
  v128.store(CONSTANTS, i16x8.splat(0x03), 80);
  v128.store(CONSTANTS, i32x4.splat(0x8fffffff), 96);
}

/** The mask that `f16Low` and `f16High` want. */
// @ts-ignore: decorator
@inline export function f16Mask(): v128 {
  return v128.load(CONSTANTS, 96);
}

// The ternary dot. Weights are I2_S: 128 codes (0, 1, 2 = weight + 1) in 32 bytes, byte p holding those of
// k = p, 32 + p, 64 + p, 96 + p from the top bits down. Sums are of code * activation; the caller subtracts the sum of
// the activations. Integers throughout, so both tiers give the same number.
//
// Activations, for each 128 k:
//   relaxed  int8 [128] in order
//   simd     int16 [half 2][odd 2][field 4][8]: k = 32 field + 16 half + 2 i + odd, times 4^field. The weights' four
//            fields are only masked, never shifted, so they carry 64, 16, 4, 1 and the product always 64.

/** Bytes of one activation in the layout above. */
// @ts-ignore: decorator
@inline export const ACTIVATION_BYTES: i32 = ASC_FEATURE_RELAXED_SIMD ? 1 : 2;

/** Sums of two rows of `cols` codes at w0 and w1: the first in the low, the second in the high half of the result. */
// @ts-ignore: decorator
@inline export function bitDot2(w0: usize, w1: usize, act: usize, cols: i32): i64 {
  const end = w0 + <usize>(cols >> 2);
  let s0 = i32x4.splat(0), s1 = i32x4.splat(0);
  if (ASC_FEATURE_RELAXED_SIMD) {
    // relaxed_dot<i16> multiplies int8 by 7-bit codes and adds neighbours into i16: at most 2 * 2 * 127 = 508. Masking with
    // 3 and with 12 (codes times 4) saves a shift per field; so a and b grow by up to 1016 and 4064 a step of 64 weights,
    // and 8 steps fit an i16. pmaddubsw on x86: exact on every engine since neither operand leaves its range.
    const three = v128.load(CONSTANTS), twelve = v128.load(CONSTANTS, 16);
    while (w0 < end) {
      let a0 = i16x8.splat(0), b0 = i16x8.splat(0), a1 = i16x8.splat(0), b1 = i16x8.splat(0);
      const stop = min(w0 + 4 * 32, end);
      while (w0 < stop) {
        let x0 = v128.load(w0), x1 = v128.load(w1);
        let y0 = i16x8.shr_u(x0, 4), y1 = i16x8.shr_u(x1, 4);
        let k = v128.load(act, 0);
        b0 = i16x8.add(b0, v128.relaxed_dot<i16>(k, v128.and(y0, twelve)));
        b1 = i16x8.add(b1, v128.relaxed_dot<i16>(k, v128.and(y1, twelve)));
        k = v128.load(act, 32);
        a0 = i16x8.add(a0, v128.relaxed_dot<i16>(k, v128.and(y0, three)));
        a1 = i16x8.add(a1, v128.relaxed_dot<i16>(k, v128.and(y1, three)));
        k = v128.load(act, 64);
        b0 = i16x8.add(b0, v128.relaxed_dot<i16>(k, v128.and(x0, twelve)));
        b1 = i16x8.add(b1, v128.relaxed_dot<i16>(k, v128.and(x1, twelve)));
        k = v128.load(act, 96);
        a0 = i16x8.add(a0, v128.relaxed_dot<i16>(k, v128.and(x0, three)));
        a1 = i16x8.add(a1, v128.relaxed_dot<i16>(k, v128.and(x1, three)));

        x0 = v128.load(w0, 16); x1 = v128.load(w1, 16);
        y0 = i16x8.shr_u(x0, 4); y1 = i16x8.shr_u(x1, 4);
        k = v128.load(act, 16);
        b0 = i16x8.add(b0, v128.relaxed_dot<i16>(k, v128.and(y0, twelve)));
        b1 = i16x8.add(b1, v128.relaxed_dot<i16>(k, v128.and(y1, twelve)));
        k = v128.load(act, 48);
        a0 = i16x8.add(a0, v128.relaxed_dot<i16>(k, v128.and(y0, three)));
        a1 = i16x8.add(a1, v128.relaxed_dot<i16>(k, v128.and(y1, three)));
        k = v128.load(act, 80);
        b0 = i16x8.add(b0, v128.relaxed_dot<i16>(k, v128.and(x0, twelve)));
        b1 = i16x8.add(b1, v128.relaxed_dot<i16>(k, v128.and(x1, twelve)));
        k = v128.load(act, 112);
        a0 = i16x8.add(a0, v128.relaxed_dot<i16>(k, v128.and(x0, three)));
        a1 = i16x8.add(a1, v128.relaxed_dot<i16>(k, v128.and(x1, three)));
        w0 += 32; w1 += 32; act += 128;
      }
      s0 = i32x4.add(s0, i32x4.add(i32x4.extadd_pairwise_i16x8_s(a0), i32x4.shr_s(i32x4.extadd_pairwise_i16x8_s(b0), 2)));
      s1 = i32x4.add(s1, i32x4.add(i32x4.extadd_pairwise_i16x8_s(a1), i32x4.shr_s(i32x4.extadd_pairwise_i16x8_s(b1), 2)));
    }
    return (<i64>sumI32x4(s1) << 32) | <i64><u32>sumI32x4(s0);
  }
  let t0 = i32x4.splat(0), t1 = i32x4.splat(0);
  const m0 = v128.load(CONSTANTS, 32), m1 = v128.load(CONSTANTS, 48), m2 = v128.load(CONSTANTS, 64), m3 = v128.load(CONSTANTS, 80);
  while (w0 < end) {
    for (let half: usize = 0; half < 32; half += 16) {
      let x0 = v128.load(w0 + half), x1 = v128.load(w1 + half);
      let k = v128.load(act, 0);
      s0 = i32x4.add(s0, i32x4.dot_i16x8_s(v128.and(x0, m0), k));
      s1 = i32x4.add(s1, i32x4.dot_i16x8_s(v128.and(x1, m0), k));
      k = v128.load(act, 16);
      t0 = i32x4.add(t0, i32x4.dot_i16x8_s(v128.and(x0, m1), k));
      t1 = i32x4.add(t1, i32x4.dot_i16x8_s(v128.and(x1, m1), k));
      k = v128.load(act, 32);
      s0 = i32x4.add(s0, i32x4.dot_i16x8_s(v128.and(x0, m2), k));
      s1 = i32x4.add(s1, i32x4.dot_i16x8_s(v128.and(x1, m2), k));
      k = v128.load(act, 48);
      t0 = i32x4.add(t0, i32x4.dot_i16x8_s(v128.and(x0, m3), k));
      t1 = i32x4.add(t1, i32x4.dot_i16x8_s(v128.and(x1, m3), k));
      x0 = i16x8.shr_u(x0, 8); x1 = i16x8.shr_u(x1, 8);
      k = v128.load(act, 64);
      s0 = i32x4.add(s0, i32x4.dot_i16x8_s(v128.and(x0, m0), k));
      s1 = i32x4.add(s1, i32x4.dot_i16x8_s(v128.and(x1, m0), k));
      k = v128.load(act, 80);
      t0 = i32x4.add(t0, i32x4.dot_i16x8_s(v128.and(x0, m1), k));
      t1 = i32x4.add(t1, i32x4.dot_i16x8_s(v128.and(x1, m1), k));
      k = v128.load(act, 96);
      s0 = i32x4.add(s0, i32x4.dot_i16x8_s(v128.and(x0, m2), k));
      s1 = i32x4.add(s1, i32x4.dot_i16x8_s(v128.and(x1, m2), k));
      k = v128.load(act, 112);
      t0 = i32x4.add(t0, i32x4.dot_i16x8_s(v128.and(x0, m3), k));
      t1 = i32x4.add(t1, i32x4.dot_i16x8_s(v128.and(x1, m3), k));
      act += 128;
    }
    w0 += 32; w1 += 32;
  }
  s0 = i32x4.add(s0, t0); s1 = i32x4.add(s1, t1);
  return (<i64>(sumI32x4(s1) >> 6) << 32) | <i64><u32>(sumI32x4(s0) >> 6);
}

/** Writes activation k (a multiple of 4) … k + 3, int8 values in the lanes of q, into the layout of this tier. */
// @ts-ignore: decorator
@inline export function storeActivations(act: usize, k: i32, q: v128): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    const narrow = i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(q, q), i16x8.splat(0));
    store<i32>(act + k, i32x4.extract_lane(narrow, 0));
    return;
  }
  // k = 128 block + 32 field + 16 half + 2 i + odd; here i, i + 1 and both odd.
  const field = (k >> 5) & 3;
  const scaled = i32x4.shl(q, field << 1);
  const at = act + <usize>(((k >> 7) << 8) + (((k >> 4) & 1) << 7) + (field << 4) + (k & 15));
  store<i16>(at, <i16>i32x4.extract_lane(scaled, 0));
  store<i16>(at, <i16>i32x4.extract_lane(scaled, 1), 64);
  store<i16>(at, <i16>i32x4.extract_lane(scaled, 2), 2);
  store<i16>(at, <i16>i32x4.extract_lane(scaled, 3), 66);
}
