// Tiles of 256 columns, a part of dots.ts. Where every 256 weights have a scale of their own, joining the lanes of each row's sum so
// often takes as long as the dots do. Here a lane is a row: activations are splat, four (DOT 0: two) at a time, and sums need
// no joining (bench/LOG.md, tiles whose lanes are rows).
//
//   DOT 1, 2   codes u8 [64][LANES][4]: four k of each row
//   DOT 0      int16 [128][LANES / 8][4][2]: two k of four rows, each w + 16384 v for the weights of rows i and i + 4 of eight

import { dotAdd, dotI16, lowSum, swar } from './dots';
import { thread } from './lanes';

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

/** The same in memory: scale and y at addresses. */
// @ts-ignore: decorator
@inline function addTo(y: usize, dot: v128, sum: v128, d: v128, scale: usize): void {
  v128.store(y, addBlock(v128.load(y), dot, sum, d, v128.load(scale)));
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
  addTo(to, laneSum(pa), sp, dp, scale);
  addTo(to + 16, laneSum(pb), sp, dp, scale + 16);
  addTo(to + 32, laneSum(pc), sp, dp, scale + 32);
  addTo(to + 48, laneSum(pd), sp, dp, scale + 48);
  addTo(to + 4 * LANES, laneSum(qa), sq, dq, scale);
  addTo(to + 4 * LANES + 16, laneSum(qb), sq, dq, scale + 16);
  addTo(to + 4 * LANES + 32, laneSum(qc), sq, dq, scale + 32);
  addTo(to + 4 * LANES + 48, laneSum(qd), sq, dq, scale + 48);
  if (LANES == 24) {
    addTo(to + 64, pe, sp, dp, scale + 64);
    addTo(to + 80, pf, sp, dp, scale + 80);
    addTo(to + 160, qe, sq, dq, scale + 64);
    addTo(to + 176, qf, sq, dq, scale + 80);
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
  addTo(to, pa, zero, dp, scale);
  addTo(to + 16, pb, zero, dp, scale + 16);
  addTo(to + 32, pc, zero, dp, scale + 32);
  addTo(to + 48, pd, zero, dp, scale + 48);
  addTo(to + 64, qa, zero, dq, scale);
  addTo(to + 80, qb, zero, dq, scale + 16);
  addTo(to + 96, qc, zero, dq, scale + 32);
  addTo(to + 112, qd, zero, dq, scale + 48);
}
