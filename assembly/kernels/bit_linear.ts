import { bitDots4, bitTile4x2, bitUnpack4, touchLines } from '../dots';
import { I2_S, preparedBytes } from './prepare';

/**
 * From how many rows on a batch is computed in tiles of four rows of W and two of the batch, the codes of the four unpacked
 * once: below, unpacking costs more than it saves (`npm run bench -- kernels --rows N`).
 */
// @ts-ignore: decorator
@inline export const TILE_ROWS: i32 = 4;

/**
 * y[b][r] = dot / s * scale for rows r in [begin, end) and every row b of the batch, or y += with `add`.
 *
 *   w        I2_S [rows][cols] codes, then the f32 scale (src/gguf/layouts/i2_s.ts)
 *   act      [batch] rows prepared for I2_S (prepare.ts)
 *   y        f32 [batch][stride]
 *   scratch  4 * cols bytes of this thread
 */
export function bitLinear(
  w: usize, rows: i32, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32, scratch: usize,
): void {
  const rowBytes = <usize>(cols >> 2);
  const actBytes = <usize>preparedBytes(cols, I2_S);
  const scale = load<f32>(w + rowBytes * <usize>rows);
  const yBytes = <usize>stride << 2;
  // While a tile goes over the batch, each pair of rows asks for a part of the next tile.
  const part = (4 * rowBytes / <usize>((batch + 1) >> 1) + 63) & ~63;
  for (let r = begin; r < end; r += 4) {
    const n = min(4, end - r);
    const w0 = w + <usize>r * rowBytes;
    const w1 = n > 1 ? w0 + rowBytes : w0, w2 = n > 2 ? w1 + rowBytes : w1, w3 = n > 3 ? w2 + rowBytes : w2;
    let a = act;
    let out = y + (<usize>r << 2);
    // Behind the last tile there is nothing of this thread's to ask for.
    let ahead = r + 8 <= end ? w0 + 4 * rowBytes : w0;
    if (batch < TILE_ROWS) {
      for (let b = 0; b < batch; b++) {
        put(bitDots4(w0, w1, w2, w3, a + 64, cols, ahead), load<i32>(a, 4), load<f32>(a), scale, out, n, add);
        a += actBytes;
        out += yBytes;
      }
      continue;
    }
    bitUnpack4(w0, w1, w2, w3, cols, scratch);
    for (let b = 0; b < batch; b += 2) {
      const both = b + 1 < batch;
      touchLines(ahead, part);
      ahead += part;
      const sums = bitTile4x2(scratch, a + 64, both ? a + 64 + actBytes : a + 64, cols);
      put(v128.load(sums), DOT == 0 ? 0 : load<i32>(a, 4), load<f32>(a), scale, out, n, add);
      a += actBytes;
      out += yBytes;
      if (!both) break;
      put(v128.load(sums, 16), DOT == 0 ? 0 : load<i32>(a, 4), load<f32>(a), scale, out, n, add);
      a += actBytes;
      out += yBytes;
    }
  }
}

/** The first n lanes of (dots - sum) / s * scale. */
// @ts-ignore: decorator
@inline function put(dots: v128, sum: i32, s: f32, scale: f32, out: usize, n: i32, add: i32): void {
  let v = f32x4.convert_i32x4_s(i32x4.sub(dots, i32x4.splat(sum)));
  v = f32x4.mul(f32x4.div(v, f32x4.splat(s)), f32x4.splat(scale));
  if (n == 4) {
    v128.store(out, add ? f32x4.add(v128.load(out), v) : v);
    return;
  }
  const y0 = f32x4.extract_lane(v, 0), y1 = f32x4.extract_lane(v, 1), y2 = f32x4.extract_lane(v, 2);
  store<f32>(out, add ? load<f32>(out) + y0 : y0);
  if (n > 1) store<f32>(out, add ? load<f32>(out, 4) + y1 : y1, 4);
  if (n > 2) store<f32>(out, add ? load<f32>(out, 8) + y2 : y2, 8);
}
