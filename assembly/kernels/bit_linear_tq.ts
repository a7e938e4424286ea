import { ACTIVATION_BYTES, bitDots8, bitTile, bitUnpack, TILE } from '../dots';
import { F16_BIAS, f16High, f16Low, f16Mask } from '../lanes';
import { putRow, rowAt, TILE_ROWS } from './bit_linear';
import { preparedBytes, TQ1_0, TQ2_0 } from './prepare';
import { q8kHeaderBytes } from './quantize_q8_k';
import { repackTq1, TQ1_BYTES, TQ2_BYTES } from './repack';

/** Columns unpacked at a time, as in bit_linear. */
const BLOCK: i32 = 32768 / (TILE + 2 * ACTIVATION_BYTES) / 256 * 256;

/** f32 [8]: sums of a row of the batch, or the scales of a block of eight rows. */
// @ts-ignore: decorator
@inline const SUMS_BYTES: i32 = 32;

/** Bytes of a thread's scratch: eight rows of TQ2_0, a tile, its scales, and the sums of a batch. */
// @ts-ignore: decorator
@inline export function bitLinearTqScratchBytes(cols: i32, batch: i32): i32 {
  const block = min(cols, BLOCK);
  return 8 * rowBytesTq2(cols) + TILE * block + (block >> 8) * SUMS_BYTES + SUMS_BYTES * ((batch + 1) & ~1);
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

/** Where row r, the i-th of those that are computed together, stands in TQ2_0. */
// @ts-ignore: decorator
@inline function tq2Row(type: i32, w: usize, cols: i32, r: i32, end: i32, scratch: usize, i: i32): usize {
  if (type == TQ2_0) return rowAt(w, <usize>rowBytesTq2(cols), r, end);
  const to = scratch + <usize>(i * rowBytesTq2(cols));
  repackTq1(rowAt(w, <usize>((cols >> 8) * TQ1_BYTES), r, end), cols >> 8, to);
  return to;
}

function linearByRow(
  type: i32, w: usize, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const actBytes = <usize>preparedBytes(cols, TQ2_0);
  const part = (end - begin + 7) >> 3;
  for (let r = begin; r < begin + part; r++) {
    const w0 = tq2Row(type, w, cols, r, end, scratch, 0), w1 = tq2Row(type, w, cols, r + part, end, scratch, 1);
    const w2 = tq2Row(type, w, cols, r + 2 * part, end, scratch, 2), w3 = tq2Row(type, w, cols, r + 3 * part, end, scratch, 3);
    const w4 = tq2Row(type, w, cols, r + 4 * part, end, scratch, 4), w5 = tq2Row(type, w, cols, r + 5 * part, end, scratch, 5);
    const w6 = tq2Row(type, w, cols, r + 6 * part, end, scratch, 6), w7 = tq2Row(type, w, cols, r + 7 * part, end, scratch, 7);
    let a = act, to = y;
    for (let b = 0; b < batch; b++) {
      let low = f32x4.splat(0), high = f32x4.splat(0);
      let q = a + <usize>q8kHeaderBytes(cols), header = a;
      const stop = <usize>rowBytesTq2(cols);
      for (let i: usize = 0; i < stop; i += TQ2_BYTES, header += 8, q += 256 * ACTIVATION_BYTES) {
        const dots = bitDots8(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i, q, 256);
        const d = v128.load32_splat(header), sum = v128.load32_splat(header, 4);
        const halves = scales(w0 + i, w1 + i, w2 + i, w3 + i, w4 + i, w5 + i, w6 + i, w7 + i);
        low = f32x4.add(low, scaled(i32x4.sub(v128.load(dots), sum), f16Low(halves, f16Mask()), d));
        high = f32x4.add(high, scaled(i32x4.sub(v128.load(dots, 16), sum), f16High(halves, f16Mask()), d));
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

/** dots * (d * scale), the scales too small by F16_BIAS. */
// @ts-ignore: decorator
@inline function scaled(dots: v128, scale: v128, d: v128): v128 {
  return f32x4.mul(f32x4.convert_i32x4_s(dots), f32x4.mul(d, f32x4.mul(scale, f32x4.splat(F16_BIAS))));
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
  const actBytes = <usize>preparedBytes(cols, TQ2_0), header = <usize>q8kHeaderBytes(cols);
  const part = (end - begin + TILE - 1) / TILE;
  const tile = scratch + <usize>(8 * rowBytesTq2(cols));
  const scalesAt = tile + <usize>(TILE * min(cols, BLOCK));
  const sums = scalesAt + <usize>((min(cols, BLOCK) >> 8) * SUMS_BYTES);
  for (let r = begin; r < begin + part; r++) {
    let w0 = tq2Row(type, w, cols, r, end, scratch, 0), w1 = tq2Row(type, w, cols, r + part, end, scratch, 1);
    let w2 = tq2Row(type, w, cols, r + 2 * part, end, scratch, 2), w3 = tq2Row(type, w, cols, r + 3 * part, end, scratch, 3);
    let w4 = w0, w5 = w0;
    if (TILE == 6) {
      w4 = tq2Row(type, w, cols, r + 4 * part, end, scratch, 4);
      w5 = tq2Row(type, w, cols, r + 5 * part, end, scratch, 5);
    }
    for (let from = 0; from < cols; from += BLOCK) {
      const blocks = min(BLOCK, cols - from) >> 8;
      let t = tile, s = scalesAt;
      for (let i = 0; i < blocks; i++) {
        bitUnpack(w0, w1, w2, w3, w4, w5, 256, t);
        const halves = scales(w0, w1, w2, w3, w4, w5, w5, w5), bias = f32x4.splat(F16_BIAS);
        v128.store(s, f32x4.mul(f16Low(halves, f16Mask()), bias));
        v128.store(s, f32x4.mul(f16High(halves, f16Mask()), bias), 16);
        t += TILE * 256;
        s += SUMS_BYTES;
        w0 += TQ2_BYTES; w1 += TQ2_BYTES; w2 += TQ2_BYTES; w3 += TQ2_BYTES; w4 += TQ2_BYTES; w5 += TQ2_BYTES;
      }
      let a = act, to = sums;
      for (let b = 0; b < batch; b += 2) {
        const other = b + 1 < batch ? a + actBytes : a;
        tileSums(tile, scalesAt, a, other, header, from, blocks, to);
        a += 2 * actBytes;
        to += 2 * SUMS_BYTES;
      }
    }
    let from = sums, to = y;
    for (let b = 0; b < batch; b++) {
      put(v128.load(from), to, r, part, end, add);
      if (TILE == 6) {
        putRow(load<f32>(from, 16), to, r + 4 * part, end, add);
        putRow(load<f32>(from, 20), to, r + 5 * part, end, add);
      }
      from += SUMS_BYTES;
      to += <usize>stride << 2;
    }
  }
}

/** Sums of two rows of the batch over `blocks` blocks from column `from` on, [2][8], set or added to. */
function tileSums(tile: usize, scale: usize, a: usize, b: usize, header: usize, from: i32, blocks: i32, to: usize): void {
  let p = a + header + <usize>(from * ACTIVATION_BYTES), q = b + header + <usize>(from * ACTIVATION_BYTES);
  a += <usize>(from >> 5);
  b += <usize>(from >> 5);
  let p0 = f32x4.splat(0), p1 = f32x4.splat(0), q0 = f32x4.splat(0), q1 = f32x4.splat(0);
  if (from > 0) {
    p0 = v128.load(to); p1 = v128.load(to, 16); q0 = v128.load(to, 32); q1 = v128.load(to, 48);
  }
  for (let i = 0; i < blocks; i++) {
    const dots = bitTile(tile, p, q, 256);
    const s0 = v128.load(scale), s1 = v128.load(scale, 16);
    let d = v128.load32_splat(a), sum = DOT == 0 ? i32x4.splat(0) : v128.load32_splat(a, 4);
    p0 = f32x4.add(p0, block(v128.load(dots), sum, s0, d));
    p1 = f32x4.add(p1, block(v128.load(dots, 16), sum, s1, d));
    d = v128.load32_splat(b); sum = DOT == 0 ? i32x4.splat(0) : v128.load32_splat(b, 4);
    q0 = f32x4.add(q0, block(v128.load(dots, 32), sum, s0, d));
    q1 = f32x4.add(q1, block(v128.load(dots, 48), sum, s1, d));
    tile += TILE * 256; scale += SUMS_BYTES; a += 8; b += 8; p += 256 * ACTIVATION_BYTES; q += 256 * ACTIVATION_BYTES;
  }
  v128.store(to, p0); v128.store(to, p1, 16); v128.store(to, q0, 32); v128.store(to, q1, 48);
}

// @ts-ignore: decorator
@inline function block(dots: v128, sum: v128, scale: v128, d: v128): v128 {
  return f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(dots, sum)), f32x4.mul(d, scale));
}
