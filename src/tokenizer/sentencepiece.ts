/**
 * SentencePiece's BPE, `tokenizer.ggml.model` "llama", as llama.cpp reads it: characters are merged as long as two
 * neighbours make a token, the one with the highest score first, and a character that is no token becomes its bytes.
 * There is no pre-tokenizer. A space and U+2581 are one character, in memory the space (see `spellPiece`).
 */
import type { WordEncoder } from './bpe.ts';
import type { LlamaKeys } from './keys.ts';
import { createMergeQueue, MAX_RANKS, type RankOfPair } from './merge_queue.ts';
import type { Scanner } from './pretokenize.ts';
import { ESCAPED_SPACE, writeUtf8 } from './utf8.ts';
import { byteOfPiece, TokenType, tokenOfByte, type Vocabulary } from './vocabulary.ts';

const SPACE = 0x20;

/**
 * For `createVocabulary`. A token of type byte is its byte; U+2581 is a space but in control tokens. Not found by
 * merges are, besides control and byte tokens, those with a space in the file: texts come with spaces escaped.
 */
export function spellPiece(text: string, type: number, out: Uint8Array, at: number): number {
  if (type === TokenType.byte) {
    out[at] = byteOfPiece(text);
    return ~(at + 1);
  }
  const raw = type === TokenType.control || type === TokenType.unknown;
  const end = writeUtf8(text, 0, text.length, out, at, !raw);
  return raw || text.includes(' ') ? ~end : end;
}

/** @throws Error where there are more tokens than ranks */
export function createSentencePiece(file: LlamaKeys, vocabulary: Vocabulary): WordEncoder {
  const { tokens, unknown } = file;
  const ranks = rankScores(file.scores);
  const byteIds = new Int32Array(256).fill(-1);
  // A token of that one character stands in for a byte token that is missing, as in llama.cpp.
  for (let byte = 0; byte < 0x80; byte++) byteIds[byte] = vocabulary.find(Uint8Array.of(byte), 0, 1);
  tokens.forEach((text, id) => {
    if (text.length === 6 && byteOfPiece(text) >= 0) byteIds[byteOfPiece(text)] = id;
  });

  let source: Uint8Array = new Uint8Array(0);
  const rankOfPair: RankOfPair = ({ next, made }, left, right) => {
    const end = next[right];
    if (end - left > vocabulary.maxBytes) return -1;
    const id = vocabulary.find(source, left, end);
    made[left] = id;
    return id < 0 ? -1 : ranks[id];
  };
  const queue = createMergeQueue(rankOfPair);

  const encode = (utf8: Uint8Array, length: number, out: number[]): void => {
    source = utf8;
    const { next, ids } = queue.room(length);
    for (let at = 0; at < length; at = next[at]) {
      const first = utf8[at];
      next[at] = at + (first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4);
      ids[at] = vocabulary.find(utf8, at, next[at]);
    }
    queue.run(length);
    for (let at = 0; at < length; at = next[at]) {
      if (ids[at] >= 0) out.push(ids[at]);
      else if (utf8[at] === SPACE) for (const byte of [0xe2, 0x96, 0x81]) out.push(tokenOfByte(byteIds, byte, unknown));
      else for (let i = at; i < next[at]; i++) out.push(tokenOfByte(byteIds, utf8[i], unknown));
    }
  };
  return { scan: createScanner(tokens), encode };
}

/** Rank of each score, the highest 0, equal ones equal. */
function rankScores(scores: ArrayLike<number>): Int32Array {
  const size = scores.length;
  if (size > MAX_RANKS) throw new Error(`tokenizer.ggml.scores: ${size} tokens, expected at most ${MAX_RANKS}`);
  // Sorted without a comparison in JavaScript: the bits of a float32, made to fall as it grows, times 2^21, plus the id.
  const floats = new Float32Array(size);
  const bits = new Uint32Array(floats.buffer);
  const keys = new Float64Array(size);
  for (let id = 0; id < size; id++) {
    floats[id] = scores[id] + 0; // makes -0 a 0
    keys[id] = (bits[id] < 0x80000000 ? 0x7fffffff - bits[id] : bits[id]) * MAX_RANKS + id;
  }
  keys.sort();
  const ranks = new Int32Array(size);
  let rank = 0;
  for (let i = 1; i < size; i++) {
    const id = keys[i] % MAX_RANKS;
    if (bits[id] !== bits[keys[i - 1] % MAX_RANKS]) rank++;
    ranks[id] = rank;
  }
  return ranks;
}

/**
 * Cuts in front of a space, but for characters that some token has in front of one (in a run of spaces the space
 * itself). No merge reaches across such a cut, so that words can be merged, and remembered, one by one.
 */
function createScanner(tokens: readonly string[]): Scanner {
  const joins = new Uint8Array(0x10000);
  for (const text of tokens) {
    for (let at = text.indexOf('\u2581', 1); at > 0; at = text.indexOf('\u2581', at + 1)) {
      joins[text.charCodeAt(at - 1)] = 1;
    }
  }
  joins[SPACE] = joins[ESCAPED_SPACE];
  if (joins[0xfffd] === 1) joins.fill(1, 0xd800, 0xe000); // a lone surrogate is read as U+FFFD

  return (text, at, end) => {
    for (let i = at + 1; i < end; i++) {
      const unit = text.charCodeAt(i);
      if ((unit === SPACE || unit === ESCAPED_SPACE) && joins[text.charCodeAt(i - 1)] === 0) return i;
    }
    return end;
  };
}
