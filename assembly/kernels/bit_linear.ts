import { bitDot2 } from '../lanes';
import { I2_S, preparedBytes } from './prepare';

/**
 * y[b][r] = (dot - sum) / s * scale for rows r in [begin, end) and every row b of the batch, or y += with `add`.
 *
 *   w     I2_S [rows][cols] codes, then the f32 scale (src/gguf/layouts/i2_s.ts)
 *   act   [batch] rows prepared for I2_S (prepare.ts)
 *   y     f32 [batch][stride]
 *
 * Two rows at a time; they stay in the first cache while the batch goes by.
 */
export function bitLinear(w: usize, rows: i32, cols: i32, act: usize, batch: i32, y: usize, stride: i32, add: i32, begin: i32, end: i32): void {
  const rowBytes = <usize>(cols >> 2);
  const actBytes = <usize>preparedBytes(cols, I2_S);
  const scale = load<f32>(w + rowBytes * <usize>rows);
  for (let r = begin; r < end; r += 2) {
    const w0 = w + <usize>r * rowBytes;
    const both = r + 1 < end;
    const w1 = both ? w0 + rowBytes : w0;
    let a = act;
    let out = y + (<usize>r << 2);
    for (let b = 0; b < batch; b++) {
      const dots = bitDot2(w0, w1, a + 64, cols);
      const s = load<f32>(a), sum = load<i32>(a, 4);
      const y0 = <f32>(<i32>dots - sum) / s * scale;
      const y1 = <f32>(<i32>(dots >> 32) - sum) / s * scale;
      if (add) {
        store<f32>(out, load<f32>(out) + y0);
        if (both) store<f32>(out, load<f32>(out, 4) + y1, 4);
      } else {
        store<f32>(out, y0);
        if (both) store<f32>(out, y1, 4);
      }
      a += actBytes;
      out += <usize>stride << 2;
    }
  }
}
