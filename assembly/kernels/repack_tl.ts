import { lookup } from '../dots';
import { thread } from '../lanes';
import { paddedCols, TL1, TL2 } from './prepare';
import { firstSigns, groupAt, indexBytes, lastSigns, pairsAt, tailAt, tripleCols } from './tl';

/** Columns that are unpacked at a time at most. */
const STEP: i32 = 32;
const PLANES_BYTES: usize = (128 + STEP) * 32;

/** Bytes of a thread's scratch: codes u8 [128 + STEP][32], and two squares of 16 x 16. */
export const REPACK_BYTES: i32 = <i32>PLANES_BYTES + 512;

/**
 * Rows [row, row + 32) of a TL1 or TL2 matrix as I2_S, `rowBytes` apart from `to` on; row a multiple of 32. Indices that code
 * nothing become some weight.
 */
export function repackRows(
  type: i32, w: usize, rows: i32, cols: i32, tileRows: i32, tileCols: i32, sub: i32, row: i32, to: usize, rowBytes: usize, scratch: usize,
): void {
  const triples = tripleCols(type, cols, tileCols), colTiles = cols / tileCols;
  let n = 0;
  for (let k = 0; k < triples; k += tileCols) {
    const group = groupAt(row, tileRows, colTiles, k / tileCols);
    const index = w + <usize>(group * (tileCols / 6)), sign = w + <usize>(indexBytes(rows, triples) + group * (tileCols / 24));
    for (let i = 0; i < tileCols; i += 24) {
      unpackTriples(index + <usize>(i / 6 * 32), sign + <usize>(i / 24 * 32), scratch + <usize>(n * 32));
      n = flush(type, n + 24, to, rowBytes, scratch);
      if (n < 24) to += 32;
    }
  }
  const width = type == TL2 ? 32 : tileCols, others = (cols - triples) / width;
  for (let tile = 0; tile < others; tile++) {
    // Of TL1 a row of `sub` at a time lies together: 16 rows of 4 columns a vector, two vectors of a row beside each other if
    // `sub` is 32, two rows if it is 64.
    let at: usize, next: usize = 32, y: usize = 16;
    if (type == TL2) at = w + <usize>(pairsAt(rows, triples) + groupAt(row, tileRows, others, tile) * 8);
    else {
      at = w + <usize>(groupAt(row / sub * sub, tileRows, others, tile) * (tileCols >> 2) + (row % sub));
      if (sub == 32) { next = 16; y = 32; } else next = 64;
    }
    for (let i = 0; i < width; i += 8) {
      unpackQuad(at, at + y, scratch + <usize>(n * 32));
      unpackQuad(at + next, at + next + y, scratch + <usize>(n * 32 + 128));
      at += next == 16 ? 64 : 2 * next;
      n = flush(type, n + 8, to, rowBytes, scratch);
      if (n < 8) to += 32;
    }
  }
  if (n > 0) {
    memory.fill(scratch + <usize>(n * 32), 1, (128 - n) * 32);
    flush(type, 128, to, rowBytes, scratch);
  }
}

/** Writes the scale, for one thread. */
export function repackScale(type: i32, w: usize, rows: i32, cols: i32, to: usize): void {
  to += <usize>(paddedCols(cols) >> 2) * <usize>rows;
  memory.copy(to, w + <usize>tailAt(type, rows, cols), 4);
  memory.fill(to + 4, 0, 28);
}

/** 24 columns of codes [24][32]. */
// @ts-ignore: decorator
@inline function unpackTriples(index: usize, sign: usize, to: usize): void {
  const at = thread;
  const nibble = v128.load(at, 880), a = v128.load(at, 928), b = v128.load(at, 944), c = v128.load(at, 960);
  for (let y: usize = 0; y < 32; y += 16) {
    const words = v128.load(sign + y);
    let signs = firstSigns(words), plane = to + y;
    for (let i: usize = 0; i < 128; i += 32) {
      if (i == 64) signs = lastSigns(words);
      const x = v128.load(index + y + i);
      unpackTriple(v128.and(i16x8.shr_u(x, 4), nibble), signs, plane, a, b, c);
      unpackTriple(v128.and(x, nibble), i16x8.shl(signs, 2), plane + 96, a, b, c);
      signs = i16x8.shl(signs, 4);
      plane += 192;
    }
  }
}

/** Codes are weight + 1: that of the negative weight is 2 - code, which is ~code + 3. */
// @ts-ignore: decorator
@inline function unpackTriple(n: v128, signs: v128, to: usize, a: v128, b: v128, c: v128): void {
  const m = i8x16.lt_s(signs, i8x16.splat(0)), three = v128.and(m, v128.load(thread, 704));
  v128.store(to, i8x16.add(v128.xor(lookup(a, n), m), three));
  v128.store(to, i8x16.add(v128.xor(lookup(b, n), m), three), 32);
  v128.store(to, i8x16.add(v128.xor(lookup(c, n), m), three), 64);
}

/** Four columns of codes [4][32], of vectors x and y. */
// @ts-ignore: decorator
@inline function unpackQuad(x: usize, y: usize, to: usize): void {
  const at = thread;
  const nibble = v128.load(at, 880), first = v128.load(at, 896), second = v128.load(at, 912);
  for (let i: usize = 0; i < 32; i += 16) {
    const v = v128.load(i ? y : x);
    const high = v128.and(i16x8.shr_u(v, 4), nibble), low = v128.and(v, nibble);
    v128.store(to + i, lookup(first, high));
    v128.store(to + i, lookup(second, high), 32);
    v128.store(to + i, lookup(first, low), 64);
    v128.store(to + i, lookup(second, low), 96);
  }
}

/** Writes a block of 128 columns if there are `n` that make one, and returns how many are left. */
// @ts-ignore: decorator
@inline function flush(type: i32, n: i32, to: usize, rowBytes: usize, scratch: usize): i32 {
  if (n < 128) return n;
  packBlock(type, scratch, to, rowBytes, scratch + PLANES_BYTES);
  memory.copy(scratch, scratch + 128 * 32, (n - 128) * 32);
  return n - 128;
}

/** Codes [128][32] to 32 rows of 32 bytes. */
function packBlock(type: i32, planes: usize, to: usize, rowBytes: usize, square: usize): void {
  for (let y: usize = 0; y < 32; y += 16) {
    for (let half: usize = 0; half < 32; half += 16) {
      let from = planes + half * 32 + y;
      for (let i: usize = 0; i < 256; i += 16, from += 32) {
        const high = v128.or(i16x8.shl(v128.load(from), 6), i16x8.shl(v128.load(from, 32 * 32), 4));
        v128.store(square + i, v128.or(high, v128.or(i16x8.shl(v128.load(from, 64 * 32), 2), v128.load(from, 96 * 32))));
      }
      // Four perfect shuffles turn bytes of a row into rows of a byte.
      interleave(square, square + 256);
      interleave(square + 256, square);
      interleave(square, square + 256);
      interleave(square + 256, square);
      for (let i: usize = 0; i < 16; i++) {
        const row = type == TL2 ? (y >> 1) + (i & 7) + ((i & 8) << 1) : y + i;
        v128.store(to + row * rowBytes + half, v128.load(square + 16 * i));
      }
    }
  }
}

// @ts-ignore: decorator
@inline function interleave(from: usize, to: usize): void {
  for (let i: usize = 0; i < 128; i += 16) {
    const a = v128.load(from + i), b = v128.load(from + i, 128);
    v128.store(to + 2 * i, i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    v128.store(to + 2 * i, i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 16);
  }
}

/** Bytes [begin, end) at w: the first of them with a nibble above `most`, or -1 if none has. */
export function checkNibbles(w: usize, begin: u32, end: u32, most: i32): u32 {
  const nibble = v128.load(thread, 880), limit = i8x16.splat(<i8>most);
  let i = begin;
  for (; i + 32 <= end; i += 32) {
    const a = v128.load(w + <usize>i), b = v128.load(w + <usize>i, 16);
    const low = i8x16.max_u(v128.and(a, nibble), v128.and(b, nibble));
    const high = v128.and(i16x8.shr_u(i8x16.max_u(a, b), 4), nibble);
    if (v128.any_true(i8x16.gt_u(i8x16.max_u(low, high), limit))) break;
  }
  for (; i < end; i++) {
    const byte = <i32>load<u8>(w + <usize>i);
    if ((byte & 15) > most || byte >> 4 > most) return i;
  }
  return -1;
}
