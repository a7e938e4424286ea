/**
 * The vocabulary as bytes: all tokens stand decoded in one arena, and a hash table finds an id by its bytes. A
 * byte-level BPE token is written in the file with one printable character a byte (GPT-2's alphabet, below).
 */
import { writeUtf8 } from './utf8.ts';

/** llama.cpp's token types. */
export const TokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const;

export interface Vocabulary {
  readonly size: number;
  /** Token `id` is `bytes[starts[id], starts[id + 1])`. */
  readonly bytes: Uint8Array;
  readonly starts: Uint32Array;
  /** Bytes of the longest token. */
  readonly maxBytes: number;
  /** Id of the token that merges may make of `source[from, to)`, or -1. Never a control token. */
  find(source: Uint8Array, from: number, to: number): number;
}

/**
 * Byte of each character of GPT-2's alphabet, -1 for others. Printable Latin-1 stands for itself (33..126, 161..172,
 * 174..255); the other 68 bytes, in order, are U+0100..U+0143.
 */
const byteOfUnit: Int16Array = (() => {
  const table = new Int16Array(0x144).fill(-1);
  let shifted = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const stands = (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
    table[stands ? byte : shifted++] = byte;
  }
  return table;
})();

/** Writes the bytes of `text[from, to)`, one a character, at `out[at]`; returns their end, or -1 for a foreign one. */
export function decodeAlphabet(text: string, from: number, to: number, out: Uint8Array, at: number): number {
  for (let i = from; i < to; i++) {
    const unit = text.charCodeAt(i);
    const byte = unit < 0x144 ? byteOfUnit[unit] : -1;
    if (byte < 0) return -1;
    out[at++] = byte;
  }
  return at;
}

function hash(source: Uint8Array, from: number, to: number): number {
  let h = 0x811c9dc5;
  for (let i = from; i < to; i++) h = Math.imul(h ^ source[i], 0x01000193);
  return h ^ (h >>> 15);
}

/** Byte that a token `<0x00>` to `<0xFF>` of SentencePiece stands for, digits in capitals; -1 for another text. */
export function byteOfPiece(text: string): number {
  return /^<0x[0-9A-F]{2}>$/.test(text) ? Number.parseInt(text.slice(3, 5), 16) : -1;
}

/** Id of the token of `byte`, else the unknown token. @throws Error where there is none */
export function tokenOfByte(byteIds: Int32Array, byte: number, unknown: number | undefined): number {
  const id = byteIds[byte] >= 0 ? byteIds[byte] : unknown;
  if (id !== undefined) return id;
  const hex = byte.toString(16).padStart(2, '0');
  throw new Error(`the vocabulary has no token for byte 0x${hex} and tokenizer.ggml.unknown_token_id is not set`);
}

/**
 * Writes the bytes that a token stands for at `out[at]`, at most three a UTF-16 unit of `text`. Returns their end, or
 * ~end where merges do not make that token.
 */
export type Spelling = (text: string, type: number, out: Uint8Array, at: number) => number;

/** Control, unknown and user-defined tokens, and those with a character outside the alphabet, are their own UTF-8. */
export function spellInAlphabet(text: string, type: number, out: Uint8Array, at: number): number {
  const raw = type === TokenType.control || type === TokenType.unknown || type === TokenType.userDefined;
  const end = raw ? -1 : decodeAlphabet(text, 0, text.length, out, at);
  return end < 0 ? ~writeUtf8(text, 0, text.length, out, at, false) : end;
}

/**
 * @param tokens texts as in the file
 * @param types llama.cpp's token types, one a token
 *
 * Of two tokens with the same text the later is found, as in llama.cpp before it refused such files.
 */
export function createVocabulary(tokens: readonly string[], types: ArrayLike<number>, spell: Spelling): Vocabulary {
  const size = tokens.length;
  let units = 0;
  for (const token of tokens) units += token.length;
  const arena = new Uint8Array(units * 3);
  const starts = new Uint32Array(size + 1);
  const capacity = 2 ** Math.ceil(Math.log2(1.5 * size + 1));
  const slots = new Int32Array(capacity).fill(-1);
  const userDefined: number[] = [];
  let bytes = arena;
  let at = 0;
  let maxBytes = 0;

  const slotOf = (source: Uint8Array, from: number, to: number): number => {
    let slot = hash(source, from, to) & (capacity - 1);
    for (; slots[slot] >= 0; slot = (slot + 1) & (capacity - 1)) {
      const start = starts[slots[slot]];
      if (starts[slots[slot] + 1] - start !== to - from) continue;
      let i = 0;
      while (i < to - from && bytes[start + i] === source[from + i]) i++;
      if (i === to - from) break;
    }
    return slot;
  };

  for (let id = 0; id < size; id++) {
    const end = spell(tokens[id], types[id], arena, at);
    const stop = end < 0 ? ~end : end;
    starts[id + 1] = stop;
    if (types[id] === TokenType.userDefined) userDefined.push(id);
    else if (end > at) slots[slotOf(arena, at, end)] = id;
    maxBytes = Math.max(maxBytes, stop - at);
    at = stop;
  }
  // Merges can make a user-defined token too, where its text is its own spelling and nothing else has that.
  const spelled = new Uint8Array(3 * maxBytes);
  for (const id of userDefined) {
    const end = spell(tokens[id], TokenType.normal, spelled, 0);
    if (end !== starts[id + 1] - starts[id] || end === 0) continue;
    const slot = slotOf(spelled, 0, end);
    if (slots[slot] < 0) slots[slot] = id;
  }
  bytes = arena.slice(0, at);
  return { size, bytes, starts, maxBytes, find: (source, from, to) => slots[slotOf(source, from, to)] };
}
