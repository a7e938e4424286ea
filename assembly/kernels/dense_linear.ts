import { f16High, f16Low, f16Mask, sumF32x4 } from '../lanes';
import { decodeRow, rowBytes } from './decode_row';
import { BF16, F16, F32, preparedBytes } from './prepare';

/**
 * y[b][r] = sum of w[r][k] * h[b][k] in f32 for rows r in [begin, end), or y += with `add`.
 *
 *   w         [rows][cols] of any type but I2_S, cols a multiple of 8
 *   h         [batch] rows prepared for that type (prepare.ts)
 *   y         f32 [batch][stride]
 *   decoded   f32 [cols], scratch: a row of w, where it has to be decoded
 */
export function denseLinear(
  w: usize, cols: i32, weightType: i32, h: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, decoded: usize,
): void {
  const wBytes = rowBytes(cols, weightType);
  const inPlace = weightType == F16 || weightType == BF16 || weightType == F32;
  const hBytes = <usize>preparedBytes(cols, weightType);
  for (let r = begin; r < end; r++) {
    let row = decoded;
    if (inPlace) row = w + <usize>r * wBytes;
    else decodeRow(weightType, w, r, cols, decoded);
    let x = h + 64;
    let out = y + (<usize>r << 2);
    for (let b = 0; b < batch; b++) {
      const dot = weightType == F16 ? dotF16(row, x, cols) : weightType == BF16 ? dotBf16(row, x, cols) : dotF32(row, x, cols);
      store<f32>(out, add ? load<f32>(out) + dot : dot);
      x += hBytes;
      out += <usize>stride << 2;
    }
  }
}

// Four sums each, of every fourth group of four k: they hide the latency of the additions, and the order is the same on
// every tier and thread count.

function dotF16(w: usize, x: usize, cols: i32): f32 {
  const mask = f16Mask();
  const end = w + (<usize>(cols & ~15) << 1);
  let a = f32x4.splat(0), b = f32x4.splat(0), c = f32x4.splat(0), d = f32x4.splat(0);
  while (w < end) {
    const low = v128.load(w), high = v128.load(w, 16);
    a = f32x4.add(a, f32x4.mul(f16Low(low, mask), v128.load(x)));
    b = f32x4.add(b, f32x4.mul(f16High(low, mask), v128.load(x, 16)));
    c = f32x4.add(c, f32x4.mul(f16Low(high, mask), v128.load(x, 32)));
    d = f32x4.add(d, f32x4.mul(f16High(high, mask), v128.load(x, 48)));
    w += 32; x += 64;
  }
  if (cols & 8) {
    const low = v128.load(w);
    a = f32x4.add(a, f32x4.mul(f16Low(low, mask), v128.load(x)));
    b = f32x4.add(b, f32x4.mul(f16High(low, mask), v128.load(x, 16)));
  }
  return sumF32x4(f32x4.add(f32x4.add(a, b), f32x4.add(c, d)));
}

function dotBf16(w: usize, x: usize, cols: i32): f32 {
  const end = w + (<usize>cols << 1);
  const zero = i32x4.splat(0);
  let a = f32x4.splat(0), b = f32x4.splat(0);
  while (w < end) {
    const v = v128.load(w);
    a = f32x4.add(a, f32x4.mul(i16x8.shuffle(zero, v, 0, 8, 1, 9, 2, 10, 3, 11), v128.load(x)));
    b = f32x4.add(b, f32x4.mul(i16x8.shuffle(zero, v, 4, 12, 5, 13, 6, 14, 7, 15), v128.load(x, 16)));
    w += 16; x += 32;
  }
  return sumF32x4(f32x4.add(a, b));
}

function dotF32(w: usize, x: usize, cols: i32): f32 {
  const end = w + (<usize>cols << 2);
  let a = f32x4.splat(0), b = f32x4.splat(0);
  while (w < end) {
    a = f32x4.add(a, f32x4.mul(v128.load(w), v128.load(x)));
    b = f32x4.add(b, f32x4.mul(v128.load(w, 16), v128.load(x, 16)));
    w += 32; x += 32;
  }
  return sumF32x4(f32x4.add(a, b));
}
