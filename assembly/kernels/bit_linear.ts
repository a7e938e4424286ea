import { ACTIVATION_BYTES, bitDots8, bitTile, bitUnpack, TILE } from '../dots';
import { I2_S, paddedCols, preparedBytes } from './prepare';

/**
 * From how many rows on a batch is computed in tiles of TILE rows of W and two of the batch, the codes unpacked once. At 4 rows
 * that is 1.07 (revec) to 1.27 (simd) times as fast as row by row, at 2 it unpacks for one pair (Xeon model 167, Node 24 and 20,
 * November 2026; bench/LOG.md).
 */
// @ts-ignore: decorator
@inline export const TILE_ROWS: i32 = 4;

/** Columns unpacked at a time: a tile and two rows of activations stay within 32 KiB, which is what first caches have. */
const BLOCK: i32 = 32768 / (TILE + 2 * ACTIVATION_BYTES) / 128 * 128;

/** Bytes of a thread's scratch: a tile, and the sums of a batch. */
// @ts-ignore: decorator
@inline export function bitLinearScratchBytes(cols: i32, batch: i32): i32 {
  return TILE * min(paddedCols(cols), BLOCK) + SUMS_BYTES * ((batch + 1) & ~1);
}

/** i32 [8]. */
// @ts-ignore: decorator
@inline const SUMS_BYTES: i32 = 32;

/**
 * y[b][r] = dot / s * scale for rows r in [begin, end) and every row b of the batch, or y += with `add`.
 *
 *   w        I2_S [rows][cols] codes, then the f32 scale (src/gguf/layouts/i2_s.ts); each row padded to whole blocks of 128
 *            columns, for which activations are 0
 *   act      [batch] rows prepared for I2_S (prepare.ts)
 *   y        f32 [batch][stride]
 *   scratch  bitLinearScratchBytes(cols, batch) of this thread
 *
 * The rows are taken from eight (TILE in tiles) equal parts of [begin, end), one from each at a time: so many streams of
 * memory does hardware prefetch along at once. Where parts run out of rows, the last row is computed again and not stored.
 */
export function bitLinear(
  w: usize, rows: i32, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  cols = paddedCols(cols);
  const scale = load<f32>(w + <usize>(cols >> 2) * <usize>rows);
  if (begin == end) return;
  if (batch < TILE_ROWS) linearByRow(w, cols, scale, act, batch, y, stride, add, begin, end);
  else linearByTile(w, cols, scale, act, batch, y, stride, add, begin, end, scratch);
}

function linearByRow(
  w: usize, cols: i32, scale: f32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32,
): void {
  const rowBytes = <usize>(cols >> 2), actBytes = <usize>preparedBytes(cols, I2_S);
  const part = (end - begin + 7) >> 3;
  for (let r = begin; r < begin + part; r++) {
    const w0 = rowAt(w, rowBytes, r, end), w1 = rowAt(w, rowBytes, r + part, end);
    const w2 = rowAt(w, rowBytes, r + 2 * part, end), w3 = rowAt(w, rowBytes, r + 3 * part, end);
    const w4 = rowAt(w, rowBytes, r + 4 * part, end), w5 = rowAt(w, rowBytes, r + 5 * part, end);
    const w6 = rowAt(w, rowBytes, r + 6 * part, end), w7 = rowAt(w, rowBytes, r + 7 * part, end);
    let a = act, to = y;
    for (let b = 0; b < batch; b++) {
      const dots = bitDots8(w0, w1, w2, w3, w4, w5, w6, w7, a + 64, cols);
      const s = load<f32>(a), sum = load<i32>(a, 4);
      put(dots, sum, s, scale, to, r, part, end, add);
      put(dots + 16, sum, s, scale, to, r + 4 * part, part, end, add);
      a += actBytes;
      to += <usize>stride << 2;
    }
  }
}

/** As `bitLinear`, of whole blocks of columns, with rows prepared for tiles. */
export function linearByTile(
  w: usize, cols: i32, scale: f32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const rowBytes = <usize>(cols >> 2), actBytes = <usize>preparedBytes(cols, I2_S);
  const part = (end - begin + TILE - 1) / TILE;
  const sums = scratch + <usize>(TILE * min(cols, BLOCK));
  for (let r = begin; r < begin + part; r++) {
    for (let from = 0; from < cols; from += BLOCK) {
      const block = min(BLOCK, cols - from);
      const at = w + <usize>(from >> 2);
      bitUnpack(
        rowAt(at, rowBytes, r, end), rowAt(at, rowBytes, r + part, end), rowAt(at, rowBytes, r + 2 * part, end),
        rowAt(at, rowBytes, r + 3 * part, end), rowAt(at, rowBytes, r + 4 * part, end), rowAt(at, rowBytes, r + 5 * part, end),
        block, scratch,
      );
      let a = act + 64 + <usize>(from * ACTIVATION_BYTES), to = sums;
      for (let b = 0; b < batch; b += 2) {
        addSums(bitTile(scratch, a, b + 1 < batch ? a + actBytes : a, block), to, from > 0);
        a += 2 * actBytes;
        to += 2 * SUMS_BYTES;
      }
    }
    let a = act, from = sums, to = y;
    for (let b = 0; b < batch; b++) {
      putTile(from, a, scale, to, r, part, end, add);
      a += actBytes;
      from += SUMS_BYTES;
      to += <usize>stride << 2;
    }
  }
}

/** Sums of two rows of the batch, [2][8], set or added to. */
// @ts-ignore: decorator
@inline function addSums(dots: usize, to: usize, add: bool): void {
  for (let i: usize = 0; i < 2 * SUMS_BYTES; i += 16) {
    const v = v128.load(dots + i);
    v128.store(to + i, add ? i32x4.add(v128.load(to + i), v) : v);
  }
}

// @ts-ignore: decorator
@inline function putTile(dots: usize, a: usize, scale: f32, y: usize, r: i32, part: i32, end: i32, add: i32): void {
  const sum = DOT == 0 ? 0 : load<i32>(a, 4), s = load<f32>(a);
  put(dots, sum, s, scale, y, r, part, end, add);
  if (TILE == 6) {
    const v = scaled(dots + 16, sum, s, scale);
    putRow(f32x4.extract_lane(v, 0), y, r + 4 * part, end, add);
    putRow(f32x4.extract_lane(v, 1), y, r + 5 * part, end, add);
  }
}

// @ts-ignore: decorator
@inline export function rowAt(w: usize, rowBytes: usize, r: i32, end: i32): usize {
  return w + <usize>min(r, end - 1) * rowBytes;
}

/** (dots - sum) / s * scale. */
// @ts-ignore: decorator
@inline function scaled(dots: usize, sum: i32, s: f32, scale: f32): v128 {
  const v = f32x4.convert_i32x4_s(i32x4.sub(v128.load(dots), i32x4.splat(sum)));
  return f32x4.mul(f32x4.div(v, f32x4.splat(s)), f32x4.splat(scale));
}

/** Stores four of them at rows r, r + part, r + 2 part and r + 3 part, as far as they are below end. */
// @ts-ignore: decorator
@inline function put(dots: usize, sum: i32, s: f32, scale: f32, y: usize, r: i32, part: i32, end: i32, add: i32): void {
  const v = scaled(dots, sum, s, scale);
  putRow(f32x4.extract_lane(v, 0), y, r, end, add);
  putRow(f32x4.extract_lane(v, 1), y, r + part, end, add);
  putRow(f32x4.extract_lane(v, 2), y, r + 2 * part, end, add);
  putRow(f32x4.extract_lane(v, 3), y, r + 3 * part, end, add);
}

// @ts-ignore: decorator
@inline export function putRow(v: f32, y: usize, r: i32, end: i32, add: i32): void {
  if (r >= end) return;
  const at = y + (<usize>r << 2);
  store<f32>(at, add ? load<f32>(at) + v : v);
}
