/**
 * Greedy merging of neighbours, what byte-level BPE and SentencePiece have in common: the pair with the lowest rank
 * first, the leftmost of equals first, so that a pre-token of n bytes costs O(n log n) whatever it holds.
 *
 * The queue of (rank, position) is a heap and, in front of it, a sorted batch: when the batch is empty and the heap is
 * long, the heap becomes the next batch. A long run of one character then hardly ever pops the heap, whose cache
 * misses cost more than all else (1 MiB of "a": 1.5 s with the heap alone, 0.3 s so; Node 20, two busy cores).
 */

/** What a pre-token is made of. A symbol is named by the position of its first byte. */
export interface Symbols {
  /** Where the symbol that follows begins; for the last one the end of the pre-token. */
  readonly next: Int32Array;
  readonly ids: Int32Array;
  /** Id of what a symbol and the next one make, where they make something. */
  readonly made: Int32Array;
}

/** Rank of the pair of symbols at `left` and `right`, having set `made[left]`, or -1 where they do not merge. */
export type RankOfPair = (symbols: Symbols, left: number, right: number) => number;

export interface MergeQueue {
  /** Room for a pre-token of `count` bytes: write `next` and `ids` of each symbol, then `run`. */
  room(count: number): Symbols;
  /** Merges as far as it goes; what is left is met by following `next` from 0 to `count`. */
  run(count: number): void;
}

/** rank * 2^32 + position must stay an exact double. */
export const MAX_RANKS: number = 2 ** 21;
/** Work arrays for pre-tokens of up to this many bytes are kept; a longer one gets its own, dropped afterwards. */
const KEPT = 4096;
/** A heap of more keys than this is sorted at once instead of popped key by key. */
const LONG = 256;

interface Work extends Symbols {
  readonly prev: Int32Array;
  /** Rank of the pair (position, next[position]), -1 for none. */
  readonly ranks: Int32Array;
  readonly heap: Float64Array;
  readonly batch: Float64Array;
}

function createWork(size: number): Work {
  return {
    next: new Int32Array(size),
    ids: new Int32Array(size),
    made: new Int32Array(size),
    prev: new Int32Array(size),
    ranks: new Int32Array(size),
    // A merge takes one entry off the heap and adds two at most, and there are fewer merges than positions.
    heap: new Float64Array(2 * size),
    batch: new Float64Array(2 * size),
  };
}

export function createMergeQueue(rankOf: RankOfPair): MergeQueue {
  const kept = createWork(KEPT);
  let work = kept;

  const room = (count: number): Symbols => {
    work = count <= KEPT ? kept : createWork(count);
    return work;
  };

  const run = (count: number): void => {
    const symbols = work;
    const { prev, next, ids, made, ranks, heap, batch } = work;
    work = kept;
    let size = 0; // of the heap
    let head = 0; // batch[head, tail) is still to do
    let tail = 0;
    const update = (at: number): void => {
      const right = next[at];
      const rank = right < count ? rankOf(symbols, at, right) : -1;
      ranks[at] = rank;
      if (rank >= 0) size = push(heap, size, rank * 2 ** 32 + at);
    };
    for (let at = 0, before = -1; at < count; before = at, at = next[at]) {
      prev[at] = before;
      update(at);
    }
    while (size > 0 || head < tail) {
      if (head === tail && size > LONG) {
        batch.set(heap.subarray(0, size));
        batch.subarray(0, size).sort();
        head = 0;
        tail = size;
        size = 0;
      }
      const fromBatch = head < tail && (size === 0 || batch[head] <= heap[0]);
      const key = fromBatch ? batch[head++] : heap[0];
      if (!fromBatch) size = pop(heap, size);
      const rank = Math.floor(key / 2 ** 32);
      const at = key - rank * 2 ** 32;
      if (ranks[at] !== rank) continue; // outdated: the pair has changed since
      const gone = next[at];
      const after = next[gone];
      ids[at] = made[at];
      ranks[gone] = -1;
      next[at] = after;
      if (after < count) prev[after] = at;
      update(at);
      if (prev[at] >= 0) update(prev[at]);
    }
  };
  return { room, run };
}

/** Adds `key` to the binary min-heap of `size` keys; returns the new size. */
function push(heap: Float64Array, size: number, key: number): number {
  let at = size;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent] <= key) break;
    heap[at] = heap[parent];
    at = parent;
  }
  heap[at] = key;
  return size + 1;
}

/** Removes the least key, `heap[0]`; returns the new size. */
function pop(heap: Float64Array, size: number): number {
  const last = size - 1;
  const key = heap[last];
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= last) break;
    if (child + 1 < last && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= key) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = key;
  return last;
}
