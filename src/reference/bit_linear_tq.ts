import { fromF16 } from './f16.ts';
import type { BlockQuantizedRow } from './quantize_q8_k.ts';

/**
 * y [rows] = W x, W ternary in TQ2_0 bytes, x quantised in blocks [cols]; cols is a multiple of 256.
 *
 *   bytes    row-major blocks of 256 weights in 66 bytes: 64 of codes = weight + 1, then the scale of the block, f16
 *   byte p   of half h (32 bytes each): bits 1-0 weight 128 h + p, 3-2 weight 128 h + 32 + p, 5-4 … + 64, 7-6 … + 96
 *
 * The dot of a block is an integer below 2^15, exact in f32. It is multiplied by f32(x.d * scale), and the products are added
 * up from the first block to the last, each step rounded to f32: the order of ggml's plain C.
 */
export function bitLinearTq(w: Uint8Array, rows: number, cols: number, x: BlockQuantizedRow): Float32Array {
  const f32 = Math.fround;
  const view = new DataView(w.buffer, w.byteOffset);
  const y = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < cols / 256; block++) {
      const at = 66 * ((row * cols) / 256 + block);
      let dot = 0;
      for (let i = 0; i < 256; i++) {
        const code = (w[at + 32 * (i >> 7) + (i & 31)] >> (2 * ((i >> 5) & 3))) & 3;
        dot += (code - 1) * x.q[256 * block + i];
      }
      y[row] += f32(dot * f32(x.d[block] * fromF16(view.getUint16(at + 64, true))));
    }
  }
  return y;
}
