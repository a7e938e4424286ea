// The dot products of quantised weights: the one place where tiers differ.
//
// DOT and PAIR are constants of the compile target (asconfig.json):
//
//   DOT 0   i32x4.dot_i16x8_s, baseline SIMD
//   DOT 1   relaxed dot into i16: pmaddubsw on x86. Exact on every engine, as neither operand leaves its range
//   DOT 2   relaxed dot added to i32: vpdpbusd where the engine knows it
//   PAIR 1  two accumulators on adjacent halves for everything, so that V8's revectoriser makes 256-bit operations of them
//
// The relaxed dots take signed 8-bit activations first and 7-bit codes second, as this order means the same everywhere.
// All sums are integers, so every target gives the same number.
//
// Memory is waited for, not only read: kernels `touch` the rows that come next, a load a cache line, while they compute. On a
// machine without hardware prefetch that is worth 1.3 to 1.4 (bench/LOG.md); wasm has no prefetch instruction.

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

/** Asks for four cache lines. */
// @ts-ignore: decorator
@inline function touch4(at: usize): i32 {
  return load<i32>(at) ^ load<i32>(at, 64) ^ load<i32>(at, 128) ^ load<i32>(at, 192);
}

import { sumI32x4, sums4, thread } from './lanes';

/** Asks for the cache lines of `bytes` bytes. */
// @ts-ignore: decorator
@inline export function touchLines(at: usize, bytes: usize): void {
  let touched: i32 = 0;
  for (const end = at + bytes; at < end; at += 64) touched ^= load<i32>(at);
  store<i32>(thread, touched, 288);
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

/** Sums of code * activation of four rows of `cols` codes, i32x4; touches a tile of four rows from `ahead` on. */
export function bitDots4(w0: usize, w1: usize, w2: usize, w3: usize, act: usize, cols: i32, ahead: usize): v128 {
  if (DOT == 2) return bitDots4Add(w0, w1, w2, w3, act, cols, ahead);
  const half = <usize>(cols >> 1);
  const ab = bitDots2(w0, w1, act, cols, ahead), cd = bitDots2(w2, w3, act, cols, ahead + half);
  return i64x2.replace_lane(i64x2.splat(ab), 1, cd);
}

function bitDots4Add(w0: usize, w1: usize, w2: usize, w3: usize, act: usize, cols: i32, ahead: usize): v128 {
  const at = thread;
  const threeL = v128.load(at, 320), threeH = v128.load(at, 336);
  const end = w0 + <usize>(cols >> 2);
  let aL = i32x4.splat(0), aH = i32x4.splat(0), bL = i32x4.splat(0), bH = i32x4.splat(0);
  let cL = i32x4.splat(0), cH = i32x4.splat(0), dL = i32x4.splat(0), dH = i32x4.splat(0);
  let touched: i32 = 0;
  while (w0 < end) {
    // A step of 128 codes consumes two lines. Alone, 128-bit code is too long for the lines of several steps to be under way
    // at once, so it asks for those of four steps in one go.
    let stop = w0 + 32;
    if (PAIR) {
      touched ^= load<i32>(ahead) ^ load<i32>(ahead, 64);
      ahead += 128;
    } else {
      touched ^= touch4(ahead) ^ touch4(ahead + 256);
      ahead += 512;
      stop = min(w0 + 128, end);
    }
    do {
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
      act += 128;
      w0 += 32; w1 += 32; w2 += 32; w3 += 32;
    } while (!PAIR && w0 < stop);
  }
  store<i32>(at, touched, 288); // or the loads could be dropped
  // Adjacent stores with one base and immediate offsets are what the revectoriser grows its pairs from.
  v128.store(at, aL); v128.store(at, aH, 16);
  v128.store(at, bL, 32); v128.store(at, bH, 48);
  v128.store(at, cL, 64); v128.store(at, cH, 80);
  v128.store(at, dL, 96); v128.store(at, dH, 112);
  return sumPairs4(at);
}

/** sums4 of four accumulators in two halves each, as they were stored at `at`. */
// @ts-ignore: decorator
@inline function sumPairs4(at: usize): v128 {
  return sums4(
    i32x4.add(v128.load(at), v128.load(at, 16)), i32x4.add(v128.load(at, 32), v128.load(at, 48)),
    i32x4.add(v128.load(at, 64), v128.load(at, 80)), i32x4.add(v128.load(at, 96), v128.load(at, 112)),
  );
}

/** Sums of two rows of `cols` codes: the first in the low, the second in the high half of the result. Touches two rows. */
function bitDots2(w0: usize, w1: usize, act: usize, cols: i32, ahead: usize): i64 {
  const at = thread;
  let touched: i32 = 0;
  const end = w0 + <usize>(cols >> 2);
  let s0 = i32x4.splat(0), s1 = i32x4.splat(0);
  if (DOT == 1) {
    // relaxed_dot<i16> multiplies int8 by 7-bit codes and adds neighbours into i16: at most 2 * 2 * 127 = 508. Masking with
    // 3 and with 12 (codes times 4) saves a shift per field; so a and b grow by up to 1016 and 4064 a step of 64 weights,
    // and 8 steps fit an i16. pmaddubsw on x86: exact on every engine since neither operand leaves its range.
    const three = v128.load(at, 320), twelve = v128.load(at, 352);
    let odd = true;
    while (w0 < end) {
      let a0 = i16x8.splat(0), b0 = i16x8.splat(0), a1 = i16x8.splat(0), b1 = i16x8.splat(0);
      const stop = min(w0 + 4 * 32, end);
      if (odd) {
        touched ^= touch4(ahead) ^ touch4(ahead + 256);
        ahead += 512;
      }
      odd = !odd;
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
    store<i32>(at, touched, 288);
    return (<i64>sumI32x4(s1) << 32) | <i64><u32>sumI32x4(s0);
  }
  let t0 = i32x4.splat(0), t1 = i32x4.splat(0);
  const m0 = v128.load(at, 416), m1 = v128.load(at, 432), m2 = v128.load(at, 448), m3 = v128.load(at, 464);
  for (let n = 0; w0 < end; n++) {
    if ((n & 7) == 0) {
      touched ^= touch4(ahead) ^ touch4(ahead + 256);
      ahead += 512;
    }
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
  store<i32>(at, touched, 288);
  return (<i64>(sumI32x4(s1) >> 6) << 32) | <i64><u32>(sumI32x4(s0) >> 6);
}

/**
 * Unpacks four rows of `cols` codes for `bitTile4x2`, 4 * cols bytes:
 *
 *   DOT 1, 2   codes u8 [cols / 32][row 4][32]
 *   DOT 0      int16 [cols / 8][rows 0 and 1, rows 2 and 3][8] in the order of the activations, each lane w + 16384 v for the
 *              weights w and v (-1, 0, 1) of two rows: one multiplication serves both (SWAR)
 */
export function bitUnpack4(w0: usize, w1: usize, w2: usize, w3: usize, cols: i32, tile: usize): void {
  const at = thread;
  const end = w0 + <usize>(cols >> 2);
  if (DOT == 0) {
    const three = v128.load(at, 464), one = v128.load(at, 480);
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
  } else {
    const threeL = v128.load(at, 320), threeH = v128.load(at, 336);
    for (; w0 < end; w0 += 32, w1 += 32, w2 += 32, w3 += 32) {
      unpack(w0, tile, threeL, threeH);
      unpack(w1, tile + 32, threeL, threeH);
      unpack(w2, tile + 64, threeL, threeH);
      unpack(w3, tile + 96, threeL, threeH);
      tile += 512;
    }
  }
}

// @ts-ignore: decorator
@inline function swar(a: v128, b: v128, n: i32, three: v128, one: v128): v128 {
  const low = v128.and(i16x8.shr_u(a, n), three), high = v128.and(i16x8.shr_u(b, n), three);
  return i16x8.sub(v128.or(low, i16x8.shl(high, 14)), one);
}

/** The four fields of 32 bytes, 128 bytes apart. */
// @ts-ignore: decorator
@inline function unpack(w: usize, tile: usize, threeL: v128, threeH: v128): void {
  const l = v128.load(w), h = v128.load(w, 16);
  v128.store(tile, v128.and(i16x8.shr_u(l, 6), threeL)); v128.store(tile, v128.and(i16x8.shr_u(h, 6), threeH), 16);
  v128.store(tile, v128.and(i16x8.shr_u(l, 4), threeL), 128); v128.store(tile, v128.and(i16x8.shr_u(h, 4), threeH), 144);
  v128.store(tile, v128.and(i16x8.shr_u(l, 2), threeL), 256); v128.store(tile, v128.and(i16x8.shr_u(h, 2), threeH), 272);
  v128.store(tile, v128.and(l, threeL), 384); v128.store(tile, v128.and(h, threeH), 400);
}

/**
 * The dots of four unpacked rows with two rows of activations, p and q: of codes with DOT 1 and 2 (the caller takes off the
 * sum of the activations), of weights with DOT 0. Returns where they stand, i32x4 for p, then for q. A tile of 4 x 2 is what
 * sixteen registers hold.
 */
export function bitTile4x2(tile: usize, p: usize, q: usize, cols: i32): usize {
  const end = tile + (<usize>cols << 2);
  const out = thread + 256;
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
  let paL = i32x4.splat(0), paH = i32x4.splat(0), pbL = i32x4.splat(0), pbH = i32x4.splat(0);
  let pcL = i32x4.splat(0), pcH = i32x4.splat(0), pdL = i32x4.splat(0), pdH = i32x4.splat(0);
  let qaL = i32x4.splat(0), qaH = i32x4.splat(0), qbL = i32x4.splat(0), qbH = i32x4.splat(0);
  let qcL = i32x4.splat(0), qcH = i32x4.splat(0), qdL = i32x4.splat(0), qdH = i32x4.splat(0);
  for (; tile < end; tile += 128, p += 32, q += 32) {
    const pL = v128.load(p), pH = v128.load(p, 16), qL = v128.load(q), qH = v128.load(q, 16);
    let l = v128.load(tile), h = v128.load(tile, 16);
    paL = dotAdd(paL, pL, l); paH = dotAdd(paH, pH, h); qaL = dotAdd(qaL, qL, l); qaH = dotAdd(qaH, qH, h);
    l = v128.load(tile, 32); h = v128.load(tile, 48);
    pbL = dotAdd(pbL, pL, l); pbH = dotAdd(pbH, pH, h); qbL = dotAdd(qbL, qL, l); qbH = dotAdd(qbH, qH, h);
    l = v128.load(tile, 64); h = v128.load(tile, 80);
    pcL = dotAdd(pcL, pL, l); pcH = dotAdd(pcH, pH, h); qcL = dotAdd(qcL, qL, l); qcH = dotAdd(qcH, qH, h);
    l = v128.load(tile, 96); h = v128.load(tile, 112);
    pdL = dotAdd(pdL, pL, l); pdH = dotAdd(pdH, pH, h); qdL = dotAdd(qdL, qL, l); qdH = dotAdd(qdH, qH, h);
  }
  v128.store(at, paL); v128.store(at, paH, 16);
  v128.store(at, pbL, 32); v128.store(at, pbH, 48);
  v128.store(at, pcL, 64); v128.store(at, pcH, 80);
  v128.store(at, pdL, 96); v128.store(at, pdH, 112);
  v128.store(at, qaL, 128); v128.store(at, qaH, 144);
  v128.store(at, qbL, 160); v128.store(at, qbH, 176);
  v128.store(at, qcL, 192); v128.store(at, qcH, 208);
  v128.store(at, qdL, 224); v128.store(at, qdH, 240);
  v128.store(out, sumPairs4(at));
  v128.store(out, sumPairs4(at + 128), 16);
}

// @ts-ignore: decorator
@inline function tileAdd(tile: usize, end: usize, p: usize, q: usize, out: usize): void {
  let pa = i32x4.splat(0), pb = i32x4.splat(0), pc = i32x4.splat(0), pd = i32x4.splat(0);
  let qa = i32x4.splat(0), qb = i32x4.splat(0), qc = i32x4.splat(0), qd = i32x4.splat(0);
  for (; tile < end; tile += 128, p += 32, q += 32) {
    let k = v128.load(p), j = v128.load(q);
    let x = v128.load(tile);
    pa = dotAdd(pa, k, x); qa = dotAdd(qa, j, x);
    x = v128.load(tile, 32);
    pb = dotAdd(pb, k, x); qb = dotAdd(qb, j, x);
    x = v128.load(tile, 64);
    pc = dotAdd(pc, k, x); qc = dotAdd(qc, j, x);
    x = v128.load(tile, 96);
    pd = dotAdd(pd, k, x); qd = dotAdd(qd, j, x);
    k = v128.load(p, 16); j = v128.load(q, 16);
    x = v128.load(tile, 16);
    pa = dotAdd(pa, k, x); qa = dotAdd(qa, j, x);
    x = v128.load(tile, 48);
    pb = dotAdd(pb, k, x); qb = dotAdd(qb, j, x);
    x = v128.load(tile, 80);
    pc = dotAdd(pc, k, x); qc = dotAdd(qc, j, x);
    x = v128.load(tile, 112);
    pd = dotAdd(pd, k, x); qd = dotAdd(qd, j, x);
  }
  v128.store(out, sums4(pa, pb, pc, pd));
  v128.store(out, sums4(qa, qb, qc, qd), 16);
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
  v128.store(out, sums4(ta, tb, tc, td), 16);
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
  v128.store(out, sums4(qa, qb, qc, qd), 16);
}

/**
 * Writes activations k (a multiple of 16) … k + 15, int16 lanes of a and b within int8, into the layout of this target, for
 * tiles or for one row at a time.
 */
// @ts-ignore: decorator
@inline export function storeActivations(act: usize, k: i32, a: v128, b: v128, tiles: bool): void {
  if (DOT != 0) {
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

/**
 * Sums of code * activation of two rows of `cols` codes, cols a multiple of 32: the first in the low, the second in the high
 * half of the result. Touches two rows from `ahead` on.
 */
export function screenDots2(w0: usize, w1: usize, act: usize, cols: i32, ahead: usize): i64 {
  const at = thread;
  const end = w0 + <usize>cols;
  let touched: i32 = 0;
  // High and low halves of 32 k each: sixteenths (a, b) and rests (c, d) of the two rows.
  let aL = i32x4.splat(0), aH = i32x4.splat(0), bL = i32x4.splat(0), bH = i32x4.splat(0);
  let cL = i32x4.splat(0), cH = i32x4.splat(0), dL = i32x4.splat(0), dH = i32x4.splat(0);
  for (; w0 < end; w0 += 32, w1 += 32, act += 64, ahead += 64) {
    touched ^= load<i32>(ahead);
    const k0 = v128.load(act), k1 = v128.load(act, 16), j0 = v128.load(act, 32), j1 = v128.load(act, 48);
    const x0 = v128.load(w0), x1 = v128.load(w0, 16), y0 = v128.load(w1), y1 = v128.load(w1, 16);
    if (DOT == 2) {
      aL = dotAdd(aL, k0, x0); aH = dotAdd(aH, k1, x1);
      bL = dotAdd(bL, k0, y0); bH = dotAdd(bH, k1, y1);
      cL = dotAdd(cL, j0, x0); cH = dotAdd(cH, j1, x1);
      dL = dotAdd(dL, j0, y0); dH = dotAdd(dH, j1, y1);
    } else if (DOT == 1) {
      // Two products of 127 * 127 just fit an i16 lane.
      aL = widen(aL, v128.relaxed_dot<i16>(k0, x0)); aH = widen(aH, v128.relaxed_dot<i16>(k1, x1));
      bL = widen(bL, v128.relaxed_dot<i16>(k0, y0)); bH = widen(bH, v128.relaxed_dot<i16>(k1, y1));
      cL = widen(cL, i16x8.add(v128.relaxed_dot<i16>(j0, x0), v128.relaxed_dot<i16>(j1, x1)));
      dL = widen(dL, i16x8.add(v128.relaxed_dot<i16>(j0, y0), v128.relaxed_dot<i16>(j1, y1)));
    } else {
      aL = i32x4.add(aL, i32x4.dot_i16x8_s(k0, i16x8.extend_low_i8x16_u(x0)));
      aH = i32x4.add(aH, i32x4.dot_i16x8_s(k1, i16x8.extend_high_i8x16_u(x0)));
      bL = i32x4.add(bL, i32x4.dot_i16x8_s(k0, i16x8.extend_low_i8x16_u(y0)));
      bH = i32x4.add(bH, i32x4.dot_i16x8_s(k1, i16x8.extend_high_i8x16_u(y0)));
      cL = i32x4.add(cL, i32x4.dot_i16x8_s(j0, i16x8.extend_low_i8x16_u(x1)));
      cH = i32x4.add(cH, i32x4.dot_i16x8_s(j1, i16x8.extend_high_i8x16_u(x1)));
      dL = i32x4.add(dL, i32x4.dot_i16x8_s(j0, i16x8.extend_low_i8x16_u(y1)));
      dH = i32x4.add(dH, i32x4.dot_i16x8_s(j1, i16x8.extend_high_i8x16_u(y1)));
    }
  }
  store<i32>(at, touched, 288);
  v128.store(at, aL); v128.store(at, aH, 16);
  v128.store(at, bL, 32); v128.store(at, bH, 48);
  v128.store(at, cL, 64); v128.store(at, cH, 80);
  v128.store(at, dL, 96); v128.store(at, dH, 112);
  const sums = sumPairs4(at);
  const high = DOT == 0 ? sums : i32x4.shl(sums, 4);
  return i64x2.extract_lane(i32x4.add(high, i32x4.shuffle(sums, sums, 2, 3, 2, 3)), 0);
}
