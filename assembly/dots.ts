// The dot products of quantised weights: the one place where tiers differ.
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

/** The same of 256 codes, to `out`. */
// @ts-ignore: decorator
@inline export function bitDots8x256(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, act: usize, out: usize,
): void {
  if (DOT == 2 && PAIR) dots8Add(w0, w1, w2, w3, w4, w5, w6, w7, act, 256, out);
  else if (DOT == 2) {
    v128.store(out, dots4Masked(w0, w1, w2, w3, act));
    v128.store(out, dots4Masked(w4, w5, w6, w7, act), 16);
  } else if (DOT == 1) {
    v128.store(out, dots4I16(w0, w1, w2, w3, act, 256));
    v128.store(out, dots4I16(w4, w5, w6, w7, act, 256), 16);
  } else {
    v128.store(out, dots4I32(w0, w1, w2, w3, act, 256));
    v128.store(out, dots4I32(w4, w5, w6, w7, act, 256), 16);
  }
}

/** Sums of four rows of 256 codes, i32x4: two fields are masked without a shift and summed apart, four times too large. */
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
@inline function swar(a: v128, b: v128, n: i32, three: v128, one: v128): v128 {
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
@inline function dotAdd(acc: v128, k: v128, x: v128): v128 {
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
@inline function dotI16(acc: v128, k: v128, x: v128): v128 {
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
@inline function lowSum(acc: v128): v128 {
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

// ---- tiles of 256 columns ----
//
// Where every 256 weights have a scale of their own, joining the lanes of each row's sum so often would take as long as the
// dots. Here a lane is a row: activations are splat, four (DOT 0: two) at a time, and sums need no joining.
//
//   DOT 1, 2   codes u8 [64][LANES][4]: four k of each row
//   DOT 0      int16 [128][LANES / 8][4][2]: two k of four rows, each w + 16384 v for the weights of rows i and i + 4 of eight

/** Rows of such a tile: with two rows of activations as many sums as hide the latency of the dots and fit the registers. */
// @ts-ignore: decorator
@inline export const LANES: i32 = DOT == 2 ? 24 : 16;

/** Unpacks 256 codes of eight rows into rows i … i + 7 of a tile. */
export function laneUnpack(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, tile: usize, i: i32,
): void {
  const at = thread;
  const threeL = v128.load(at, 704), threeH = v128.load(at, 720), three = v128.load(at, 848), one = v128.load(at, 864);
  tile += <usize>(i * (DOT == 0 ? 2 : 4));
  for (let half = 0; half < 4; half++) {
    let a = v128.load(w0), b = v128.load(w1), c = v128.load(w2), d = v128.load(w3);
    let ab = i32x4.shuffle(a, b, 0, 4, 1, 5), cd = i32x4.shuffle(c, d, 0, 4, 1, 5);
    const l0 = i64x2.shuffle(ab, cd, 0, 2), l1 = i64x2.shuffle(ab, cd, 1, 3);
    ab = i32x4.shuffle(a, b, 2, 6, 3, 7); cd = i32x4.shuffle(c, d, 2, 6, 3, 7);
    const l2 = i64x2.shuffle(ab, cd, 0, 2), l3 = i64x2.shuffle(ab, cd, 1, 3);
    a = v128.load(w4); b = v128.load(w5); c = v128.load(w6); d = v128.load(w7);
    ab = i32x4.shuffle(a, b, 0, 4, 1, 5); cd = i32x4.shuffle(c, d, 0, 4, 1, 5);
    const h0 = i64x2.shuffle(ab, cd, 0, 2), h1 = i64x2.shuffle(ab, cd, 1, 3);
    ab = i32x4.shuffle(a, b, 2, 6, 3, 7); cd = i32x4.shuffle(c, d, 2, 6, 3, 7);
    const h2 = i64x2.shuffle(ab, cd, 0, 2), h3 = i64x2.shuffle(ab, cd, 1, 3);
    w0 += 16; w1 += 16; w2 += 16; w3 += 16; w4 += 16; w5 += 16; w6 += 16; w7 += 16;
    // k = 128 block + 32 field + 16 half + …
    let to = tile + <usize>((half >> 1) * 128 * LANES + (half & 1) * 16 * LANES);
    if (DOT == 0) {
      for (let n = 6; n >= 0; n -= 2) {
        v128.store(to, swar(l0, h0, n, three, one)); v128.store(to, swar(l1, h1, n, three, one), 2 * LANES);
        v128.store(to, swar(l2, h2, n, three, one), 4 * LANES); v128.store(to, swar(l3, h3, n, three, one), 6 * LANES);
        v128.store(to, swar(l0, h0, n + 8, three, one), 8 * LANES); v128.store(to, swar(l1, h1, n + 8, three, one), 10 * LANES);
        v128.store(to, swar(l2, h2, n + 8, three, one), 12 * LANES); v128.store(to, swar(l3, h3, n + 8, three, one), 14 * LANES);
        to += 32 * LANES;
      }
    } else {
      storeField(to, l0, l1, l2, l3, h0, h1, h2, h3, 6, threeL, threeH);
      storeField(to + 32 * LANES, l0, l1, l2, l3, h0, h1, h2, h3, 4, threeL, threeH);
      storeField(to + 64 * LANES, l0, l1, l2, l3, h0, h1, h2, h3, 2, threeL, threeH);
      storeField(to + 96 * LANES, l0, l1, l2, l3, h0, h1, h2, h3, 0, threeL, threeH);
    }
  }
}

// @ts-ignore: decorator
@inline function storeField(
  to: usize, l0: v128, l1: v128, l2: v128, l3: v128, h0: v128, h1: v128, h2: v128, h3: v128, n: i32, threeL: v128, threeH: v128,
): void {
  v128.store(to, v128.and(i16x8.shr_u(l0, n), threeL)); v128.store(to, v128.and(i16x8.shr_u(h0, n), threeH), 16);
  v128.store(to, v128.and(i16x8.shr_u(l1, n), threeL), 4 * LANES); v128.store(to, v128.and(i16x8.shr_u(h1, n), threeH), 4 * LANES + 16);
  v128.store(to, v128.and(i16x8.shr_u(l2, n), threeL), 8 * LANES); v128.store(to, v128.and(i16x8.shr_u(h2, n), threeH), 8 * LANES + 16);
  v128.store(to, v128.and(i16x8.shr_u(l3, n), threeL), 12 * LANES); v128.store(to, v128.and(i16x8.shr_u(h3, n), threeH), 12 * LANES + 16);
}

/**
 * Adds (dot - sum) * (d * scale) of a tile's rows and two rows of activations, p and q, to f32 [2][LANES] at `to`: scale f32 [LANES];
 * d f32 and sum i32 of p's block at a, of q's at b. The dots are of codes with DOT 1 and 2, of weights with DOT 0, where nothing
 * is taken off.
 */
export function laneTile(tile: usize, p: usize, q: usize, scale: usize, a: usize, b: usize, to: usize): void {
  if (DOT == 2 && PAIR) laneAddPair(tile, p, q, scale, a, b, to);
  else if (DOT == 0) laneSwar(tile, p, q, scale, a, b, to);
  else laneAdd(tile, p, q, scale, a, b, to);
}

/** y + (dot - sum) * (d * scale). */
// @ts-ignore: decorator
@inline export function addBlock(y: v128, dot: v128, sum: v128, d: v128, scale: v128): v128 {
  return f32x4.add(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(dot, sum)), f32x4.mul(d, scale)));
}

// Two sums of each, for every other four k.

// @ts-ignore: decorator
@inline function laneAddPair(tile: usize, p: usize, q: usize, scale: usize, a: usize, b: usize, to: usize): void {
  const end = tile + 256 * LANES;
  let paL = i32x4.splat(0), paH = i32x4.splat(0), pbL = i32x4.splat(0), pbH = i32x4.splat(0), pcL = i32x4.splat(0), pcH = i32x4.splat(0);
  let qaL = i32x4.splat(0), qaH = i32x4.splat(0), qbL = i32x4.splat(0), qbH = i32x4.splat(0), qcL = i32x4.splat(0), qcH = i32x4.splat(0);
  let raL = i32x4.splat(0), raH = i32x4.splat(0), rbL = i32x4.splat(0), rbH = i32x4.splat(0), rcL = i32x4.splat(0), rcH = i32x4.splat(0);
  let saL = i32x4.splat(0), saH = i32x4.splat(0), sbL = i32x4.splat(0), sbH = i32x4.splat(0), scL = i32x4.splat(0), scH = i32x4.splat(0);
  for (; tile < end; tile += 8 * LANES, p += 8, q += 8) {
    let k = v128.load32_splat(p), j = v128.load32_splat(q);
    let l = v128.load(tile), h = v128.load(tile, 16);
    paL = dotAdd(paL, k, l); paH = dotAdd(paH, k, h); qaL = dotAdd(qaL, j, l); qaH = dotAdd(qaH, j, h);
    l = v128.load(tile, 32); h = v128.load(tile, 48);
    pbL = dotAdd(pbL, k, l); pbH = dotAdd(pbH, k, h); qbL = dotAdd(qbL, j, l); qbH = dotAdd(qbH, j, h);
    l = v128.load(tile, 64); h = v128.load(tile, 80);
    pcL = dotAdd(pcL, k, l); pcH = dotAdd(pcH, k, h); qcL = dotAdd(qcL, j, l); qcH = dotAdd(qcH, j, h);
    k = v128.load32_splat(p, 4); j = v128.load32_splat(q, 4);
    l = v128.load(tile, 96); h = v128.load(tile, 112);
    raL = dotAdd(raL, k, l); raH = dotAdd(raH, k, h); saL = dotAdd(saL, j, l); saH = dotAdd(saH, j, h);
    l = v128.load(tile, 128); h = v128.load(tile, 144);
    rbL = dotAdd(rbL, k, l); rbH = dotAdd(rbH, k, h); sbL = dotAdd(sbL, j, l); sbH = dotAdd(sbH, j, h);
    l = v128.load(tile, 160); h = v128.load(tile, 176);
    rcL = dotAdd(rcL, k, l); rcH = dotAdd(rcH, k, h); scL = dotAdd(scL, j, l); scH = dotAdd(scH, j, h);
  }
  // All loads before all stores, or the revectoriser makes no pairs.
  const dp = v128.load32_splat(a), sp = v128.load32_splat(a, 4), dq = v128.load32_splat(b), sq = v128.load32_splat(b, 4);
  paL = addBlock(v128.load(to), i32x4.add(paL, raL), sp, dp, v128.load(scale));
  paH = addBlock(v128.load(to, 16), i32x4.add(paH, raH), sp, dp, v128.load(scale, 16));
  pbL = addBlock(v128.load(to, 32), i32x4.add(pbL, rbL), sp, dp, v128.load(scale, 32));
  pbH = addBlock(v128.load(to, 48), i32x4.add(pbH, rbH), sp, dp, v128.load(scale, 48));
  pcL = addBlock(v128.load(to, 64), i32x4.add(pcL, rcL), sp, dp, v128.load(scale, 64));
  pcH = addBlock(v128.load(to, 80), i32x4.add(pcH, rcH), sp, dp, v128.load(scale, 80));
  qaL = addBlock(v128.load(to, 96), i32x4.add(qaL, saL), sq, dq, v128.load(scale));
  qaH = addBlock(v128.load(to, 112), i32x4.add(qaH, saH), sq, dq, v128.load(scale, 16));
  qbL = addBlock(v128.load(to, 128), i32x4.add(qbL, sbL), sq, dq, v128.load(scale, 32));
  qbH = addBlock(v128.load(to, 144), i32x4.add(qbH, sbH), sq, dq, v128.load(scale, 48));
  qcL = addBlock(v128.load(to, 160), i32x4.add(qcL, scL), sq, dq, v128.load(scale, 64));
  qcH = addBlock(v128.load(to, 176), i32x4.add(qcH, scH), sq, dq, v128.load(scale, 80));
  v128.store(to, paL); v128.store(to, paH, 16);
  v128.store(to, pbL, 32); v128.store(to, pbH, 48);
  v128.store(to, pcL, 64); v128.store(to, pcH, 80);
  v128.store(to, qaL, 96); v128.store(to, qaH, 112);
  v128.store(to, qbL, 128); v128.store(to, qbH, 144);
  v128.store(to, qcL, 160); v128.store(to, qcH, 176);
}

/** With DOT 1 a lane takes 64 dots of at most 2 * 2 * 127 = 508, which just fit an i16. */
// @ts-ignore: decorator
@inline function laneDot(acc: v128, k: v128, x: v128): v128 {
  return DOT == 2 ? dotAdd(acc, k, x) : dotI16(acc, k, x);
}

// @ts-ignore: decorator
@inline function laneSum(acc: v128): v128 {
  return DOT == 2 ? acc : i32x4.extadd_pairwise_i16x8_s(acc);
}

// @ts-ignore: decorator
@inline function laneAdd(tile: usize, p: usize, q: usize, scale: usize, a: usize, b: usize, to: usize): void {
  const end = tile + 256 * LANES;
  let pa = i32x4.splat(0), pb = i32x4.splat(0), pc = i32x4.splat(0), pd = i32x4.splat(0), pe = i32x4.splat(0), pf = i32x4.splat(0);
  let qa = i32x4.splat(0), qb = i32x4.splat(0), qc = i32x4.splat(0), qd = i32x4.splat(0), qe = i32x4.splat(0), qf = i32x4.splat(0);
  for (; tile < end; tile += 4 * LANES, p += 4, q += 4) {
    const k = v128.load32_splat(p), j = v128.load32_splat(q);
    let x = v128.load(tile);
    pa = laneDot(pa, k, x); qa = laneDot(qa, j, x);
    x = v128.load(tile, 16);
    pb = laneDot(pb, k, x); qb = laneDot(qb, j, x);
    x = v128.load(tile, 32);
    pc = laneDot(pc, k, x); qc = laneDot(qc, j, x);
    x = v128.load(tile, 48);
    pd = laneDot(pd, k, x); qd = laneDot(qd, j, x);
    if (LANES == 24) {
      x = v128.load(tile, 64);
      pe = laneDot(pe, k, x); qe = laneDot(qe, j, x);
      x = v128.load(tile, 80);
      pf = laneDot(pf, k, x); qf = laneDot(qf, j, x);
    }
  }
  const dp = v128.load32_splat(a), sp = v128.load32_splat(a, 4), dq = v128.load32_splat(b), sq = v128.load32_splat(b, 4);
  v128.store(to, addBlock(v128.load(to), laneSum(pa), sp, dp, v128.load(scale)));
  v128.store(to, addBlock(v128.load(to, 16), laneSum(pb), sp, dp, v128.load(scale, 16)), 16);
  v128.store(to, addBlock(v128.load(to, 32), laneSum(pc), sp, dp, v128.load(scale, 32)), 32);
  v128.store(to, addBlock(v128.load(to, 48), laneSum(pd), sp, dp, v128.load(scale, 48)), 48);
  v128.store(to, addBlock(v128.load(to, 4 * LANES), laneSum(qa), sq, dq, v128.load(scale)), 4 * LANES);
  v128.store(to, addBlock(v128.load(to, 4 * LANES + 16), laneSum(qb), sq, dq, v128.load(scale, 16)), 4 * LANES + 16);
  v128.store(to, addBlock(v128.load(to, 4 * LANES + 32), laneSum(qc), sq, dq, v128.load(scale, 32)), 4 * LANES + 32);
  v128.store(to, addBlock(v128.load(to, 4 * LANES + 48), laneSum(qd), sq, dq, v128.load(scale, 48)), 4 * LANES + 48);
  if (LANES == 24) {
    v128.store(to, addBlock(v128.load(to, 64), pe, sp, dp, v128.load(scale, 64)), 64);
    v128.store(to, addBlock(v128.load(to, 80), pf, sp, dp, v128.load(scale, 80)), 80);
    v128.store(to, addBlock(v128.load(to, 160), qe, sq, dq, v128.load(scale, 64)), 160);
    v128.store(to, addBlock(v128.load(to, 176), qf, sq, dq, v128.load(scale, 80)), 176);
  }
}

// @ts-ignore: decorator
@inline function laneSwar(tile: usize, p: usize, q: usize, scale: usize, a: usize, b: usize, to: usize): void {
  const end = tile + 256 * LANES;
  let pa = i32x4.splat(0), pb = i32x4.splat(0), pc = i32x4.splat(0), pd = i32x4.splat(0);
  let qa = i32x4.splat(0), qb = i32x4.splat(0), qc = i32x4.splat(0), qd = i32x4.splat(0);
  while (tile < end) {
    // Two products of at most 127 a step: after 32 steps the low sum is at most 8128 and still fits 14 bits.
    const stop = tile + 64 * LANES;
    let pab = i32x4.splat(0), pcd = i32x4.splat(0), qab = i32x4.splat(0), qcd = i32x4.splat(0);
    for (; tile < stop; tile += 2 * LANES, p += 4, q += 4) {
      const k = v128.load32_splat(p), j = v128.load32_splat(q), x = v128.load(tile), y = v128.load(tile, 16);
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
  const zero = i32x4.splat(0), dp = v128.load32_splat(a), dq = v128.load32_splat(b);
  v128.store(to, addBlock(v128.load(to), pa, zero, dp, v128.load(scale)));
  v128.store(to, addBlock(v128.load(to, 16), pb, zero, dp, v128.load(scale, 16)), 16);
  v128.store(to, addBlock(v128.load(to, 32), pc, zero, dp, v128.load(scale, 32)), 32);
  v128.store(to, addBlock(v128.load(to, 48), pd, zero, dp, v128.load(scale, 48)), 48);
  v128.store(to, addBlock(v128.load(to, 64), qa, zero, dq, v128.load(scale)), 64);
  v128.store(to, addBlock(v128.load(to, 80), qb, zero, dq, v128.load(scale, 16)), 80);
  v128.store(to, addBlock(v128.load(to, 96), qc, zero, dq, v128.load(scale, 32)), 96);
  v128.store(to, addBlock(v128.load(to, 112), qd, zero, dq, v128.load(scale, 48)), 112);
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
