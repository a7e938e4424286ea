import { lookup } from '../dots';
import { thread } from '../lanes';
import { bitLinearScratchBytes, linearByTile } from './bit_linear';
import { paddedCols, preparedBytes, TL2 } from './prepare';
import { REPACK_BYTES, repackRows } from './repack_tl';
import { firstSigns, groupAt, indexBytes, lastSigns, pairsAt, tailAt, tripleCols } from './tl';

// A pair or triple of weights has few sums with the activations that it meets: a table of 16 holds all of them that have one
// sign, and a dot is a sum of table entries. An entry t, of at most 3 * 127 = 381, takes two bytes, which are added up apart:
//
//   t = 31 high + low + 16,  high -13 … 12, low -15 … 15
//
// With the 16 the negative of t is (~high, ~low): -t = 31 (-high - 1) + (-low - 1) + 16. Sums of 8 entries stay within int8
// (8 * 13 = 104, 8 * 16 = 128 below and 8 * 15 = 120 above 0), those of 64 entries within int16 (64 * (381 + 16) = 25408); all
// 16s are put in where 32-bit sums begin.

/** Tables of 8 pairs or triples: for each [high 16][low 16]. */
const UNIT_BYTES: i32 = 8 * 32;

/**
 * From how many rows on a batch is computed from codes, repacked to I2_S 32 rows of W at a time, and no longer from tables. Of
 * TL2 lookups are as quick at 8 rows with the relaxed dots and at 16 without (bench/LOG.md).
 */
export const LOOKUP_ROWS: i32 = DOT == 0 ? 16 : 8;

/** Units that are summed in int16: 192 columns of triples or 128 of pairs. */
const UNITS: i32 = 8;

/**
 * So far ahead of the weights that are looked up a line of memory is asked for: hardware stops prefetching at each page, and
 * here only two or three streams are under way. Measured at 1, 2, 4 and 8 KB: 18.8, 17.0, 20.8 and 20.6 GMAC/s, without 9.9
 * (TL2, 2560 x 6912, simd, one thread, November 2026; bench/LOG.md).
 */
const AHEAD: usize = 4096;

/** Rows of W that are summed at a time at most. */
const PIECE: i32 = 256;

/** Units of 8 pairs or triples in `cols` columns. */
// @ts-ignore: decorator
@inline export function tableUnits(type: i32, cols: i32, tileCols: i32): i32 {
  const triples = tripleCols(type, cols, tileCols);
  return triples / 24 + ((cols - triples) >> 4);
}

/** Bytes of a thread's scratch: sums, or 32 rows repacked, with what both kinds of batch take beside. */
// @ts-ignore: decorator
@inline export function lookupScratchBytes(cols: i32, batch: i32): i32 {
  return batch < LOOKUP_ROWS ? 4 * PIECE * batch : REPACK_BYTES + 8 * paddedCols(cols) + bitLinearScratchBytes(cols, batch);
}

/** Builds the tables of `unit` of a row prepared for TL1 or TL2. */
export function buildTables(type: i32, prepared: usize, cols: i32, tileCols: i32, unit: i32): void {
  const tripleUnits = tripleCols(type, cols, tileCols) / 24;
  let q = prepared + 64;
  let to = q + <usize>(paddedCols(cols) + unit * UNIT_BYTES);
  const end = to + UNIT_BYTES;
  if (unit < tripleUnits) {
    q += <usize>(24 * unit);
    for (; to < end; to += 32, q += 3) {
      const a = splat(q), b = splat(q + 1), c = splat(q + 2);
      // 0, c, b - c, b, b + c, a - b - c, a - b, a - b + c; a - c, a, a + c, a + b - c, a + b, a + b + c
      split(
        i16x8.add(
          i16x8.mul(a, i16x8(0, 0, 0, 0, 0, 1, 1, 1)),
          i16x8.add(i16x8.mul(b, i16x8(0, 0, 1, 1, 1, -1, -1, -1)), i16x8.mul(c, i16x8(0, 1, -1, 0, 1, -1, 0, 1))),
        ),
        i16x8.add(
          i16x8.mul(a, i16x8(1, 1, 1, 1, 1, 1, 0, 0)),
          i16x8.add(i16x8.mul(b, i16x8(0, 0, 0, 1, 1, 1, 0, 0)), i16x8.mul(c, i16x8(-1, 0, 1, -1, 0, 1, 0, 0))),
        ),
        to,
      );
    }
    return;
  }
  q += <usize>(24 * tripleUnits + 16 * (unit - tripleUnits));
  for (; to < end; to += 32, q += 2) {
    const a = splat(q), b = splat(q + 1);
    split(
      i16x8.add(i16x8.mul(a, i16x8(-1, -1, -1, 0, 0, 0, 1, 1)), i16x8.mul(b, i16x8(-1, 0, 1, -1, 0, 1, -1, 0))),
      i16x8.add(i16x8.mul(a, i16x8(1, 0, 0, 0, 0, 0, 0, 0)), i16x8.mul(b, i16x8(1, 0, 0, 0, 0, 0, 0, 0))),
      to,
    );
  }
}

// @ts-ignore: decorator
@inline function splat(q: usize): v128 {
  return i16x8.splat(<i16>load<i8>(q));
}

// @ts-ignore: decorator
@inline function split(a: v128, b: v128, to: usize): void {
  const x = i16x8.add(a, i16x8.splat(402)), y = i16x8.add(b, i16x8.splat(402));
  const c = over31(x), d = over31(y);
  v128.store(to, i8x16.narrow_i16x8_s(i16x8.sub(c, i16x8.splat(13)), i16x8.sub(d, i16x8.splat(13))));
  v128.store(to, i8x16.narrow_i16x8_s(rest(x, c), rest(y, d)), 16);
}

/** x / 31, rounded down, of 0 … 991. */
// @ts-ignore: decorator
@inline function over31(x: v128): v128 {
  return i16x8.shr_u(i16x8.add(i16x8.add(x, i16x8.shr_u(x, 5)), i16x8.splat(1)), 5);
}

// @ts-ignore: decorator
@inline function rest(x: v128, quotient: v128): v128 {
  return i16x8.sub(i16x8.sub(x, i16x8.splat(15)), i16x8.mul(quotient, i16x8.splat(31)));
}

/**
 * y[b][r] = dot / s * scale for rows r in [begin, end), whole groups of 32, and every row b of the batch, or y += with `add`.
 *
 *   w        TL1 or TL2 (src/gguf/layouts/), cut into tiles of `tileRows` x `tileCols`
 *   act      [batch] rows prepared for `type`, with their tables; for I2_S in a batch of LOOKUP_ROWS or more
 *   y        f32 [batch][stride]
 *   scratch  lookupScratchBytes(cols, batch) of this thread
 */
export function lookupLinear(
  type: i32, w: usize, rows: i32, cols: i32, tileRows: i32, tileCols: i32, sub: i32, act: usize, batch: i32, y: usize, stride: i32,
  add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const last = w + <usize>tailAt(type, rows, cols), scale = load<f32>(last);
  if (batch >= LOOKUP_ROWS) {
    const block = scratch + REPACK_BYTES, rowBytes = <usize>(paddedCols(cols) >> 2);
    for (let row = begin; row < end; row += 32) {
      repackRows(type, w, rows, cols, tileRows, tileCols, sub, row, block, rowBytes, scratch);
      linearByTile(
        block - <usize>row * rowBytes, paddedCols(cols), scale, act, batch, y, stride, add, row, row + 32, block + 32 * rowBytes,
      );
    }
    return;
  }
  const triples = tripleCols(type, cols, tileCols), pairs = cols - triples;
  const actBytes = <usize>preparedBytes(cols, type);
  const tables = act + 64 + <usize>paddedCols(cols);
  const entries = triples / 3 + (pairs >> 1);
  for (let row = begin; row < end; ) {
    const some = min(min(tileRows - row % tileRows, end - row), PIECE);
    for (let i: usize = 0; i < <usize>(4 * some * batch); i += 16) v128.store(scratch + i, i32x4.splat(16 * entries));
    for (let tile = 0; tile < triples / tileCols; tile++) {
      const group = groupAt(row, tileRows, triples / tileCols, tile);
      const index = w + <usize>(group * (tileCols / 6)), sign = w + <usize>(indexBytes(rows, triples) + group * (tileCols / 24));
      const units = tileCols / 24;
      for (let b = 0; b < batch; b++) {
        const table = tables + <usize>b * actBytes + <usize>(tile * units * UNIT_BYTES);
        for (let i = 0; i < some; i += 32) {
          addTriples(
            index + <usize>(i * (tileCols / 6)), sign + <usize>(i * units), table, units, last, scratch + <usize>(4 * (b * some + i)),
          );
        }
      }
    }
    const width = type == TL2 ? 32 : tileCols;
    for (let tile = 0; tile < pairs / width; tile++) {
      const units = width >> 4;
      for (let b = 0; b < batch; b++) {
        const table = tables + <usize>b * actBytes + <usize>((triples / 24 + tile * units) * UNIT_BYTES);
        for (let i = 0; i < some; i += 32) {
          const to = scratch + <usize>(4 * (b * some + i));
          if (type == TL2) {
            const at = w + <usize>(pairsAt(rows, triples) + groupAt(row + i, tileRows, pairs >> 5, tile) * 8);
            addPairs(at, 32, 16, 64, table, units, last, to, 64);
          } else {
            const strip = (row + i) / sub * sub;
            const at = w + <usize>(groupAt(strip, tileRows, pairs / width, tile) * (tileCols >> 2) + ((row + i) - strip));
            if (sub == 32) addPairs(at, 16, 32, 64, table, units, last, to, 32);
            else addPairs(at, 64, 16, 128, table, units, last, to, 32);
          }
        }
      }
    }
    for (let b = 0; b < batch; b++) {
      const s = f32x4.splat(load<f32>(act + <usize>b * actBytes));
      const to = y + (<usize>(b * stride + row) << 2), from = scratch + <usize>(4 * b * some);
      for (let i: usize = 0; i < <usize>(4 * some); i += 16) {
        const v = f32x4.mul(f32x4.div(f32x4.convert_i32x4_s(v128.load(from + i)), s), f32x4.splat(scale));
        v128.store(to + i, add ? f32x4.add(v128.load(to + i), v) : v);
      }
    }
    row += some;
  }
}

/** Adds what 32 rows of triples have in `units` of 24 columns to i32 [32]. `last`: the end of W. */
function addTriples(index: usize, sign: usize, table: usize, units: i32, last: usize, to: usize): void {
  const nibble = v128.load(thread, 880);
  let next = min(index + AHEAD, last - <usize>(128 * units)), nextSign = min(sign + AHEAD / 4, last - <usize>(32 * units));
  let seen = 0;
  while (units > 0) {
    let s0 = i16x8.splat(0), s1 = i16x8.splat(0), s2 = i16x8.splat(0), s3 = i16x8.splat(0);
    for (const stop = max(units - UNITS, 0); units > stop; units--) {
      seen |= load<i32>(next) | load<i32>(next, 64) | load<i32>(nextSign);
      next += 128; nextSign += 32;
      const wordsX = v128.load(sign), wordsY = v128.load(sign, 16);
      let signX = firstSigns(wordsX), signY = firstSigns(wordsY);
      let highX = i8x16.splat(0), lowX = i8x16.splat(0), highY = i8x16.splat(0), lowY = i8x16.splat(0);
      for (let i = 0; i < 4; i++, table += 64, index += 32) {
        if (i == 2) { signX = lastSigns(wordsX); signY = lastSigns(wordsY); }
        const x = v128.load(index), y = v128.load(index, 16);
        let high = v128.load(table), low = v128.load(table, 16);
        let n = v128.and(i16x8.shr_u(x, 4), nibble), m = i8x16.lt_s(signX, i8x16.splat(0));
        highX = i8x16.add(highX, v128.xor(lookup(high, n), m)); lowX = i8x16.add(lowX, v128.xor(lookup(low, n), m));
        n = v128.and(i16x8.shr_u(y, 4), nibble); m = i8x16.lt_s(signY, i8x16.splat(0));
        highY = i8x16.add(highY, v128.xor(lookup(high, n), m)); lowY = i8x16.add(lowY, v128.xor(lookup(low, n), m));
        high = v128.load(table, 32); low = v128.load(table, 48);
        n = v128.and(x, nibble); m = i8x16.lt_s(i16x8.shl(signX, 2), i8x16.splat(0));
        highX = i8x16.add(highX, v128.xor(lookup(high, n), m)); lowX = i8x16.add(lowX, v128.xor(lookup(low, n), m));
        n = v128.and(y, nibble); m = i8x16.lt_s(i16x8.shl(signY, 2), i8x16.splat(0));
        highY = i8x16.add(highY, v128.xor(lookup(high, n), m)); lowY = i8x16.add(lowY, v128.xor(lookup(low, n), m));
        signX = i16x8.shl(signX, 4); signY = i16x8.shl(signY, 4);
      }
      sign += 32;
      s0 = widenLow(s0, highX, lowX); s1 = widenHigh(s1, highX, lowX);
      s2 = widenLow(s2, highY, lowY); s3 = widenHigh(s3, highY, lowY);
    }
    addSums(to, s0, s1, s2, s3, 64);
  }
  store<i32>(thread, seen); // or a compiler could leave out what is loaded ahead
}

/**
 * Adds what 32 rows of pairs have in `units` of 16 columns to i32 [32]: vectors of 4 columns stand `next` apart, those of the
 * other 16 rows `y` bytes after; 8 columns take `eight` bytes. `middle` is where the second half of x goes.
 */
function addPairs(
  x: usize, next: usize, y: usize, eight: usize, table: usize, units: i32, last: usize, to: usize, middle: usize,
): void {
  const nibble = v128.load(thread, 880);
  let ahead = min(x + AHEAD, last - 2 * eight * <usize>units);
  let seen = 0;
  while (units > 0) {
    let s0 = i16x8.splat(0), s1 = i16x8.splat(0), s2 = i16x8.splat(0), s3 = i16x8.splat(0);
    for (const stop = max(units - UNITS, 0); units > stop; units--) {
      let highX = i8x16.splat(0), lowX = i8x16.splat(0), highY = i8x16.splat(0), lowY = i8x16.splat(0);
      for (let i = 0; i < 2; i++, x += eight, table += 128) {
        seen |= load<i32>(ahead) | load<i32>(ahead + next);
        ahead += eight;
        let v = v128.load(x), u = v128.load(x + y);
        let high = v128.load(table), low = v128.load(table, 16);
        let n = v128.and(i16x8.shr_u(v, 4), nibble);
        highX = i8x16.add(highX, lookup(high, n)); lowX = i8x16.add(lowX, lookup(low, n));
        n = v128.and(i16x8.shr_u(u, 4), nibble);
        highY = i8x16.add(highY, lookup(high, n)); lowY = i8x16.add(lowY, lookup(low, n));
        high = v128.load(table, 32); low = v128.load(table, 48);
        n = v128.and(v, nibble);
        highX = i8x16.add(highX, lookup(high, n)); lowX = i8x16.add(lowX, lookup(low, n));
        n = v128.and(u, nibble);
        highY = i8x16.add(highY, lookup(high, n)); lowY = i8x16.add(lowY, lookup(low, n));
        v = v128.load(x + next); u = v128.load(x + next + y);
        high = v128.load(table, 64); low = v128.load(table, 80);
        n = v128.and(i16x8.shr_u(v, 4), nibble);
        highX = i8x16.add(highX, lookup(high, n)); lowX = i8x16.add(lowX, lookup(low, n));
        n = v128.and(i16x8.shr_u(u, 4), nibble);
        highY = i8x16.add(highY, lookup(high, n)); lowY = i8x16.add(lowY, lookup(low, n));
        high = v128.load(table, 96); low = v128.load(table, 112);
        n = v128.and(v, nibble);
        highX = i8x16.add(highX, lookup(high, n)); lowX = i8x16.add(lowX, lookup(low, n));
        n = v128.and(u, nibble);
        highY = i8x16.add(highY, lookup(high, n)); lowY = i8x16.add(lowY, lookup(low, n));
      }
      s0 = widenLow(s0, highX, lowX); s1 = widenHigh(s1, highX, lowX);
      s2 = widenLow(s2, highY, lowY); s3 = widenHigh(s3, highY, lowY);
    }
    addSums(to, s0, s1, s2, s3, middle);
  }
  store<i32>(thread, seen);
}

/** sum + 31 high + low. */
// @ts-ignore: decorator
@inline function widenLow(sum: v128, high: v128, low: v128): v128 {
  return i16x8.add(i16x8.add(sum, i16x8.extend_low_i8x16_s(low)), i16x8.extmul_low_i8x16_s(high, i8x16.splat(31)));
}

// @ts-ignore: decorator
@inline function widenHigh(sum: v128, high: v128, low: v128): v128 {
  return i16x8.add(i16x8.add(sum, i16x8.extend_high_i8x16_s(low)), i16x8.extmul_high_i8x16_s(high, i8x16.splat(31)));
}

// @ts-ignore: decorator
@inline function addSums(to: usize, s0: v128, s1: v128, s2: v128, s3: v128, middle: usize): void {
  addEight(to, s0);
  addEight(to + middle, s1);
  addEight(to + 96 - middle, s2);
  addEight(to + 96, s3);
}

// @ts-ignore: decorator
@inline function addEight(to: usize, s: v128): void {
  v128.store(to, i32x4.add(v128.load(to), i32x4.extend_low_i16x8_s(s)));
  v128.store(to, i32x4.add(v128.load(to, 16), i32x4.extend_high_i16x8_s(s)), 16);
}
