// Shared lane arithmetic, inlined into the kernels, and the constants and scratch of a thread.

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

// Each thread has a piece of low memory of its own, `thread`: constants that inner loops keep in registers, and a place for
// accumulators. V8 rebuilds a v128 literal at every use (three instructions), so literals lie in memory and are loaded once a
// call. Kernels copy the global to a local first: with the global read again at each use, V8's revectoriser finds no adjacent
// stores to start from.
//
//   +0    accumulators, 512 bytes   +512  dots of a tile, i32 [2][8]
//   +704  03 x32    +736 0c x32     +768  8fffffff x8
//   +800  00c0 x8   +816 0030 x8    +832  000c x8   +848 0003 x8   +864 4001 x8
//   +880  0f x16    +896 codes of the first and +912 of the second weight of a TL pair, +928, +944, +960 of a triple
//   +576  d5 x16    +592 2a x16     +608  80 x16    +624 F16_BIAS x4
export let thread: usize = 0;

/** Low memory of the threads starts here; a thread has THREAD_BYTES of it. */
const THREADS_AT: usize = 4096;
const THREAD_BYTES: i32 = 1024;

// @ts-ignore: decorator
@inline export const DOTS: usize = 512;

/** Makes this instance thread `index`, once before anything else. */
export function enterThread(index: i32): void {
  thread = THREADS_AT + <usize>(index * THREAD_BYTES);
  const at = thread;
  memory.fill(at + 704, 3, 32);
  memory.fill(at + 736, 12, 32);
  v128.store(at, i32x4.splat(0x8fffffff), 768);
  v128.store(at, i32x4.splat(0x8fffffff), 784);
  v128.store(at, i16x8.splat(0xc0), 800);
  v128.store(at, i16x8.splat(0x30), 816);
  v128.store(at, i16x8.splat(0x0c), 832);
  v128.store(at, i16x8.splat(0x03), 848);
  v128.store(at, i16x8.splat(0x4001), 864);
  memory.fill(at + 880, 15, 16);
  for (let i: usize = 0; i < 16; i++) {
    store<u8>(at + i, min(i / 3, 2), 896);
    store<u8>(at + i, i % 3, 912);
    store<u8>(at + i, min((i + 13) / 9, 2), 928);
    store<u8>(at + i, (i + 13) / 3 % 3, 944);
    store<u8>(at + i, (i + 13) % 3, 960);
  }
  memory.fill(at + 576, 85 - 128, 16);
  memory.fill(at + 592, 170 - 128, 16);
  memory.fill(at + 608, 128, 16);
  v128.store(at, f32x4.splat(F16_BIAS), 624);
}

/** The mask that `f16Low` and `f16High` want. */
// @ts-ignore: decorator
@inline export function f16Mask(): v128 {
  return v128.load(thread, 768);
}

/** [sum of a, sum of b, sum of c, sum of d], i32 lanes. */
// @ts-ignore: decorator
@inline export function sums4(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = i32x4.add(i32x4.shuffle(a, b, 0, 4, 1, 5), i32x4.shuffle(a, b, 2, 6, 3, 7));
  const cd = i32x4.add(i32x4.shuffle(c, d, 0, 4, 1, 5), i32x4.shuffle(c, d, 2, 6, 3, 7));
  return i32x4.add(i32x4.shuffle(ab, cd, 0, 1, 4, 5), i32x4.shuffle(ab, cd, 2, 3, 6, 7));
}
