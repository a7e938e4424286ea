import { type DenseType, decodeDense } from './dense_linear.ts';

/** x [rows][dim] f32 = staged embedding rows of `type`. Exact. */
export function embed(type: DenseType, staged: Uint8Array, rows: number, dim: number): Float32Array {
  return decodeDense(type, staged, rows * dim);
}
