import { fromF16, toF16 } from './f16.ts';

/**
 * One layer of the cache that src/backend/backend.ts draws:
 *
 *   data   [block][K, V][kvHeads][blockSize][headDim], f32 or f16 bits
 *   table  [maxBlocks] of one sequence: the block that holds positions blockSize * i ...
 */
export interface KvLayer {
  readonly data: Float32Array | Uint16Array;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly blockSize: number;
}

/** Index in `data` of element 0 of one head's key (part 0) or value (part 1) at position `pos`. */
export function kvIndex(kv: KvLayer, table: Int32Array, pos: number, part: 0 | 1, head: number): number {
  const block = table[Math.floor(pos / kv.blockSize)];
  return (((block * 2 + part) * kv.kvHeads + head) * kv.blockSize + (pos % kv.blockSize)) * kv.headDim;
}

/** Stores k or v [kvHeads][headDim] of position `pos`; f16 storage rounds to nearest even. */
export function appendKv(kv: KvLayer, table: Int32Array, pos: number, part: 0 | 1, x: Float32Array): void {
  for (let head = 0; head < kv.kvHeads; head++) {
    const at = kvIndex(kv, table, pos, part, head);
    for (let i = 0; i < kv.headDim; i++) {
      const v = x[head * kv.headDim + i];
      kv.data[at + i] = kv.data instanceof Uint16Array ? toF16(v) : v;
    }
  }
}

/** Keys or values of positions 0 .. count - 1 as f32 [count][kvHeads][headDim]. */
export function gatherKv(kv: KvLayer, table: Int32Array, count: number, part: 0 | 1): Float32Array {
  const out = new Float32Array(count * kv.kvHeads * kv.headDim);
  let to = 0;
  for (let pos = 0; pos < count; pos++) {
    for (let head = 0; head < kv.kvHeads; head++) {
      const at = kvIndex(kv, table, pos, part, head);
      for (let i = 0; i < kv.headDim; i++) {
        const stored = kv.data[at + i];
        out[to++] = kv.data instanceof Uint16Array ? fromF16(stored) : stored;
      }
    }
  }
  return out;
}
