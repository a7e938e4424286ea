// The dot products of quantised weights: with lane_tiles.ts, which is a part of it, the one place where tiers differ.
//
// DOT and PAIR are constants of the compile target (asconfig.json):
//
//   DOT 0   i32x4.dot_i16x8_s, baseline SIMD
//   DOT 1   relaxed dot into i16: pmaddubsw on x86. Exact on every engine, as neither operand leaves its range
//   DOT 2   relaxed dot added to i32: vpdpbusd where the engine knows it
//   PAIR 1  tiles, too, have two accumulators on adjacent halves, so that V8's revectoriser makes 256-bit operations of them
//
// The relaxed dots take signed 8-bit activations first and 7-bit codes second, as this order means the same everywhere.
// All sums are integers, so every target gives the same number.
//
// Memory is waited for, not only read. Hardware prefetches along a stream of addresses, and stops at each page: kernels
// therefore take rows that lie far apart, so that several streams are under way at once (bench/LOG.md).

import { DOTS, sums4, thread } from './lanes';

/** Bytes of a quantised activation: int8, or int16 where there is no 8-bit dot. */
// @ts-ignore: decorator
@inline export const ACTIVATION_BYTES: i32 = DOT == 0 ? 2 : 1;

/**
 * What this engine makes of DOT 2's dot, told by codes that leave their 7 bits: four products of 127 and 255 give 129540 as
 * vpdpbusd, 65534 as pmaddubsw (which saturates pairs) and -508 as a dot of signed bytes.
 */
export function dotProbe(): i32 {
  if (DOT == 0) return 0;
  // From memory, or a compiler could work it out by its own rules.
  const at = thread;
  memory.fill(at, 127, 16);
  memory.fill(at + 16, 255, 16);
  return i32x4.extract_lane(i32x4.relaxed_dot_i8x16_i7x16_add_s(v128.load(at), v128.load(at, 16), i32x4.splat(0)), 0);
}

// ---- ternary codes ----
//
// Weights are I2_S: 128 codes (0, 1, 2 = weight + 1) in 32 bytes, byte p holding those of k = p, 32 + p, 64 + p, 96 + p from
// the top bits down. Activations, for each 128 k:
//
//   DOT 1, 2         int8 [128] in order
//   DOT 0, one row   int16 [half 2][odd 2][field 4][8]: k = 32 field + 16 half + 2 i + odd, times 4^field. The weights' four
//                    fields are only masked, never shifted, so they carry 64, 16, 4, 1 and the product always 64
//   DOT 0, tiles     int16 [field 4][half 2][odd 2][8]
//
// TQ2_0 has 64 such bytes a block, with the fields from the bottom bits up: its activations are stored with the fields swapped
// (kernels/quantize_q8_k.ts), and the same dots serve.

/** acc + the dot of 64 codes in x, k = 0 … 15 of each field, with activations of the four fields. */
// @ts-ignore: decorator
@inline function addCodes(acc: v128, x: v128, a0: v128, a1: v128, a2: v128, a3: v128, three: v128): v128 {
  acc = i32x4.relaxed_dot_i8x16_i7x16_add_s(a0, v128.and(i16x8.shr_u(x, 6), three), acc);
  acc = i32x4.relaxed_dot_i8x16_i7x16_add_s(a1, v128.and(i16x8.shr_u(x, 4), three), acc);
  acc = i32x4.relaxed_dot_i8x16_i7x16_add_s(a2, v128.and(i16x8.shr_u(x, 2), three), acc);
  return i32x4.relaxed_dot_i8x16_i7x16_add_s(a3, v128.and(x, three), acc);
}

/** Sums of code * activation of eight rows of `cols` codes: returns where they stand, i32 [8]. */
export function bitDots8(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, act: usize, cols: i32,
): usize {
  const out = thread + DOTS;
  if (DOT == 2) dots8Add(w0, w1, w2, w3, w4, w5, w6, w7, act, cols, out);
  else if (DOT == 1) {
    v128.store(out, dots4I16(w0, w1, w2, w3, act, cols));
    v128.store(out, dots4I16(w4, w5, w6, w7, act, cols), 16);
  } else {
    v128.store(out, dots4I32(w0, w1, w2, w3, act, cols));
    v128.store(out, dots4I32(w4, w5, w6, w7, act, cols), 16);
  }
  return out;
}

/** The same of 256 codes. */
// @ts-ignore: decorator
@inline export function bitDots8x256(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, act: usize,
): usize {
  const out = thread + DOTS;
  if (DOT == 2 && PAIR) dots8Add(w0, w1, w2, w3, w4, w5, w6, w7, act, 256, out);
  else if (DOT == 2) {
    v128.store(out, dots4Masked(w0, w1, w2, w3, act));
    v128.store(out, dots4Masked(w4, w5, w6, w7, act), 16);
  } else bitDots8(w0, w1, w2, w3, w4, w5, w6, w7, act, 256);
  return out;
}

/**
 * Sums of four rows of 256 codes, i32x4. In so short a row joining sums counts as much as shifts do: two fields are masked without a
 * shift and summed apart, four times too large (relaxed, in cache: 0.92 of the speed of I2_S, 0.83 with three shifts).
 */
// @ts-ignore: decorator
@inline function dots4Masked(w0: usize, w1: usize, w2: usize, w3: usize, act: usize): v128 {
  const at = thread;
  const three = v128.load(at, 704), twelve = v128.load(at, 736);
  const end = w0 + 64;
  let a = i32x4.splat(0), b = i32x4.splat(0), c = i32x4.splat(0), d = i32x4.splat(0);
  let e = i32x4.splat(0), f = i32x4.splat(0), g = i32x4.splat(0), h = i32x4.splat(0);
  while (w0 < end) {
    for (let half: usize = 0; half < 32; half += 16) {
      const k0 = v128.load(act + half), k1 = v128.load(act + half, 32), k2 = v128.load(act + half, 64), k3 = v128.load(act + half, 96);
      let x = v128.load(w0 + half), y = i16x8.shr_u(x, 4);
      a = dotAdd(dotAdd(a, k3, v128.and(x, three)), k1, v128.and(y, three));
      e = dotAdd(dotAdd(e, k2, v128.and(x, twelve)), k0, v128.and(y, twelve));
      x = v128.load(w1 + half); y = i16x8.shr_u(x, 4);
      b = dotAdd(dotAdd(b, k3, v128.and(x, three)), k1, v128.and(y, three));
      f = dotAdd(dotAdd(f, k2, v128.and(x, twelve)), k0, v128.and(y, twelve));
      x = v128.load(w2 + half); y = i16x8.shr_u(x, 4);
      c = dotAdd(dotAdd(c, k3, v128.and(x, three)), k1, v128.and(y, three));
      g = dotAdd(dotAdd(g, k2, v128.and(x, twelve)), k0, v128.and(y, twelve));
      x = v128.load(w3 + half); y = i16x8.shr_u(x, 4);
      d = dotAdd(dotAdd(d, k3, v128.and(x, three)), k1, v128.and(y, three));
      h = dotAdd(dotAdd(h, k2, v128.and(x, twelve)), k0, v128.and(y, twelve));
    }
    act += 128;
    w0 += 32; w1 += 32; w2 += 32; w3 += 32;
  }
  return i32x4.add(sums4(a, b, c, d), i32x4.shr_s(sums4(e, f, g, h), 2));
}

// In pair shape also for 128 bits, where it is no slower (bench/LOG.md): eight sums hide the latency of the dots.

// @ts-ignore: decorator
@inline function dots8Add(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, act: usize, cols: i32, out: usize,
): void {
  const at = thread;
  const threeL = v128.load(at, 704), threeH = v128.load(at, 720);
  const end = w0 + <usize>(cols >> 2);
  let aL = i32x4.splat(0), aH = i32x4.splat(0), bL = i32x4.splat(0), bH = i32x4.splat(0);
  let cL = i32x4.splat(0), cH = i32x4.splat(0), dL = i32x4.splat(0), dH = i32x4.splat(0);
  let eL = i32x4.splat(0), eH = i32x4.splat(0), fL = i32x4.splat(0), fH = i32x4.splat(0);
  let gL = i32x4.splat(0), gH = i32x4.splat(0), hL = i32x4.splat(0), hH = i32x4.splat(0);
  while (w0 < end) {
    const k0L = v128.load(act), k0H = v128.load(act, 16), k1L = v128.load(act, 32), k1H = v128.load(act, 48);
    const k2L = v128.load(act, 64), k2H = v128.load(act, 80), k3L = v128.load(act, 96), k3H = v128.load(act, 112);
    aL = addCodes(aL, v128.load(w0), k0L, k1L, k2L, k3L, threeL);
    aH = addCodes(aH, v128.load(w0, 16), k0H, k1H, k2H, k3H, threeH);
    bL = addCodes(bL, v128.load(w1), k0L, k1L, k2L, k3L, threeL);
    bH = addCodes(bH, v128.load(w1, 16), k0H, k1H, k2H, k3H, threeH);
    cL = addCodes(cL, v128.load(w2), k0L, k1L, k2L, k3L, threeL);
    cH = addCodes(cH, v128.load(w2, 16), k0H, k1H, k2H, k3H, threeH);
    dL = addCodes(dL, v128.load(w3), k0L, k1L, k2L, k3L, threeL);
    dH = addCodes(dH, v128.load(w3, 16), k0H, k1H, k2H, k3H, threeH);
    eL = addCodes(eL, v128.load(w4), k0L, k1L, k2L, k3L, threeL);
    eH = addCodes(eH, v128.load(w4, 16), k0H, k1H, k2H, k3H, threeH);
    fL = addCodes(fL, v128.load(w5), k0L, k1L, k2L, k3L, threeL);
    fH = addCodes(fH, v128.load(w5, 16), k0H, k1H, k2H, k3H, threeH);
    gL = addCodes(gL, v128.load(w6), k0L, k1L, k2L, k3L, threeL);
    gH = addCodes(gH, v128.load(w6, 16), k0H, k1H, k2H, k3H, threeH);
    hL = addCodes(hL, v128.load(w7), k0L, k1L, k2L, k3L, threeL);
    hH = addCodes(hH, v128.load(w7, 16), k0H, k1H, k2H, k3H, threeH);
    act += 128;
    w0 += 32; w1 += 32; w2 += 32; w3 += 32; w4 += 32; w5 += 32; w6 += 32; w7 += 32;
  }
  // Adjacent stores with one base and immediate offsets are what the revectoriser grows its pairs from.
  v128.store(at, aL); v128.store(at, aH, 16);
  v128.store(at, bL, 32); v128.store(at, bH, 48);
  v128.store(at, cL, 64); v128.store(at, cH, 80);
  v128.store(at, dL, 96); v128.store(at, dH, 112);
  v128.store(at, eL, 128); v128.store(at, eH, 144);
  v128.store(at, fL, 160); v128.store(at, fH, 176);
  v128.store(at, gL, 192); v128.store(at, gH, 208);
  v128.store(at, hL, 224); v128.store(at, hH, 240);
  v128.store(out, sumPairs4(at));
  v128.store(out, sumPairs4(at + 128), 16);
}

/** sums4 of four accumulators in two halves each, as they were stored at `at`. */
// @ts-ignore: decorator
@inline function sumPairs4(at: usize): v128 {
  return sums4(
    i32x4.add(v128.load(at), v128.load(at, 16)), i32x4.add(v128.load(at, 32), v128.load(at, 48)),
    i32x4.add(v128.load(at, 64), v128.load(at, 80)), i32x4.add(v128.load(at, 96), v128.load(at, 112)),
  );
}

// relaxed_dot<i16> multiplies int8 by 7-bit codes and adds neighbours into i16: at most 2 * 2 * 127 = 508. Masking with 3 and
// with 12 (codes times 4) saves a shift per field; so a and b grow by up to 1016 and 4064 a step of 64 weights, and 8 steps fit
// an i16. pmaddubsw on x86: exact on every engine since neither operand leaves its range.

// @ts-ignore: decorator
@inline function addFields(a: v128, x: v128, y: v128, k1: v128, k3: v128, three: v128): v128 {
  return i16x8.add(i16x8.add(a, v128.relaxed_dot<i16>(k1, v128.and(y, three))), v128.relaxed_dot<i16>(k3, v128.and(x, three)));
}

// @ts-ignore: decorator
@inline function sumFields(sum: v128, a: v128, b: v128): v128 {
  return i32x4.add(sum, i32x4.add(i32x4.extadd_pairwise_i16x8_s(a), i32x4.shr_s(i32x4.extadd_pairwise_i16x8_s(b), 2)));
}

/** Sums of four rows of `cols` codes, i32x4. */
function dots4I16(w0: usize, w1: usize, w2: usize, w3: usize, act: usize, cols: i32): v128 {
  const at = thread;
  const three = v128.load(at, 704), twelve = v128.load(at, 736);
  const end = w0 + <usize>(cols >> 2);
  let s0 = i32x4.splat(0), s1 = i32x4.splat(0), s2 = i32x4.splat(0), s3 = i32x4.splat(0);
  while (w0 < end) {
    let a0 = i16x8.splat(0), b0 = i16x8.splat(0), a1 = i16x8.splat(0), b1 = i16x8.splat(0);
    let a2 = i16x8.splat(0), b2 = i16x8.splat(0), a3 = i16x8.splat(0), b3 = i16x8.splat(0);
    const stop = min(w0 + 4 * 32, end);
    while (w0 < stop) {
      for (let half: usize = 0; half < 32; half += 16) {
        const k0 = v128.load(act + half), k1 = v128.load(act + half, 32), k2 = v128.load(act + half, 64), k3 = v128.load(act + half, 96);
        let x = v128.load(w0 + half), y = i16x8.shr_u(x, 4);
        b0 = addFields(b0, x, y, k0, k2, twelve); a0 = addFields(a0, x, y, k1, k3, three);
        x = v128.load(w1 + half); y = i16x8.shr_u(x, 4);
        b1 = addFields(b1, x, y, k0, k2, twelve); a1 = addFields(a1, x, y, k1, k3, three);
        x = v128.load(w2 + half); y = i16x8.shr_u(x, 4);
        b2 = addFields(b2, x, y, k0, k2, twelve); a2 = addFields(a2, x, y, k1, k3, three);
        x = v128.load(w3 + half); y = i16x8.shr_u(x, 4);
        b3 = addFields(b3, x, y, k0, k2, twelve); a3 = addFields(a3, x, y, k1, k3, three);
      }
      act += 128;
      w0 += 32; w1 += 32; w2 += 32; w3 += 32;
    }
    s0 = sumFields(s0, a0, b0); s1 = sumFields(s1, a1, b1); s2 = sumFields(s2, a2, b2); s3 = sumFields(s3, a3, b3);
  }
  return sums4(s0, s1, s2, s3);
}

/** The same with int16 activations. */
function dots4I32(w0: usize, w1: usize, w2: usize, w3: usize, act: usize, cols: i32): v128 {
  const at = thread;
  const m0 = v128.load(at, 800), m1 = v128.load(at, 816), m2 = v128.load(at, 832), m3 = v128.load(at, 848);
  const end = w0 + <usize>(cols >> 2);
  let a = i32x4.splat(0), b = i32x4.splat(0), c = i32x4.splat(0), d = i32x4.splat(0);
  while (w0 < end) {
    for (let half: usize = 0; half < 32; half += 16) {
      let x = v128.load(w0 + half), y = v128.load(w1 + half), z = v128.load(w2 + half), u = v128.load(w3 + half);
      for (let odd = 0; odd < 2; odd++) {
        let k = v128.load(act);
        a = addMasked(a, x, k, m0); b = addMasked(b, y, k, m0); c = addMasked(c, z, k, m0); d = addMasked(d, u, k, m0);
        k = v128.load(act, 16);
        a = addMasked(a, x, k, m1); b = addMasked(b, y, k, m1); c = addMasked(c, z, k, m1); d = addMasked(d, u, k, m1);
        k = v128.load(act, 32);
        a = addMasked(a, x, k, m2); b = addMasked(b, y, k, m2); c = addMasked(c, z, k, m2); d = addMasked(d, u, k, m2);
        k = v128.load(act, 48);
        a = addMasked(a, x, k, m3); b = addMasked(b, y, k, m3); c = addMasked(c, z, k, m3); d = addMasked(d, u, k, m3);
        x = i16x8.shr_u(x, 8); y = i16x8.shr_u(y, 8); z = i16x8.shr_u(z, 8); u = i16x8.shr_u(u, 8);
        act += 64;
      }
    }
    w0 += 32; w1 += 32; w2 += 32; w3 += 32;
  }
  return i32x4.shr_s(sums4(a, b, c, d), 6);
}

// @ts-ignore: decorator
@inline function addMasked(sum: v128, x: v128, k: v128, mask: v128): v128 {
  return i32x4.add(sum, i32x4.dot_i16x8_s(v128.and(x, mask), k));
}

/**
 * Rows of a tile. With two rows of activations it has as many sums as hide the latency of the dots and fit the registers
 * (bench/LOG.md, tiles of six rows).
 */
// @ts-ignore: decorator
@inline export const TILE: i32 = DOT == 2 ? 6 : 4;

/**
 * Unpacks TILE rows of `cols` codes for `bitTile`, TILE * cols bytes:
 *
 *   DOT 1, 2   codes u8 [cols / 32][row TILE][32]
 *   DOT 0      int16 [cols / 8][rows 0 and 1, rows 2 and 3][8] in the order of the activations, each lane w + 16384 v for the
 *              weights w and v (-1, 0, 1) of two rows: one multiplication serves both (SWAR)
 */
export function bitUnpack(w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, cols: i32, tile: usize): void {
  const at = thread;
  const end = w0 + <usize>(cols >> 2);
  if (DOT == 0) {
    const three = v128.load(at, 848), one = v128.load(at, 864);
    for (; w0 < end; w0 += 32, w1 += 32, w2 += 32, w3 += 32) {
      for (let n = 6; n >= 0; n -= 2) {
        for (let half: usize = 0; half < 32; half += 16) {
          const a = v128.load(w0 + half), b = v128.load(w1 + half), c = v128.load(w2 + half), d = v128.load(w3 + half);
          v128.store(tile, swar(a, b, n, three, one));
          v128.store(tile, swar(c, d, n, three, one), 16);
          v128.store(tile, swar(a, b, n + 8, three, one), 32);
          v128.store(tile, swar(c, d, n + 8, three, one), 48);
          tile += 64;
        }
      }
    }
    return;
  }
  const threeL = v128.load(at, 704), threeH = v128.load(at, 720);
  for (; w0 < end; w0 += 32, w1 += 32, w2 += 32, w3 += 32) {
    unpack(w0, tile, threeL, threeH);
    unpack(w1, tile + 32, threeL, threeH);
    unpack(w2, tile + 64, threeL, threeH);
    unpack(w3, tile + 96, threeL, threeH);
    if (TILE == 6) {
      unpack(w4, tile + 128, threeL, threeH);
      unpack(w5, tile + 160, threeL, threeH);
      w4 += 32; w5 += 32;
    }
    tile += 128 * TILE;
  }
}

// @ts-ignore: decorator
@inline export function swar(a: v128, b: v128, n: i32, three: v128, one: v128): v128 {
  const low = v128.and(i16x8.shr_u(a, n), three), high = v128.and(i16x8.shr_u(b, n), three);
  return i16x8.sub(v128.or(low, i16x8.shl(high, 14)), one);
}

/** The four fields of 32 bytes, each where its k begin. */
// @ts-ignore: decorator
@inline function unpack(w: usize, tile: usize, threeL: v128, threeH: v128): void {
  const l = v128.load(w), h = v128.load(w, 16);
  v128.store(tile, v128.and(i16x8.shr_u(l, 6), threeL)); v128.store(tile, v128.and(i16x8.shr_u(h, 6), threeH), 16);
  tile += 32 * TILE;
  v128.store(tile, v128.and(i16x8.shr_u(l, 4), threeL)); v128.store(tile, v128.and(i16x8.shr_u(h, 4), threeH), 16);
  tile += 32 * TILE;
  v128.store(tile, v128.and(i16x8.shr_u(l, 2), threeL)); v128.store(tile, v128.and(i16x8.shr_u(h, 2), threeH), 16);
  tile += 32 * TILE;
  v128.store(tile, v128.and(l, threeL)); v128.store(tile, v128.and(h, threeH), 16);
}

/**
 * The dots of TILE unpacked rows with two rows of activations, p and q: of codes with DOT 1 and 2 (the caller takes off the
 * sum of the activations), of weights with DOT 0. Returns where they stand, i32 [8] for p, then for q.
 */
export function bitTile(tile: usize, p: usize, q: usize, cols: i32): usize {
  const end = tile + <usize>(TILE * cols);
  const out = thread + DOTS;
  if (DOT == 2 && PAIR) tileAddPair(tile, end, p, q, out);
  else if (DOT == 2) tileAdd(tile, end, p, q, out);
  else if (DOT == 1) tileI16(tile, end, p, q, out);
  else tileSwar(tile, end, p, q, out);
  return out;
}

// @ts-ignore: decorator
@inline export function dotAdd(acc: v128, k: v128, x: v128): v128 {
  return i32x4.relaxed_dot_i8x16_i7x16_add_s(k, x, acc);
}

// @ts-ignore: decorator
@inline function tileAddPair(tile: usize, end: usize, p: usize, q: usize, out: usize): void {
  const at = thread;
  let paL = i32x4.splat(0), paH = i32x4.splat(0), pbL = i32x4.splat(0), pbH = i32x4.splat(0), pcL = i32x4.splat(0), pcH = i32x4.splat(0);
  let pdL = i32x4.splat(0), pdH = i32x4.splat(0), peL = i32x4.splat(0), peH = i32x4.splat(0), pfL = i32x4.splat(0), pfH = i32x4.splat(0);
  let qaL = i32x4.splat(0), qaH = i32x4.splat(0), qbL = i32x4.splat(0), qbH = i32x4.splat(0), qcL = i32x4.splat(0), qcH = i32x4.splat(0);
  let qdL = i32x4.splat(0), qdH = i32x4.splat(0), qeL = i32x4.splat(0), qeH = i32x4.splat(0), qfL = i32x4.splat(0), qfH = i32x4.splat(0);
  for (; tile < end; tile += 192, p += 32, q += 32) {
    const pL = v128.load(p), pH = v128.load(p, 16), qL = v128.load(q), qH = v128.load(q, 16);
    let l = v128.load(tile), h = v128.load(tile, 16);
    paL = dotAdd(paL, pL, l); paH = dotAdd(paH, pH, h); qaL = dotAdd(qaL, qL, l); qaH = dotAdd(qaH, qH, h);
    l = v128.load(tile, 32); h = v128.load(tile, 48);
    pbL = dotAdd(pbL, pL, l); pbH = dotAdd(pbH, pH, h); qbL = dotAdd(qbL, qL, l); qbH = dotAdd(qbH, qH, h);
    l = v128.load(tile, 64); h = v128.load(tile, 80);
    pcL = dotAdd(pcL, pL, l); pcH = dotAdd(pcH, pH, h); qcL = dotAdd(qcL, qL, l); qcH = dotAdd(qcH, qH, h);
    l = v128.load(tile, 96); h = v128.load(tile, 112);
    pdL = dotAdd(pdL, pL, l); pdH = dotAdd(pdH, pH, h); qdL = dotAdd(qdL, qL, l); qdH = dotAdd(qdH, qH, h);
    l = v128.load(tile, 128); h = v128.load(tile, 144);
    peL = dotAdd(peL, pL, l); peH = dotAdd(peH, pH, h); qeL = dotAdd(qeL, qL, l); qeH = dotAdd(qeH, qH, h);
    l = v128.load(tile, 160); h = v128.load(tile, 176);
    pfL = dotAdd(pfL, pL, l); pfH = dotAdd(pfH, pH, h); qfL = dotAdd(qfL, qL, l); qfH = dotAdd(qfH, qH, h);
  }
  v128.store(at, paL); v128.store(at, paH, 16);
  v128.store(at, pbL, 32); v128.store(at, pbH, 48);
  v128.store(at, pcL, 64); v128.store(at, pcH, 80);
  v128.store(at, pdL, 96); v128.store(at, pdH, 112);
  v128.store(at, peL, 128); v128.store(at, peH, 144);
  v128.store(at, pfL, 160); v128.store(at, pfH, 176);
  v128.store(at, qaL, 192); v128.store(at, qaH, 208);
  v128.store(at, qbL, 224); v128.store(at, qbH, 240);
  v128.store(at, qcL, 256); v128.store(at, qcH, 272);
  v128.store(at, qdL, 288); v128.store(at, qdH, 304);
  v128.store(at, qeL, 320); v128.store(at, qeH, 336);
  v128.store(at, qfL, 352); v128.store(at, qfH, 368);
  v128.store(out, sumPairs4(at));
  v128.store(out, sumPairs4(at + 128), 16); // the fifth and sixth, and what is not looked at
  v128.store(out, sumPairs4(at + 192), 32);
  v128.store(out, sumPairs4(at + 320), 48);
}

// @ts-ignore: decorator
@inline function tileAdd(tile: usize, end: usize, p: usize, q: usize, out: usize): void {
  let pa = i32x4.splat(0), pb = i32x4.splat(0), pc = i32x4.splat(0), pd = i32x4.splat(0), pe = i32x4.splat(0), pf = i32x4.splat(0);
  let qa = i32x4.splat(0), qb = i32x4.splat(0), qc = i32x4.splat(0), qd = i32x4.splat(0), qe = i32x4.splat(0), qf = i32x4.splat(0);
  for (; tile < end; tile += 192, p += 32, q += 32) {
    let k = v128.load(p), j = v128.load(q);
    let x = v128.load(tile);
    pa = dotAdd(pa, k, x); qa = dotAdd(qa, j, x);
    x = v128.load(tile, 32);
    pb = dotAdd(pb, k, x); qb = dotAdd(qb, j, x);
    x = v128.load(tile, 64);
    pc = dotAdd(pc, k, x); qc = dotAdd(qc, j, x);
    x = v128.load(tile, 96);
    pd = dotAdd(pd, k, x); qd = dotAdd(qd, j, x);
    x = v128.load(tile, 128);
    pe = dotAdd(pe, k, x); qe = dotAdd(qe, j, x);
    x = v128.load(tile, 160);
    pf = dotAdd(pf, k, x); qf = dotAdd(qf, j, x);
    k = v128.load(p, 16); j = v128.load(q, 16);
    x = v128.load(tile, 16);
    pa = dotAdd(pa, k, x); qa = dotAdd(qa, j, x);
    x = v128.load(tile, 48);
    pb = dotAdd(pb, k, x); qb = dotAdd(qb, j, x);
    x = v128.load(tile, 80);
    pc = dotAdd(pc, k, x); qc = dotAdd(qc, j, x);
    x = v128.load(tile, 112);
    pd = dotAdd(pd, k, x); qd = dotAdd(qd, j, x);
    x = v128.load(tile, 144);
    pe = dotAdd(pe, k, x); qe = dotAdd(qe, j, x);
    x = v128.load(tile, 176);
    pf = dotAdd(pf, k, x); qf = dotAdd(qf, j, x);
  }
  v128.store(out, sums4(pa, pb, pc, pd));
  v128.store(out, sums4(pe, pf, pf, pf), 16); // the fifth and sixth, and what is not looked at
  v128.store(out, sums4(qa, qb, qc, qd), 32);
  v128.store(out, sums4(qe, qf, qf, qf), 48);
}

// @ts-ignore: decorator
@inline export function dotI16(acc: v128, k: v128, x: v128): v128 {
  return i16x8.add(acc, v128.relaxed_dot<i16>(k, x));
}

// @ts-ignore: decorator
@inline function widen(sum: v128, acc: v128): v128 {
  return i32x4.add(sum, i32x4.extadd_pairwise_i16x8_s(acc));
}

// @ts-ignore: decorator
@inline function tileI16(tile: usize, end: usize, p: usize, q: usize, out: usize): void {
  let sa = i32x4.splat(0), sb = i32x4.splat(0), sc = i32x4.splat(0), sd = i32x4.splat(0);
  let ta = i32x4.splat(0), tb = i32x4.splat(0), tc = i32x4.splat(0), td = i32x4.splat(0);
  while (tile < end) {
    // A dot adds at most 2 * 2 * 127 = 508 to a lane: 64 of them fit an i16.
    const stop = min(tile + 32 * 128, end);
    let pa = i16x8.splat(0), pb = i16x8.splat(0), pc = i16x8.splat(0), pd = i16x8.splat(0);
    let qa = i16x8.splat(0), qb = i16x8.splat(0), qc = i16x8.splat(0), qd = i16x8.splat(0);
    for (; tile < stop; tile += 128, p += 32, q += 32) {
      let k = v128.load(p), j = v128.load(q);
      let x = v128.load(tile);
      pa = dotI16(pa, k, x); qa = dotI16(qa, j, x);
      x = v128.load(tile, 32);
      pb = dotI16(pb, k, x); qb = dotI16(qb, j, x);
      x = v128.load(tile, 64);
      pc = dotI16(pc, k, x); qc = dotI16(qc, j, x);
      x = v128.load(tile, 96);
      pd = dotI16(pd, k, x); qd = dotI16(qd, j, x);
      k = v128.load(p, 16); j = v128.load(q, 16);
      x = v128.load(tile, 16);
      pa = dotI16(pa, k, x); qa = dotI16(qa, j, x);
      x = v128.load(tile, 48);
      pb = dotI16(pb, k, x); qb = dotI16(qb, j, x);
      x = v128.load(tile, 80);
      pc = dotI16(pc, k, x); qc = dotI16(qc, j, x);
      x = v128.load(tile, 112);
      pd = dotI16(pd, k, x); qd = dotI16(qd, j, x);
    }
    sa = widen(sa, pa); sb = widen(sb, pb); sc = widen(sc, pc); sd = widen(sd, pd);
    ta = widen(ta, qa); tb = widen(tb, qb); tc = widen(tc, qc); td = widen(td, qd);
  }
  v128.store(out, sums4(sa, sb, sc, sd));
  v128.store(out, sums4(ta, tb, tc, td), 32);
}

/** The sum of the first weights: the low 14 bits of a lane, signed. */
// @ts-ignore: decorator
@inline export function lowSum(acc: v128): v128 {
  return i32x4.shr_s(i32x4.shl(acc, 18), 18);
}

// @ts-ignore: decorator
@inline function tileSwar(tile: usize, end: usize, p: usize, q: usize, out: usize): void {
  let pa = i32x4.splat(0), pb = i32x4.splat(0), pc = i32x4.splat(0), pd = i32x4.splat(0);
  let qa = i32x4.splat(0), qb = i32x4.splat(0), qc = i32x4.splat(0), qd = i32x4.splat(0);
  while (tile < end) {
    // A lane takes two products a step: after 32 steps the low sum is at most 32 * 2 * 127 = 8128 and still fits 14 bits.
    const stop = min(tile + 32 * 32, end);
    let pab = i32x4.splat(0), pcd = i32x4.splat(0), qab = i32x4.splat(0), qcd = i32x4.splat(0);
    for (; tile < stop; tile += 64, p += 32, q += 32) {
      let k = v128.load(p), j = v128.load(q);
      let x = v128.load(tile), y = v128.load(tile, 16);
      pab = i32x4.add(pab, i32x4.dot_i16x8_s(k, x)); qab = i32x4.add(qab, i32x4.dot_i16x8_s(j, x));
      pcd = i32x4.add(pcd, i32x4.dot_i16x8_s(k, y)); qcd = i32x4.add(qcd, i32x4.dot_i16x8_s(j, y));
      k = v128.load(p, 16); j = v128.load(q, 16);
      x = v128.load(tile, 32); y = v128.load(tile, 48);
      pab = i32x4.add(pab, i32x4.dot_i16x8_s(k, x)); qab = i32x4.add(qab, i32x4.dot_i16x8_s(j, x));
      pcd = i32x4.add(pcd, i32x4.dot_i16x8_s(k, y)); qcd = i32x4.add(qcd, i32x4.dot_i16x8_s(j, y));
    }
    let low = lowSum(pab);
    pa = i32x4.add(pa, low); pb = i32x4.add(pb, i32x4.shr_s(i32x4.sub(pab, low), 14));
    low = lowSum(pcd);
    pc = i32x4.add(pc, low); pd = i32x4.add(pd, i32x4.shr_s(i32x4.sub(pcd, low), 14));
    low = lowSum(qab);
    qa = i32x4.add(qa, low); qb = i32x4.add(qb, i32x4.shr_s(i32x4.sub(qab, low), 14));
    low = lowSum(qcd);
    qc = i32x4.add(qc, low); qd = i32x4.add(qd, i32x4.shr_s(i32x4.sub(qcd, low), 14));
  }
  v128.store(out, sums4(pa, pb, pc, pd));
  v128.store(out, sums4(qa, qb, qc, qd), 32);
}

/**
 * Writes activations k (a multiple of 16) … k + 15, int16 lanes of a and b within int8, into the layout of this target, for
 * tiles or for one row at a time, or `inOrder`, as int8.
 */
// @ts-ignore: decorator
@inline export function storeActivations(act: usize, k: i32, a: v128, b: v128, tiles: bool, inOrder: bool): void {
  if (DOT != 0 || inOrder) {
    v128.store(act + k, i8x16.narrow_i16x8_s(a, b));
    return;
  }
  const even = i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14), odd = i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  // k = 128 block + 32 field + 16 half
  const field = (k >> 5) & 3, half = (k >> 4) & 1;
  const block = act + <usize>((k >> 7) << 8);
  if (tiles) {
    const at = block + <usize>((field << 6) + (half << 5));
    v128.store(at, even);
    v128.store(at, odd, 16);
  } else {
    const at = block + <usize>((half << 7) + (field << 4));
    v128.store(at, i16x8.shl(even, field << 1));
    v128.store(at, i16x8.shl(odd, field << 1), 64);
  }
}

// ---- tables of 16 bytes (kernels/lookup.ts, kernels/repack_tl.ts) ----

/** table[index] in each byte; indices are below 16, for which the relaxed lookup means the same everywhere. */
// @ts-ignore: decorator
@inline export function lookup(table: v128, index: v128): v128 {
  return DOT == 0 ? i8x16.swizzle(table, index) : i8x16.relaxed_swizzle(table, index);
}

// ---- 7-bit codes of a screened head (kernels/screen.ts) ----
//
// Codes u8, in order. An activation is a whole number from -2032 to 2032; for each 32 k:
//
//   DOT 1, 2   int8 [32] of the sixteenths, then int8 [32] of the rest: q = 16 high + low, high -127 … 127, low -8 … 7
//   DOT 0      int16 [32]

/** Writes activations k (a multiple of 8) … k + 7, the lanes of q. */
// @ts-ignore: decorator
@inline export function storeScreened(act: usize, k: i32, q: v128): void {
  if (DOT == 0) {
    v128.store(act + <usize>(k << 1), q);
    return;
  }
  const high = i16x8.shr_s(i16x8.add(q, i16x8.splat(8)), 4);
  const low = i16x8.sub(q, i16x8.shl(high, 4));
  const at = act + <usize>(((k >> 5) << 6) + (k & 31));
  store<i64>(at, i64x2.extract_lane(i8x16.narrow_i16x8_s(high, high), 0));
  store<i64>(at, i64x2.extract_lane(i8x16.narrow_i16x8_s(low, low), 0), 32);
}

/** Sums of code * activation of four rows of `cols` codes, i32x4; cols a multiple of 32. */
export function screenDots4(w0: usize, w1: usize, w2: usize, w3: usize, act: usize, cols: i32): v128 {
  const at = thread;
  const end = w0 + <usize>cols;
  // Sixteenths of the four rows, then rests.
  let a = i32x4.splat(0), b = i32x4.splat(0), c = i32x4.splat(0), d = i32x4.splat(0);
  let e = i32x4.splat(0), f = i32x4.splat(0), g = i32x4.splat(0), h = i32x4.splat(0);
  if (DOT == 2) {
    let aH = i32x4.splat(0), bH = i32x4.splat(0), cH = i32x4.splat(0), dH = i32x4.splat(0);
    let eH = i32x4.splat(0), fH = i32x4.splat(0), gH = i32x4.splat(0), hH = i32x4.splat(0);
    for (; w0 < end; w0 += 32, w1 += 32, w2 += 32, w3 += 32, act += 64) {
      const kL = v128.load(act), kH = v128.load(act, 16), jL = v128.load(act, 32), jH = v128.load(act, 48);
      let l = v128.load(w0), m = v128.load(w0, 16);
      a = dotAdd(a, kL, l); aH = dotAdd(aH, kH, m); e = dotAdd(e, jL, l); eH = dotAdd(eH, jH, m);
      l = v128.load(w1); m = v128.load(w1, 16);
      b = dotAdd(b, kL, l); bH = dotAdd(bH, kH, m); f = dotAdd(f, jL, l); fH = dotAdd(fH, jH, m);
      l = v128.load(w2); m = v128.load(w2, 16);
      c = dotAdd(c, kL, l); cH = dotAdd(cH, kH, m); g = dotAdd(g, jL, l); gH = dotAdd(gH, jH, m);
      l = v128.load(w3); m = v128.load(w3, 16);
      d = dotAdd(d, kL, l); dH = dotAdd(dH, kH, m); h = dotAdd(h, jL, l); hH = dotAdd(hH, jH, m);
    }
    v128.store(at, a); v128.store(at, aH, 16);
    v128.store(at, b, 32); v128.store(at, bH, 48);
    v128.store(at, c, 64); v128.store(at, cH, 80);
    v128.store(at, d, 96); v128.store(at, dH, 112);
    v128.store(at, e, 128); v128.store(at, eH, 144);
    v128.store(at, f, 160); v128.store(at, fH, 176);
    v128.store(at, g, 192); v128.store(at, gH, 208);
    v128.store(at, h, 224); v128.store(at, hH, 240);
    return i32x4.add(i32x4.shl(sumPairs4(at), 4), sumPairs4(at + 128));
  }
  for (; w0 < end; w0 += 32, w1 += 32, w2 += 32, w3 += 32, act += 64) {
    for (let half: usize = 0; half < 32; half += 16) {
      const x = v128.load(w0 + half), y = v128.load(w1 + half), z = v128.load(w2 + half), u = v128.load(w3 + half);
      if (DOT == 0) {
        // Activations are whole int16: the two sums are of the low and of the high eight k.
        const k = v128.load(act + 2 * half), j = v128.load(act + 2 * half, 16);
        a = dotLow(a, k, x); b = dotLow(b, k, y); c = dotLow(c, k, z); d = dotLow(d, k, u);
        e = dotHigh(e, j, x); f = dotHigh(f, j, y); g = dotHigh(g, j, z); h = dotHigh(h, j, u);
      } else {
        const k = v128.load(act + half), j = v128.load(act + half, 32);
        a = dotBytes(a, k, x); b = dotBytes(b, k, y); c = dotBytes(c, k, z); d = dotBytes(d, k, u);
        e = dotBytes(e, j, x); f = dotBytes(f, j, y); g = dotBytes(g, j, z); h = dotBytes(h, j, u);
      }
    }
  }
  const first = sums4(a, b, c, d);
  return i32x4.add(DOT == 0 ? first : i32x4.shl(first, 4), sums4(e, f, g, h));
}

/** acc + the dot of 16 int8 and 16 codes. */
// @ts-ignore: decorator
@inline function dotBytes(acc: v128, k: v128, x: v128): v128 {
  return widen(acc, v128.relaxed_dot<i16>(k, x)); // two products of 127 * 127 just fit an i16 lane
}

/** acc + the dot of 8 int16 and the low 8 codes. */
// @ts-ignore: decorator
@inline function dotLow(acc: v128, k: v128, x: v128): v128 {
  return i32x4.add(acc, i32x4.dot_i16x8_s(k, i16x8.extend_low_i8x16_u(x)));
}

// @ts-ignore: decorator
@inline function dotHigh(acc: v128, k: v128, x: v128): v128 {
  return i32x4.add(acc, i32x4.dot_i16x8_s(k, i16x8.extend_high_i8x16_u(x)));
}
