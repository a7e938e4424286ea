import type { Backend, KvCache, KvType, Tensor } from '../backend/backend.ts';
import type { Config } from './config.ts';

/**
 * Positions in a block. A sequence wastes half a block on average: 16 positions, 1.2 MB of a 2B model. A head's keys of one
 * block, 32 of 128 halves, are 8 KiB in a row, which a long context waits for piece by piece (bench/LOG.md; not tuned).
 */
export const BLOCK_SIZE = 32;

/** One sequence's place in the cache. */
export interface KvSequence {
  /** Row of the cache's tables. */
  readonly row: number;
  /** Makes room for positions below `length`. False when no block is free: then nothing has changed. */
  reserve(length: number): boolean;
  free(): void;
}

export interface KvBlocks<T extends Tensor> {
  readonly cache: KvCache<T>;
  /** Positions a sequence can have. */
  readonly context: number;
  readonly blocks: number;
  /** A place for a new sequence, or undefined when all are taken. */
  open(): KvSequence | undefined;
  dispose(): void;
}

/** Bytes of one block: keys and values of all layers. */
export function kvBlockBytes(c: Config, type: KvType): number {
  return c.layers * 2 * c.kvHeads * BLOCK_SIZE * c.headDim * (type === 'f16' ? 2 : 4);
}

/** Blocks of a sequence of `context` positions. */
export function kvBlocksOf(context: number): number {
  return Math.ceil(context / BLOCK_SIZE);
}

/** Bytes of the tables that put the blocks of each sequence in order. */
export function kvTableBytes(context: number, sequences: number): number {
  return sequences * kvBlocksOf(context) * 4;
}

/**
 * Keys and values for up to `sequences` sequences of up to `context` positions each, in `blocks` that they share. The memory
 * is reserved here and, on the CPU, taken from the system only as positions are written.
 */
export function createKvCache<T extends Tensor>(
  backend: Backend<T>,
  c: Config,
  type: KvType,
  context: number,
  sequences: number,
  blocks: number = kvBlocksOf(context) * sequences,
): KvBlocks<T> {
  const maxBlocks = kvBlocksOf(context);
  const owned: T[] = [];
  const free = () => {
    for (const tensor of owned) backend.free(tensor);
  };
  try {
    for (let layer = 0; layer < c.layers; layer++)
      owned.push(backend.alloc((blocks * kvBlockBytes(c, type)) / c.layers));
    owned.push(backend.alloc(kvTableBytes(context, sequences)));
  } catch (error) {
    free();
    throw error;
  }
  const [data, tables] = [owned.slice(0, c.layers), owned[c.layers]];
  const { kvHeads, headDim } = c;
  const cache: KvCache<T> = { type, kvHeads, headDim, blockSize: BLOCK_SIZE, maxBlocks, data, tables };
  // Last in, first out: a block that was in use is already in memory.
  const freeBlocks = Array.from({ length: blocks }, (_, i) => blocks - 1 - i);
  const freeRows = Array.from({ length: sequences }, (_, i) => sequences - 1 - i);

  return {
    cache,
    context,
    blocks,
    open() {
      const row = freeRows.pop();
      if (row === undefined) return undefined;
      const table = new Int32Array(maxBlocks);
      const bytes = new Uint8Array(table.buffer);
      let held = 0;
      return {
        row,
        reserve(length) {
          const wanted = Math.ceil(length / BLOCK_SIZE);
          if (wanted <= held) return true;
          if (wanted > maxBlocks || wanted - held > freeBlocks.length) return false;
          const from = held;
          while (held < wanted) table[held++] = freeBlocks.pop() as number;
          backend.write(tables, (row * maxBlocks + from) * 4, bytes.subarray(from * 4, held * 4));
          return true;
        },
        free() {
          while (held > 0) freeBlocks.push(table[--held]);
          freeRows.push(row);
        },
      };
    },
    dispose: free,
  };
}
