import type { DenseType } from '../backend/backend.ts';
import { fromBf16, fromF16 } from './f16.ts';

/** Weights and bytes of a block; a row is whole blocks. */
const BLOCKS: Readonly<Record<DenseType, readonly [weights: number, bytes: number]>> = {
  f32: [1, 4],
  f16: [1, 2],
  bf16: [1, 2],
  q8_0: [32, 34],
  q6_k: [256, 210],
  q4_0: [32, 18],
};

/** Number i of the row of blocks in `row`. The layouts are drawn in src/gguf/layouts/. */
const NUMBER: Readonly<Record<DenseType, (row: DataView, i: number) => number>> = {
  f32: (row, i) => row.getFloat32(4 * i, true),
  f16: (row, i) => fromF16(row.getUint16(2 * i, true)),
  bf16: (row, i) => fromBf16(row.getUint16(2 * i, true)),
  q8_0: (row, i) => {
    const at = 34 * (i >> 5);
    return fromF16(row.getUint16(at, true)) * row.getInt8(at + 2 + (i & 31));
  },
  q4_0: (row, i) => {
    const at = 18 * (i >> 5);
    const code = (row.getUint8(at + 2 + (i & 15)) >> (i & 16 ? 4 : 0)) & 15;
    return fromF16(row.getUint16(at, true)) * (code - 8);
  },
  q6_k: (row, i) => {
    const at = 210 * (i >> 8);
    const [half, quarter, l] = [(i >> 7) & 1, (i >> 5) & 3, i & 31];
    const low = row.getUint8(at + 64 * half + 32 * (quarter & 1) + l) >> (quarter < 2 ? 0 : 4);
    const high = row.getUint8(at + 128 + 32 * half + l) >> (2 * quarter);
    const scale = row.getInt8(at + 192 + ((i & 255) >> 4));
    return fromF16(row.getUint16(at + 208, true)) * scale * (((low & 15) | ((high & 3) << 4)) - 32);
  },
};

/** f32 [cols]: row `row` of w [rows][cols] of `type`. Exact: all products of scales and codes fit the 24 bits of an f32. */
export function decodeRow(type: DenseType, w: Uint8Array, row: number, cols: number): Float32Array<ArrayBuffer> {
  const [weights, bytes] = BLOCKS[type];
  const rowBytes = (cols / weights) * bytes;
  const view = new DataView(w.buffer, w.byteOffset + row * rowBytes, rowBytes);
  const x = new Float32Array(cols);
  for (let i = 0; i < cols; i++) x[i] = NUMBER[type](view, i);
  return x;
}
