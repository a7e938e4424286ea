import { ACTIVATION_BYTES, bitDots8x256, laneTile, LANES, laneUnpack } from '../dots';
import { DOTS, f16High, f16Low, f16Mask, thread } from '../lanes';
import { putRow, rowAt, TILE_ROWS } from './bit_linear';
import { preparedBytes, TQ1_0, TQ2_0 } from './prepare';
import { q8kHeaderBytes } from './quantize_q8_k';
import { repackTq1, TQ1_BYTES, TQ2_BYTES } from './repack';

/** Columns unpacked at a time: a tile and two rows of activations stay within 32 KiB, which is what first caches have. */
const BLOCK: i32 = 32768 / (LANES + 2 * ACTIVATION_BYTES) / 256 * 256;

/** f32 [LANES]: sums of a row of the batch, or the scales of a block of a tile's rows. */
// @ts-ignore: decorator
@inline const SUMS_BYTES: i32 = 4 * LANES;

/** Bytes of a thread's scratch: rows of TQ2_0, a tile, its scales, and the sums of a batch. */
// @ts-ignore: decorator
@inline export function bitLinearTqScratchBytes(cols: i32, batch: i32): i32 {
  const block = min(cols, BLOCK);
  return LANES * rowBytesTq2(cols) + LANES * block + (block >> 8) * SUMS_BYTES + SUMS_BYTES * ((batch + 1) & ~1);
}

// @ts-ignore: decorator
@inline function rowBytesTq2(cols: i32): i32 {
  return (cols >> 8) * TQ2_BYTES;
}

/**
 * y[b][r] = sum of dot * (d * scale) over blocks of 256 for rows r in [begin, end) and every row b of the batch, or y += with
 * `add`.
 *
 *   w        TQ1_0 or TQ2_0 [rows][cols] (src/gguf/layouts/)
 *   act      [batch] rows prepared for these types (prepare.ts)
 *   y        f32 [batch][stride]
 *   scratch  bitLinearTqScratchBytes(cols, batch) of this thread
 *
 * Rows are taken in the order of bit_linear. Those of TQ1_0 are repacked to TQ2_0 as they come.
 */
export function bitLinearTq(
  type: i32, w: usize, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  if (begin == end) return;
  if (batch < TILE_ROWS) linearByRow(type, w, cols, act, batch, y, stride, add, begin, end, scratch);
  else linearByTile(type, w, cols, act, batch, y, stride, add, begin, end, scratch);
}

/** Where columns from `from` on of row r, the i-th of those computed together, stand in TQ2_0, `blocks` blocks. */
function tq2Row(type: i32, w: usize, cols: i32, r: i32, end: i32, scratch: usize, i: i32, from: i32, blocks: i32): usize {
  if (type == TQ2_0) return rowAt(w, <usize>rowBytesTq2(cols), r, end) + <usize>rowBytesTq2(from);
  const to = scratch + <usize>(i * rowBytesTq2(cols));
  repackTq1(rowAt(w, <usize>((cols >> 8) * TQ1_BYTES), r, end) + <usize>((from >> 8) * TQ1_BYTES), blocks, to);
  return to;
}

function linearByRow(
  type: i32, w: usize, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const actBytes = <usize>preparedBytes(cols, TQ2_0);
  const part = (end - begin + 7) >> 3;
  for (let r = begin; r < begin + part; r++) {
    const blocks = cols >> 8;
    const w0 = tq2Row(type, w, cols, r, end, scratch, 0, 0, blocks), w1 = tq2Row(type, w, cols, r + part, end, scratch, 1, 0, blocks);
    const w2 = tq2Row(type, w, cols, r + 2 * part, end, scratch, 2, 0, blocks), w3 = tq2Row(type, w, cols, r + 3 * part, end, scratch, 3, 0, blocks);
    const w4 = tq2Row(type, w, cols, r + 4 * part, end, scratch, 4, 0, blocks), w5 = tq2Row(type, w, cols, r + 5 * part, end, scratch, 5, 0, blocks);
    const w6 = tq2Row(type, w, cols, r + 6 * part, end, scratch, 6, 0, blocks), w7 = tq2Row(type, w, cols, r + 7 * part, end, scratch, 7, 0, blocks);
    let a = act, to = y;
    for (let b = 0; b < batch; b++) {
      const at = thread, dots = at + DOTS;
      const mask = v128.load(at, 768), bias = v128.load(at, 928);
      let low = f32x4.splat(0), high = f32x4.splat(0);
      let q = a + <usize>q8kHeaderBytes(cols), header = a;
      const stop = <usize>rowBytesTq2(cols);
      for (let i: usize = 0; i < stop; i += TQ2_BYTES, header += 8, q += 256 * ACTIVATION_BYTES) {
        bitDots8x256(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i, q, dots);
        const d = v128.load32_splat(header), sum = v128.load32_splat(header, 4);
        const halves = scales(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i);
        low = f32x4.add(low, block(v128.load(dots), sum, f32x4.mul(f16Low(halves, mask), bias), d));
        high = f32x4.add(high, block(v128.load(dots, 16), sum, f32x4.mul(f16High(halves, mask), bias), d));
      }
      put(low, to, r, part, end, add);
      put(high, to, r + 4 * part, part, end, add);
      a += actBytes;
      to += <usize>stride << 2;
    }
  }
}

/** The f16 scales of a block of eight rows. */
// @ts-ignore: decorator
@inline function scales(w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize): v128 {
  let v = v128.load16_splat(w0, 64);
  v = v128.load_lane<u16>(w1, v, 1, 64); v = v128.load_lane<u16>(w2, v, 2, 64); v = v128.load_lane<u16>(w3, v, 3, 64);
  v = v128.load_lane<u16>(w4, v, 4, 64); v = v128.load_lane<u16>(w5, v, 5, 64); v = v128.load_lane<u16>(w6, v, 6, 64);
  return v128.load_lane<u16>(w7, v, 7, 64);
}

/** Stores four numbers at rows r, r + part, r + 2 part and r + 3 part, as far as they are below end. */
// @ts-ignore: decorator
@inline function put(v: v128, y: usize, r: i32, part: i32, end: i32, add: i32): void {
  putRow(f32x4.extract_lane(v, 0), y, r, end, add);
  putRow(f32x4.extract_lane(v, 1), y, r + part, end, add);
  putRow(f32x4.extract_lane(v, 2), y, r + 2 * part, end, add);
  putRow(f32x4.extract_lane(v, 3), y, r + 3 * part, end, add);
}

function linearByTile(
  type: i32, w: usize, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const rowBytes = <usize>rowBytesTq2(cols), actBytes = <usize>preparedBytes(cols, TQ2_0), header = <usize>q8kHeaderBytes(cols);
  const part = (end - begin + LANES - 1) / LANES;
  const tile = scratch + LANES * rowBytes;
  const scaleAt = tile + <usize>(LANES * min(cols, BLOCK));
  const sums = scaleAt + <usize>((min(cols, BLOCK) >> 8) * SUMS_BYTES);
  const bytes = SUMS_BYTES * ((batch + 1) & ~1);
  for (let r = begin; r < begin + part; r++) {
    memory.fill(sums, 0, bytes);
    for (let from = 0; from < cols; from += BLOCK) {
      const blocks = min(BLOCK, cols - from) >> 8;
      for (let i = 0; i < LANES / 8; i++) {
        const first = r + 8 * i * part;
        const w0 = tq2Row(type, w, cols, first, end, scratch, 8 * i, from, blocks), w1 = tq2Row(type, w, cols, first + part, end, scratch, 8 * i + 1, from, blocks);
        const w2 = tq2Row(type, w, cols, first + 2 * part, end, scratch, 8 * i + 2, from, blocks), w3 = tq2Row(type, w, cols, first + 3 * part, end, scratch, 8 * i + 3, from, blocks);
        const w4 = tq2Row(type, w, cols, first + 4 * part, end, scratch, 8 * i + 4, from, blocks), w5 = tq2Row(type, w, cols, first + 5 * part, end, scratch, 8 * i + 5, from, blocks);
        const w6 = tq2Row(type, w, cols, first + 6 * part, end, scratch, 8 * i + 6, from, blocks), w7 = tq2Row(type, w, cols, first + 7 * part, end, scratch, 8 * i + 7, from, blocks);
        unpackBlocks(w0, w1, w2, w3, w4, w5, w6, w7, blocks, tile, scaleAt, i);
      }
      let a = act, to = sums;
      for (let b = 0; b < batch; b += 2) {
        addTile(tile, scaleAt, a, b + 1 < batch ? a + actBytes : a, header, from, blocks, to);
        a += 2 * actBytes;
        to += 2 * SUMS_BYTES;
      }
    }
    let from = sums, to = y;
    for (let b = 0; b < batch; b++) {
      for (let i = 0; i < LANES; i++) putRow(load<f32>(from + (<usize>i << 2)), to, r + i * part, end, add);
      from += SUMS_BYTES;
      to += <usize>stride << 2;
    }
  }
}

/** Codes and scales of eight rows, rows 8 i … 8 i + 7 of a tile. */
function unpackBlocks(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, blocks: i32, tile: usize, scale: usize, i: i32,
): void {
  const mask = f16Mask(), bias = v128.load(thread, 928);
  scale += <usize>(32 * i);
  for (; blocks > 0; blocks--) {
    laneUnpack(w0, w1, w2, w3, w4, w5, w6, w7, tile, i);
    const halves = scales(w0, w1, w2, w3, w4, w5, w6, w7);
    v128.store(scale, f32x4.mul(f16Low(halves, mask), bias));
    v128.store(scale, f32x4.mul(f16High(halves, mask), bias), 16);
    tile += 256 * LANES;
    scale += SUMS_BYTES;
    w0 += TQ2_BYTES; w1 += TQ2_BYTES; w2 += TQ2_BYTES; w3 += TQ2_BYTES;
    w4 += TQ2_BYTES; w5 += TQ2_BYTES; w6 += TQ2_BYTES; w7 += TQ2_BYTES;
  }
}

/** Adds `blocks` blocks from column `from` on to the sums of two rows of the batch, f32 [2][LANES]. */
function addTile(tile: usize, scale: usize, a: usize, b: usize, header: usize, from: i32, blocks: i32, to: usize): void {
  let p = a + header + <usize>(from * ACTIVATION_BYTES), q = b + header + <usize>(from * ACTIVATION_BYTES);
  a += <usize>(from >> 5);
  b += <usize>(from >> 5);
  for (; blocks > 0; blocks--) {
    const dots = laneTile(tile, p, q);
    addDots(dots, a, scale, to);
    addDots(dots + 64, b, scale, to + SUMS_BYTES);
    tile += 256 * LANES; scale += SUMS_BYTES; a += 8; b += 8; p += 256 * ACTIVATION_BYTES; q += 256 * ACTIVATION_BYTES;
  }
}

// @ts-ignore: decorator
@inline function addDots(dots: usize, a: usize, scale: usize, to: usize): void {
  const d = v128.load32_splat(a), sum = DOT == 0 ? i32x4.splat(0) : v128.load32_splat(a, 4);
  const s0 = f32x4.add(v128.load(to), block(v128.load(dots), sum, v128.load(scale), d));
  const s1 = f32x4.add(v128.load(to, 16), block(v128.load(dots, 16), sum, v128.load(scale, 16), d));
  const s2 = f32x4.add(v128.load(to, 32), block(v128.load(dots, 32), sum, v128.load(scale, 32), d));
  const s3 = f32x4.add(v128.load(to, 48), block(v128.load(dots, 48), sum, v128.load(scale, 48), d));
  v128.store(to, s0); v128.store(to, s1, 16); v128.store(to, s2, 32); v128.store(to, s3, 48);
}

/** (dots - sum) * (d * scale). */
// @ts-ignore: decorator
@inline function block(dots: v128, sum: v128, scale: v128, d: v128): v128 {
  return f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(dots, sum)), f32x4.mul(d, scale));
}
