// A screened output head. Reading the head in full for each token costs more than all layers of a small ternary model, so a
// copy in 7-bit codes, the most that the second operand of the relaxed dot takes, is read instead, and only the rows that can
// still win are computed from the weights themselves.
//
//   w[r] ~ v[r] = scale[r] * (code[r] - 64)      h ~ q / s, whole numbers up to 2032
//   logit ~ z = v[r] q / s                       |logit - z| <= |w - v| |h| + |v| |h - q / s|   (Cauchy and Schwarz, twice)
//
// The norms |w - v| and |v| are known a row of the head, |h| and |h - q / s| a row of the batch. Whoever wants the k largest
// logits finds them among the rows with z + bound >= T, T being the k-th largest z - bound: those are computed exactly.
//
//   screen   u8 [rows][stride] codes 1 … 127, stride = cols to a multiple of 32, the rest 64; then, 64-byte aligned,
//            f32 [3][rows]: scale, factor of |h|, factor of |h - q / s|

import { screenDots4, storeScreened } from '../dots';
import { maxF32x4, sumF32x4, sumI32x4 } from '../lanes';
import { decodeRow } from './decode_row';
import { denseLinear } from './dense_linear';
import { HEAP, best, logitOf } from './sample';

/** Codes are centred here: 1 … 127 are -63 … 63. */
const CENTRE: i32 = 64;
/** The largest whole number of an activation: 127 * 16, so that it splits into two int8 (dots.ts). */
const LARGEST: i32 = 2032;
/** Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then are; here the code. */
const CODE: f32 = 12582912 + 64;
/** Rows whose largest weight lies outside have squares that f32 cannot sum. */
const LEAST: f32 = 1e-15;
const MOST: f32 = 1e15;
/** 2^-24: an f32 operation is off by at most this share of its result. */
const ROUNDING: f64 = 5.9604644775390625e-8;
/** The bounds are sums of cols / 4 floats a lane: off by cols / 4 * 2^-24, less than this up to 60,000 columns. */
const SAFETY: f64 = 1.001;

// @ts-ignore: decorator
@inline function codeStride(cols: i32): i32 {
  return (cols + 31) & ~31;
}

// @ts-ignore: decorator
@inline function boundsAt(screen: usize, rows: i32, cols: i32): usize {
  return (screen + <usize>rows * <usize>codeStride(cols) + 63) & ~63;
}

/** Bytes of the screen of a head. */
export function screenBytes(rows: i32, cols: i32): u32 {
  return <u32>boundsAt(0, rows, cols) + 12 * <u32>rows;
}

/** Bytes of a row of the batch: 64 for s, sum of q, |h| and |h - q / s|, then q. */
// @ts-ignore: decorator
@inline export function screenRowBytes(cols: i32): i32 {
  return 64 + 2 * codeStride(cols);
}

/** Codes and factors of rows [begin, end) of w; `decoded` f32 [cols] is scratch. */
export function buildScreen(
  weightType: i32, w: usize, rows: i32, cols: i32, screen: usize, begin: i32, end: i32, decoded: usize,
): void {
  const stride = codeStride(cols);
  const bounds = boundsAt(screen, rows, cols);
  const dEnd = decoded + (<usize>cols << 2);
  for (let r = begin; r < end; r++) {
    decodeRow(weightType, w, r, cols, decoded);
    let m = f32x4.splat(0);
    for (let at = decoded; at < dEnd; at += 16) m = f32x4.max(m, f32x4.abs(v128.load(at)));
    const largest = maxF32x4(m);
    const scale = largest / 63;
    const perCode = f32x4.splat(scale), codesPer = f32x4.splat(largest >= LEAST ? 63 / largest : 0);
    const codes = screen + <usize>r * <usize>stride;
    // Sums of squares of the errors and of the weights; f32 is off by less than SAFETY.
    let off = f32x4.splat(0), all = f32x4.splat(0);
    let i: usize = 0;
    for (; i < <usize>cols; i += 8) {
      const x = v128.load(decoded + (i << 2)), y = v128.load(decoded + (i << 2), 16);
      const c = f32x4.add(f32x4.mul(x, codesPer), f32x4.splat(CODE)), d = f32x4.add(f32x4.mul(y, codesPer), f32x4.splat(CODE));
      const e = f32x4.sub(x, f32x4.mul(f32x4.sub(c, f32x4.splat(CODE)), perCode));
      const f = f32x4.sub(y, f32x4.mul(f32x4.sub(d, f32x4.splat(CODE)), perCode));
      off = f32x4.add(off, f32x4.add(f32x4.mul(e, e), f32x4.mul(f, f)));
      all = f32x4.add(all, f32x4.add(f32x4.mul(x, x), f32x4.mul(y, y)));
      const low = i32x4.splat(0xff);
      const narrow = i16x8.narrow_i32x4_s(v128.and(c, low), v128.and(d, low));
      store<i64>(codes + i, i64x2.extract_lane(i8x16.narrow_i16x8_u(narrow, narrow), 0));
    }
    for (; i < <usize>stride; i++) store<u8>(codes + i, CENTRE);
    const error = sqrt<f64>(<f64>sumF32x4(off));
    const norm = sqrt<f64>(<f64>sumF32x4(all)) + error; // at least |w| and |v|
    // Sums of cols products in f32, in the exact logit and here, are off by at most (cols / 4 + 16) roundings of |w| |h|.
    const roundings = (<f64>cols / 4 + 16) * ROUNDING;
    const at = bounds + (<usize>r << 2), plane = <usize>rows << 2;
    store<f32>(at, scale);
    // A row that holds no numbers, or whose squares would leave the range of f32, is never left out.
    const bounded = largest == 0 || (largest >= LEAST && largest <= MOST);
    store<f32>(at + plane, bounded ? <f32>((error + roundings * norm) * SAFETY) : Infinity);
    store<f32>(at + 2 * plane, bounded ? <f32>(norm * SAFETY) : 0);
  }
}

// @ts-ignore: decorator
@inline function addSquares(sum: v128, x: v128): v128 {
  const low = f64x2.promote_low_f32x4(x), high = f64x2.promote_low_f32x4(i64x2.shuffle(x, x, 1, 0));
  return f64x2.add(sum, f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high)));
}

/** A row of the batch: h f32 [cols] times `unit`; cols a multiple of 8. */
export function prepareScreened(h: usize, unit: f32, cols: i32, out: usize): void {
  const units = f32x4.splat(unit);
  let m = f32x4.splat(0);
  for (let k = 0; k < cols; k += 4) m = f32x4.max(m, f32x4.abs(v128.load(h + (<usize>k << 2))));
  const largest = maxF32x4(m) * unit;
  // Of very long rows less, in sixteens, so that the sum of products with codes up to 127 fits 31 bits.
  const most = min(LARGEST, i32.MAX_VALUE / 127 / codeStride(cols) & ~15);
  const s = <f32>(<f64>most / <f64>max<f32>(LEAST, largest));
  const perQ = f32x4.splat(<f32>1 / s);
  let sum = i32x4.splat(0);
  let off = f64x2.splat(0), all = f64x2.splat(0);
  for (let k = 0; k < codeStride(cols); k += 8) {
    let a = i32x4.splat(0), b = i32x4.splat(0);
    if (k < cols) {
      const x = f32x4.mul(v128.load(h + (<usize>k << 2)), units), y = f32x4.mul(v128.load(h + (<usize>k << 2), 16), units);
      const p = f32x4.nearest(f32x4.mul(x, f32x4.splat(s))), q = f32x4.nearest(f32x4.mul(y, f32x4.splat(s)));
      all = addSquares(addSquares(all, x), y);
      off = addSquares(addSquares(off, f32x4.sub(x, f32x4.mul(p, perQ))), f32x4.sub(y, f32x4.mul(q, perQ)));
      a = i32x4.trunc_sat_f32x4_s(p);
      b = i32x4.trunc_sat_f32x4_s(q);
      sum = i32x4.add(sum, i32x4.add(a, b));
    }
    storeScreened(out + 64, k, i16x8.narrow_i32x4_s(a, b));
  }
  store<f32>(out, <f32>1 / s);
  store<i32>(out, sumI32x4(sum), 4);
  const length = sqrt<f64>(f64x2.extract_lane(all, 0) + f64x2.extract_lane(all, 1));
  const error = sqrt<f64>(f64x2.extract_lane(off, 0) + f64x2.extract_lane(off, 1));
  store<f32>(out, <f32>(length * SAFETY), 8);
  store<f32>(out, <f32>((error + ROUNDING * length) * SAFETY), 12);
}

/**
 * How many of the largest logits a sampler with `params` (src/sampler.ts) can look at: its k best, and as many more as bias
 * and penalties may take out of them. 0 where it may look at all, or at more than the heap holds.
 */
export function screened(params: usize): i32 {
  const k = load<f64>(params, 16) > 0 ? load<i32>(params, 12) : 1;
  const all = k + load<i32>(params, 48) + load<i32>(params, 52);
  return k > 0 && all <= HEAP ? all : 0;
}

/**
 * z and z - bound of rows [begin, end), for the rows of the batch that can be screened.
 *
 *   act       [batch] rows of prepareScreened
 *   z, lower  f32 [batch][rows]
 */
export function screenRows(
  screen: usize, rows: i32, cols: i32, act: usize, batch: i32, z: usize, lower: usize, params: usize, paramsBytes: usize,
  begin: i32, end: i32,
): void {
  const stride = <usize>codeStride(cols), actBytes = <usize>screenRowBytes(cols);
  const plane = <usize>rows << 2;
  const bounds = boundsAt(screen, rows, cols);
  // A row from each of four parts at a time, as in bit_linear.ts.
  const part = (end - begin + 3) >> 2;
  for (let r = begin; r < begin + part; r++) {
    const r1 = min(r + part, end - 1), r2 = min(r + 2 * part, end - 1), r3 = min(r + 3 * part, end - 1);
    const w0 = screen + <usize>r * stride, w1 = screen + <usize>r1 * stride;
    const w2 = screen + <usize>r2 * stride, w3 = screen + <usize>r3 * stride;
    let a = act, to: usize = 0;
    for (let b = 0; b < batch; b++) {
      if (screened(params + <usize>b * paramsBytes)) {
        const dots = screenDots4(w0, w1, w2, w3, a + 64, <i32>stride);
        put(i32x4.extract_lane(dots, 0), a, bounds, plane, r, z + to, lower + to);
        put(i32x4.extract_lane(dots, 1), a, bounds, plane, r1, z + to, lower + to);
        put(i32x4.extract_lane(dots, 2), a, bounds, plane, r2, z + to, lower + to);
        put(i32x4.extract_lane(dots, 3), a, bounds, plane, r3, z + to, lower + to);
      }
      a += actBytes;
      to += plane;
    }
  }
}

// @ts-ignore: decorator
@inline function put(dot: i32, a: usize, bounds: usize, plane: usize, r: i32, z: usize, lower: usize): void {
  const at = <usize>r << 2;
  const value = <f32>(dot - CENTRE * load<i32>(a, 4)) * (load<f32>(bounds + at) * load<f32>(a));
  store<f32>(z + at, value);
  store<f32>(lower + at, value - boundOf(bounds + at, plane, load<f32>(a, 8), load<f32>(a, 12)));
}

// @ts-ignore: decorator
@inline function boundOf(bounds: usize, plane: usize, length: f32, off: f32): f32 {
  return load<f32>(bounds + plane) * length + load<f32>(bounds + 2 * plane) * off;
}

/**
 * Replaces z by the exact logits in rows [begin, end) for one row of the batch, wherever a sampler with `params` could look.
 *
 *   h        the row prepared for w (prepare.ts); a: the row of prepareScreened
 *   lower    f32 [rows] of all rows
 *   heap     scratch of `best`; decoded: f32 [cols], scratch
 */
export function rescore(
  weightType: i32, w: usize, rows: i32, cols: i32, h: usize, screen: usize, a: usize, z: usize, lower: usize, params: usize,
  begin: i32, end: i32, heap: usize, decoded: usize,
): void {
  const k = screened(params);
  if (k == 0) {
    denseLinear(w, cols, weightType, h, 1, z, 0, 0, begin, end, decoded);
    return;
  }
  const n = best(lower, rows, min(k, rows), heap);
  const threshold = n < k ? -Infinity : logitOf(<u32>(load<u64>(heap + (<usize>(k - 1) << 3)) >> 32));

  const plane = <usize>rows << 2;
  const bounds = boundsAt(screen, rows, cols);
  const length = load<f32>(a, 8), off = load<f32>(a, 12);
  for (let r = begin; r < end; r++) {
    const at = <usize>r << 2;
    // So that a bound which is no number lets the row in.
    const hopeless = load<f32>(z + at) + boundOf(bounds + at, plane, length, off) < threshold;
    if (!hopeless) denseLinear(w, cols, weightType, h, 1, z, 0, 0, r, r + 1, decoded);
  }
  // Ids with a bias, then ids under penalty.
  const biases = load<i32>(params, 48), changed = biases + load<i32>(params, 52);
  let at = params + 64;
  for (let i = 0; i < changed; i++) {
    const r = load<i32>(at);
    if (r >= begin && r < end) denseLinear(w, cols, weightType, h, 1, z, 0, 0, r, r + 1, decoded);
    at += i < biases ? 8 : 4;
  }
}
