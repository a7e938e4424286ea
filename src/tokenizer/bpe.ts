/** Byte-level BPE, `tokenizer.ggml.model` "gpt2": a pre-token is bytes, and the table of merges joins them. */
import type { Gpt2Keys } from './keys.ts';
import { createMergeQueue, MAX_RANKS, type RankOfPair } from './merge_queue.ts';
import type { Scanner } from './pretokenize.ts';
import { decodeAlphabet, tokenOfByte, type Vocabulary } from './vocabulary.ts';

/** What the models of a tokenizer differ in: where a text is cut, and how a piece becomes ids. */
export interface WordEncoder {
  /** No token reaches across the cuts: a pre-token has the same ids whatever stands around it. */
  readonly scan: Scanner;
  /** Appends the ids of the pre-token that is `utf8[0, length)`. */
  encode(utf8: Uint8Array, length: number, out: number[]): void;
}

/** @throws Error naming the merge that is malformed or names a token that the vocabulary lacks */
export function createBpe(file: Gpt2Keys, vocabulary: Vocabulary): WordEncoder {
  const { scan, ignoreMerges } = file.pre;
  const queue = createMergeQueue(createMergeTable(file.merges, vocabulary));
  const byteIds = Int32Array.from({ length: 256 }, (_, byte) => vocabulary.find(Uint8Array.of(byte), 0, 1));

  const encode = (utf8: Uint8Array, length: number, out: number[]): void => {
    const whole = ignoreMerges && length <= vocabulary.maxBytes ? vocabulary.find(utf8, 0, length) : -1;
    if (whole >= 0) {
      out.push(whole);
      return;
    }
    const { next, ids } = queue.room(length);
    for (let i = 0; i < length; i++) {
      next[i] = i + 1;
      ids[i] = tokenOfByte(byteIds, utf8[i], file.unknown);
    }
    queue.run(length);
    for (let i = 0; i < length; i = next[i]) out.push(ids[i]);
  };
  return { scan, encode };
}

/** @param lines `tokenizer.ggml.merges`: "left right" in GPT-2's alphabet, the rank being the index */
function createMergeTable(lines: readonly string[], vocabulary: Vocabulary): RankOfPair {
  if (lines.length > MAX_RANKS) {
    throw new Error(`tokenizer.ggml.merges: ${lines.length} merges, expected at most ${MAX_RANKS}`);
  }
  const capacity = 2 ** Math.ceil(Math.log2(1.5 * lines.length + 2));
  const shift = 32 - Math.log2(capacity);
  /** Of a slot: left and right id, rank, id of what they make. */
  const table = new Int32Array(4 * capacity).fill(-1);

  // Fibonacci hashing; the multiplier of `left` keeps (a, b) and (b, a) apart.
  const slotOf = (left: number, right: number): number => {
    let slot = Math.imul(Math.imul(left, 0x85ebca6b) ^ right, 0x9e3779b1) >>> shift;
    while (table[4 * slot] >= 0 && (table[4 * slot] !== left || table[4 * slot + 1] !== right)) {
      slot = (slot + 1) & (capacity - 1);
    }
    return 4 * slot;
  };

  const found = new Int32Array(3);
  for (let rank = 0; rank < lines.length; rank++) {
    readMerge(lines[rank], rank, vocabulary, found);
    const slot = slotOf(found[0], found[1]);
    if (table[slot] >= 0) continue; // the first of two equal merges counts, as in llama.cpp
    table[slot] = found[0];
    table[slot + 1] = found[1];
    table[slot + 2] = rank;
    table[slot + 3] = found[2];
  }

  return ({ ids, made }, left, right) => {
    const slot = slotOf(ids[left], ids[right]);
    made[left] = table[slot + 3];
    return table[slot + 2];
  };
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
