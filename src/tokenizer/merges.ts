/**
 * Byte pair encoding over token ids. The pair with the lowest rank is merged first, the leftmost of equals first, so
 * that a pre-token of n bytes costs O(n log n) whatever it holds.
 *
 * The queue of (rank, position) is a heap and, in front of it, a sorted batch: when the batch is empty and the heap is
 * long, the heap becomes the next batch. A long run of one character then hardly ever pops the heap, whose cache
 * misses cost more than all else (1 MiB of "a": 1.5 s with the heap alone, 0.3 s so; Node 20, two busy cores).
 */
import { decodeAlphabet, type Vocabulary } from './vocabulary.ts';

export interface Merges {
  /** Merges `ids[0, count)` in place as far as the table goes; returns how many are left. */
  apply(ids: Int32Array, count: number): number;
}

/** rank * 2^32 + position must stay an exact double. */
const MAX_MERGES = 2 ** 21;
/** Work arrays for pre-tokens of up to this many bytes are kept; a longer one gets its own, dropped afterwards. */
const KEPT = 4096;
/** A heap of more keys than this is sorted at once instead of popped key by key. */
const LONG = 256;

interface Work {
  readonly prev: Int32Array;
  readonly next: Int32Array;
  /** Rank of the pair (position, next[position]), -1 for none. */
  readonly ranks: Int32Array;
  readonly heap: Float64Array;
  readonly batch: Float64Array;
}

function createWork(size: number): Work {
  // A merge takes one entry off the heap and adds two at most, and there are fewer merges than positions.
  return {
    prev: new Int32Array(size),
    next: new Int32Array(size),
    ranks: new Int32Array(size),
    heap: new Float64Array(2 * size),
    batch: new Float64Array(2 * size),
  };
}

/**
 * @param lines `tokenizer.ggml.merges`: "left right" in GPT-2's alphabet, the rank being the index
 * @throws Error naming the merge that is malformed or names a token that the vocabulary lacks
 */
export function createMerges(lines: readonly string[], vocabulary: Vocabulary): Merges {
  if (lines.length > MAX_MERGES) {
    throw new Error(`tokenizer.ggml.merges: ${lines.length} merges, expected at most ${MAX_MERGES}`);
  }
  const capacity = 2 ** Math.ceil(Math.log2(lines.length + 1) + 1);
  const shift = 32 - Math.log2(capacity);
  const pairs = new Int32Array(2 * capacity).fill(-1);
  const rankOf = new Int32Array(capacity);
  const made = new Int32Array(lines.length);

  // Fibonacci hashing; the multiplier of `left` keeps (a, b) and (b, a) apart.
  const slotOf = (left: number, right: number): number => {
    let slot = Math.imul(Math.imul(left, 0x85ebca6b) ^ right, 0x9e3779b1) >>> shift;
    while (pairs[2 * slot] >= 0 && (pairs[2 * slot] !== left || pairs[2 * slot + 1] !== right)) {
      slot = (slot + 1) & (capacity - 1);
    }
    return slot;
  };

  const found = new Int32Array(3);
  for (let rank = 0; rank < lines.length; rank++) {
    readMerge(lines[rank], rank, vocabulary, found);
    const left = found[0];
    const right = found[1];
    made[rank] = found[2];
    const slot = slotOf(left, right);
    if (pairs[2 * slot] >= 0) continue; // the first of two equal merges counts, as in llama.cpp
    pairs[2 * slot] = left;
    pairs[2 * slot + 1] = right;
    rankOf[slot] = rank;
  }

  const rankOfPair = (left: number, right: number): number => {
    const slot = slotOf(left, right);
    return pairs[2 * slot] < 0 ? -1 : rankOf[slot];
  };

  const kept = createWork(KEPT);
  const apply = (ids: Int32Array, count: number): number => {
    const { prev, next, ranks, heap, batch } = count <= KEPT ? kept : createWork(count);
    let size = 0; // of the heap
    let head = 0; // batch[head, tail) is still to do
    let tail = 0;
    for (let i = 0; i < count; i++) {
      prev[i] = i - 1;
      next[i] = i + 1;
      ranks[i] = i + 1 < count ? rankOfPair(ids[i], ids[i + 1]) : -1;
      if (ranks[i] >= 0) size = push(heap, size, ranks[i] * 2 ** 32 + i);
    }
    const update = (at: number, rank: number): void => {
      ranks[at] = rank;
      if (rank >= 0) size = push(heap, size, rank * 2 ** 32 + at);
    };
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
      ids[at] = made[rank];
      ranks[gone] = -1;
      next[at] = after;
      if (after < count) prev[after] = at;
      update(at, after < count ? rankOfPair(ids[at], ids[after]) : -1);
      if (prev[at] >= 0) update(prev[at], rankOfPair(ids[prev[at]], ids[at]));
    }
    let left = 0;
    for (let i = 0; i < count; i = next[i]) ids[left++] = ids[i];
    return left;
  };
  return { apply };
}

let spelled = new Uint8Array(256);

/** Writes the ids of the left and the right token and of what they make to `out`. */
function readMerge(line: string, rank: number, vocabulary: Vocabulary, out: Int32Array): void {
  const blank = line.indexOf(' ', 1);
  if (blank < 0 || blank === line.length - 1) {
    const got = JSON.stringify(line);
    throw new Error(`tokenizer.ggml.merges[${rank}]: expected two tokens with a space between, got ${got}`);
  }
  if (line.length > spelled.length) spelled = new Uint8Array(2 * line.length);
  const middle = decodeAlphabet(line, 0, blank, spelled, 0);
  const end = middle < 0 ? -1 : decodeAlphabet(line, blank + 1, line.length, spelled, middle);
  const left = middle < 0 ? -1 : vocabulary.find(spelled, 0, middle);
  const right = end < 0 ? -1 : vocabulary.find(spelled, middle, end);
  const whole = end < 0 ? -1 : vocabulary.find(spelled, 0, end);
  if (left < 0 || right < 0 || whole < 0) {
    const parts = [line.slice(0, blank), line.slice(blank + 1), line.slice(0, blank) + line.slice(blank + 1)];
    const missing = parts[[left, right, whole].findIndex((id) => id < 0)];
    const where = `tokenizer.ggml.merges[${rank}] ${JSON.stringify(line)}`;
    throw new Error(`${where}: token ${JSON.stringify(missing)} is not in the vocabulary`);
  }
  out[0] = left;
  out[1] = right;
  out[2] = whole;
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
