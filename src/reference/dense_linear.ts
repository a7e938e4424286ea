import { fromBf16, fromF16, toBf16, toF16 } from './f16.ts';

/** Floating-point storage of a matrix. */
export type DenseType = 'f16' | 'bf16' | 'f32';

/**
 * y [rows] = W x, W [rows][cols] of `type`, x [cols] f32. As ggml does, x is first rounded to the type of W. Summed in f64
 * and rounded once; a kernel that sums in f32 stays within (cols + 2) * 2^-24 * sum |w||x| of it.
 */
export function denseLinear(type: DenseType, w: Uint8Array, rows: number, cols: number, x: Float32Array): Float32Array {
  const weights = decodeDense(type, w, rows * cols);
  const seen = roundTo(type, x);
  const y = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < cols; i++) sum += weights[row * cols + i] * seen[i];
    y[row] = sum;
  }
  return y;
}

/** `count` numbers of `type` as f32; `bytes` starts at a multiple of the type's width. */
export function decodeDense(type: DenseType, bytes: Uint8Array, count: number): Float32Array {
  if (type === 'f32') return new Float32Array(bytes.buffer, bytes.byteOffset, count);
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, count);
  const x = new Float32Array(count);
  for (let i = 0; i < count; i++) x[i] = type === 'f16' ? fromF16(halves[i]) : fromBf16(halves[i]);
  return x;
}

/** x [n] with each number rounded to what `type` can hold. */
export function roundTo(type: DenseType, x: Float32Array): Float32Array {
  if (type === 'f32') return x;
  return x.map(type === 'f16' ? (v) => fromF16(toF16(v)) : (v) => fromBf16(toBf16(v)));
}
