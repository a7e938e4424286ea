import { ACTIVATION_BYTES, addBlock, bitDots8x256, laneTile, LANES, laneUnpack } from '../dots';
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

/** Bytes of a thread's scratch: a tile, its scales, the sums of a batch, and rows of TQ2_0. */
// @ts-ignore: decorator
@inline export function bitLinearTqScratchBytes(cols: i32, batch: i32): i32 {
  const block = min(cols, BLOCK);
  return LANES * block + (block >> 8) * SUMS_BYTES + SUMS_BYTES * ((batch + 1) & ~1) + LANES * rowBytesTq2(cols);
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
 *   scratch  bitLinearTqScratchBytes(cols, batch) of this thread, 64-byte aligned: a tile, its scales, sums, repacked rows
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

/**
 * Repacks blocks [from, from + blocks) of rows r, r + part, … of TQ1_0 to `count` rows of TQ2_0, rowBytesTq2(cols) apart at `to`;
 * a few blocks of each row in turn, as that reads `count` streams of memory at once.
 */
function repackRows(w: usize, cols: i32, r: i32, part: i32, end: i32, count: i32, from: i32, blocks: i32, to: usize): void {
  const rowBytes = <usize>((cols >> 8) * TQ1_BYTES);
  for (const stop = from + blocks; from < stop; from += 4, to += 4 * TQ2_BYTES) {
    for (let i = 0; i < count; i++) {
      const row = rowAt(w, rowBytes, r + i * part, end) + <usize>(from * TQ1_BYTES);
      repackTq1(row, min(4, stop - from), to + <usize>(i * rowBytesTq2(cols)));
    }
  }
}

function linearByRow(
  type: i32, w: usize, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const rowBytes = <usize>rowBytesTq2(cols), actBytes = <usize>preparedBytes(cols, TQ2_0);
  const at = thread, dots = at + DOTS, mask = v128.load(at, 768), bias = v128.load(at, 624);
  const part = (end - begin + 7) >> 3;
  for (let r = begin; r < begin + part; r++) {
    let rows = w, first = r, step = part, last = end;
    if (type == TQ1_0) {
      repackRows(w, cols, r, part, end, 8, 0, cols >> 8, scratch);
      rows = scratch; first = 0; step = 1; last = 8;
    }
    const w0 = rowAt(rows, rowBytes, first, last), w1 = rowAt(rows, rowBytes, first + step, last);
    const w2 = rowAt(rows, rowBytes, first + 2 * step, last), w3 = rowAt(rows, rowBytes, first + 3 * step, last);
    const w4 = rowAt(rows, rowBytes, first + 4 * step, last), w5 = rowAt(rows, rowBytes, first + 5 * step, last);
    const w6 = rowAt(rows, rowBytes, first + 6 * step, last), w7 = rowAt(rows, rowBytes, first + 7 * step, last);
    let a = act, to = y;
    for (let b = 0; b < batch; b++) {
      let header = a, q = a + <usize>q8kHeaderBytes(cols);
      let low = f32x4.splat(0), high = f32x4.splat(0);
      for (let i: usize = 0; i < rowBytes; i += TQ2_BYTES, header += 8, q += 256 * ACTIVATION_BYTES) {
        bitDots8x256(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i, q, dots);
        const d = v128.load32_splat(header), sum = v128.load32_splat(header, 4);
        const halves = scales(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i);
        low = addBlock(low, v128.load(dots), sum, d, f32x4.mul(f16Low(halves, mask), bias));
        high = addBlock(high, v128.load(dots, 16), sum, d, f32x4.mul(f16High(halves, mask), bias));
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
  const rowBytes = <usize>rowBytesTq2(cols), actBytes = <usize>preparedBytes(cols, TQ2_0);
  const part = (end - begin + LANES - 1) / LANES;
  const scale = scratch + <usize>(LANES * min(cols, BLOCK));
  const sums = scale + <usize>((min(cols, BLOCK) >> 8) * SUMS_BYTES);
  const sumsBytes = SUMS_BYTES * ((batch + 1) & ~1);
  const repacked = sums + <usize>sumsBytes;
  for (let r = begin; r < begin + part; r++) {
    memory.fill(sums, 0, sumsBytes);
    for (let from = 0; from < cols; from += BLOCK) {
      const blocks = min(BLOCK, cols - from) >> 8;
      let rows = w + <usize>rowBytesTq2(from), first = r, step = part, last = end;
      if (type == TQ1_0) {
        repackRows(w, cols, r, part, end, LANES, from >> 8, blocks, repacked);
        rows = repacked; first = 0; step = 1; last = LANES;
      }
      for (let i = 0; i < LANES; i += 8, first += 8 * step) {
        unpackBlocks(
          rowAt(rows, rowBytes, first, last), rowAt(rows, rowBytes, first + step, last),
          rowAt(rows, rowBytes, first + 2 * step, last), rowAt(rows, rowBytes, first + 3 * step, last),
          rowAt(rows, rowBytes, first + 4 * step, last), rowAt(rows, rowBytes, first + 5 * step, last),
          rowAt(rows, rowBytes, first + 6 * step, last), rowAt(rows, rowBytes, first + 7 * step, last),
          blocks, scratch, scale, i,
        );
      }
      let a = act, to = sums;
      for (let b = 0; b < batch; b += 2) {
        addTile(scratch, scale, a, b + 1 < batch ? a + actBytes : a, cols, from, blocks, to);
        a += 2 * actBytes;
        to += 2 * SUMS_BYTES;
      }
    }
    let from = sums, to = y;
    for (let b = 0; b < batch; b++) {
      for (let i = 0; i < LANES; i += 4) put(v128.load(from + <usize>(4 * i)), to, r + i * part, part, end, add);
      from += SUMS_BYTES;
      to += <usize>stride << 2;
    }
  }
}

/** Unpacks codes and scales of eight rows into rows i … i + 7 of a tile. */
function unpackBlocks(
  w0: usize, w1: usize, w2: usize, w3: usize, w4: usize, w5: usize, w6: usize, w7: usize, blocks: i32, tile: usize, scale: usize, i: i32,
): void {
  const mask = f16Mask(), bias = v128.load(thread, 624);
  scale += <usize>(4 * i);
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

/** Adds `blocks` blocks from column `from` on to the sums of two rows of the batch, a and b, f32 [2][LANES]. */
function addTile(tile: usize, scale: usize, a: usize, b: usize, cols: i32, from: i32, blocks: i32, to: usize): void {
  const skipped = <usize>(q8kHeaderBytes(cols) + from * ACTIVATION_BYTES);
  let p = a + skipped, q = b + skipped;
  a += <usize>(from >> 5);
  b += <usize>(from >> 5);
  for (; blocks > 0; blocks--) {
    laneTile(tile, p, q, scale, a, b, to);
    tile += 256 * LANES; scale += SUMS_BYTES; a += 8; b += 8; p += 256 * ACTIVATION_BYTES; q += 256 * ACTIVATION_BYTES;
  }
}
