import type { QuantizedRow } from './quantize_i8.ts';

/**
 * y [rows] = W x, W ternary in I2_S bytes, x an int8 row [cols]; cols is a multiple of 32, rows are whole blocks of 128.
 *
 *   bytes    row-major blocks of 128 weights in 32 bytes; code = weight + 1
 *   byte p   bits 7-6 weight p, 5-4 weight 32 + p, 3-2 weight 64 + p, 1-0 weight 96 + p
 *   tail     32 bytes, the first four the f32 scale of the matrix
 *
 * dot(code, q) - sum(q) is dot(weight, q). It is an integer, exact in f32 below 2^24; then / x.scale, then * scale of the
 * matrix, each rounded to f32. Dividing is not the same as multiplying by the inverse: the last bit may differ.
 */
export function bitLinear(w: Uint8Array, rows: number, cols: number, x: QuantizedRow): Float32Array {
  const f32 = Math.fround;
  const rowBytes = 32 * Math.ceil(cols / 128);
  const scale = new DataView(w.buffer, w.byteOffset).getFloat32(rows * rowBytes, true);
  const y = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let dot = 0;
    for (let k = 0; k < cols; k += 32) {
      const at = row * rowBytes + 32 * (k >> 7);
      const shift = 6 - 2 * ((k >> 5) & 3);
      for (let p = 0; p < 32; p++) dot += ((w[at + p] >> shift) & 3) * x.q[k + p];
    }
    y[row] = f32(f32(dot - x.sum) / x.scale) * scale;
  }
  return y;
}
