import type { DenseType } from '../backend/backend.ts';
import { decodeRow } from './decode_row.ts';
import { fromBf16, fromF16, toBf16, toF16 } from './f16.ts';

/**
 * y [rows] = W x, W [rows][cols] of `type`, x [cols] f32. As ggml does, x is first rounded to the type of W where that is F16 or
 * BF16. With Q8_0 and Q6_K it is not: there ggml quantises x to eight bits (Q8_0, Q8_K), and x as it is gives a y closer to
 * the true one. Summed in f64 and rounded once; a kernel that sums in f32 stays within (cols + 2) * 2^-24 * sum |w||x| of it.
 */
export function denseLinear(type: DenseType, w: Uint8Array, rows: number, cols: number, x: Float32Array): Float32Array {
  const seen = roundTo(type, x);
  const y = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const weights = decodeRow(type, w, row, cols);
    let sum = 0;
    for (let i = 0; i < cols; i++) sum += weights[i] * seen[i];
    y[row] = sum;
  }
  return y;
}

/** x [n] as a matrix of `type` sees it: each number rounded to f16 or bf16, or as it is. */
export function roundTo(type: DenseType, x: Float32Array): Float32Array {
  if (type === 'f16') return x.map((v) => fromF16(toF16(v)));
  return type === 'bf16' ? x.map((v) => fromBf16(toBf16(v))) : x;
}
