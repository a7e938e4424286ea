/**
 * A GGUF file's own tokenizer: byte-level BPE or SentencePiece (`tokenizer.ggml.model` "gpt2" or "llama"). Ids are
 * those of llama.cpp for the same vocabulary; categories of characters are those of the JavaScript engine.
 */

import { createBpe } from './bpe.ts';
import { readKeys } from './keys.ts';
import { createSentencePiece, spellPiece } from './sentencepiece.ts';
import { createSpecialFinder, type SpecialFinder } from './special.ts';
import { writeUtf8 } from './utf8.ts';
import { createVocabulary, spellInAlphabet, TokenType } from './vocabulary.ts';
import { createWordCache } from './words.ts';

export interface EncodeOptions {
  /** BOS in front and EOS at the end where the file asks for them and the text does not bring them; default false. */
  readonly addSpecial?: boolean;
  /** Control tokens written out in the text become their ids; default false: they are text like any other. */
  readonly parseSpecial?: boolean;
}

export interface Tokenizer {
  readonly vocabSize: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  /** End of a turn: `tokenizer.ggml.eot_token_id`, else the first well-known name in the vocabulary. */
  readonly eot: number | undefined;
  /** Whether `encode` with `addSpecial` begins with `bos`, ends with `eos`. */
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** Whether `encode` puts a space in front of a text, and of what follows a special token, which `decode` drops. */
  readonly addSpacePrefix: boolean;
  /** Tokens that end a generation: `eos`, `eot` and those known by name. */
  readonly eogTokens: ReadonlySet<number>;
  /**
   * Ids of `text`. Several pieces are one text to the pre-tokenizer, but no special token is seen across a joint.
   * A lone surrogate is read as U+FFFD. User-defined tokens are always found, as in llama.cpp.
   * @throws Error where a byte has no token and the file names no unknown token
   */
  encode(text: string | readonly string[], options?: EncodeOptions): number[];
  /**
   * Text of `ids`; bytes that are not UTF-8 become U+FFFD as in `TextDecoder`. With `addSpacePrefix` it loses a space
   * that it begins with.
   * @param options.skipSpecial control tokens yield nothing; default false: they yield their names
   * @throws RangeError for an id outside [0, vocabSize)
   */
  decode(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): string;
  /** The bytes that `id` stands for: a view that must not be written. @throws RangeError as `decode` */
  tokenBytes(id: number): Uint8Array;
  isControl(id: number): boolean;
}

export interface Detokenizer {
  /** Text that token `id` completes; '' while a code point is still open. */
  push(id: number): string;
  /** What is left: U+FFFD for a code point that was never completed, else ''. Ready for a new text afterwards. */
  flush(): string;
  /** Whether a code point is open, that is, whether the text so far may still grow at its end. */
  readonly pending: boolean;
}

/** Names of end-of-generation tokens (llama.cpp's list, without those of single vendors' tool formats). */
const EOG_NAMES: readonly string[] = [
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|end_of_text|>',
  '<EOT>',
  '[EOT]',
  '<end_of_utterance>',
  '<|eom_id|>',
  '</s>',
  '<eos>',
  '[EOS]',
];
/** How many of these, from the front, may stand in for a missing `eot_token_id`. */
const EOT_NAMES = 9;

/**
 * @param metadata GGUF keys and values; reads `tokenizer.ggml.*`
 * @throws Error naming the key, what it holds and what was expected
 */
export function createTokenizer(metadata: ReadonlyMap<string, unknown>): Tokenizer {
  const file = readKeys(metadata);
  const { tokens, types, addSpacePrefix } = file;
  const spaces = file.model === 'llama';
  const vocabulary = createVocabulary(tokens, types, spaces ? spellPiece : spellInAlphabet);
  const { scan, encode: encodeBytes } =
    file.model === 'llama' ? createSentencePiece(file, vocabulary) : createBpe(file, vocabulary);
  const { bytes, starts, size } = vocabulary;

  const named = new Map<string, number>();
  const control = new Uint8Array(size);
  const specials: [string, number][] = [];
  for (let id = 0; id < size; id++) {
    if (isEogName(tokens[id])) named.set(tokens[id], id);
    control[id] = types[id] === TokenType.control || types[id] === TokenType.unknown ? 1 : 0;
    if (control[id] === 1 || types[id] === TokenType.userDefined) specials.push([tokens[id], id]);
  }
  for (const [name, id] of named) {
    if (control[id] === 0) specials.push([name, id]);
    control[id] = 1; // whatever its type, as in llama.cpp
  }
  const isControl = (id: number): boolean => control[id] === 1;
  const eot = file.eot ?? EOG_NAMES.slice(0, EOT_NAMES).flatMap((name) => named.get(name) ?? [])[0];
  const eogTokens = new Set(named.values());
  for (const id of [file.eos, eot, file.eom]) if (id !== undefined) eogTokens.add(id);

  const userFinder = createSpecialFinder(specials.filter(([, id]) => !isControl(id)));
  const finder = createSpecialFinder(specials);

  const cache = createWordCache();
  const kept = new Uint8Array(3 * KEPT_UNITS);

  /** Appends the ids of one pre-token to `out`. */
  const encodeWord = (text: string, from: number, to: number, out: number[]): void => {
    if (cache.get(text, from, to, out)) return;
    const first = out.length;
    const utf8 = to - from <= KEPT_UNITS ? kept : new Uint8Array(3 * (to - from));
    encodeBytes(utf8, writeUtf8(text, from, to, utf8, 0, spaces), out);
    cache.put(text, from, to, out, first);
  };

  /** Appends the ids of a text between special tokens. */
  const encodeSpan = (text: string, from: number, to: number, out: number[]): void => {
    if (addSpacePrefix && from < to) {
      text = ` ${text.slice(from, to)}`;
      from = 0;
      to = text.length;
    }
    for (let at = from; at < to; ) {
      const stop = scan(text, at, to);
      encodeWord(text, at, stop, out);
      at = stop;
    }
  };

  const encode: Tokenizer['encode'] = (text, { addSpecial = false, parseSpecial = false } = {}) => {
    const pieces = typeof text === 'string' ? [text] : text;
    const joined = typeof text === 'string' ? text : text.join('');
    const out: number[] = [];
    let done = 0;
    let offset = 0;
    for (const piece of pieces) {
      for (const { id, start, end } of matches(parseSpecial ? finder : userFinder, piece)) {
        encodeSpan(joined, done, offset + start, out);
        out.push(id);
        done = offset + end;
      }
      offset += piece.length;
    }
    encodeSpan(joined, done, joined.length, out);
    if (addSpecial && file.addBos && file.bos !== undefined && out[0] !== file.bos) out.unshift(file.bos);
    if (addSpecial && file.addEos && file.eos !== undefined && out.at(-1) !== file.eos) out.push(file.eos);
    return out;
  };

  const tokenBytes = (id: number): Uint8Array => {
    if (!(Number.isInteger(id) && id >= 0 && id < size)) {
      throw new RangeError(`token id ${id} is outside the vocabulary, expected 0 to ${size - 1}`);
    }
    return bytes.subarray(starts[id], starts[id + 1]);
  };

  const decode: Tokenizer['decode'] = (ids, { skipSpecial = false } = {}) => {
    let length = 0;
    for (let i = 0; i < ids.length; i++) length += tokenBytes(ids[i]).length;
    const utf8 = new Uint8Array(length);
    let at = 0;
    for (let i = 0; i < ids.length; i++) {
      if (skipSpecial && isControl(ids[i])) continue;
      for (let from = starts[ids[i]]; from < starts[ids[i] + 1]; from++) utf8[at++] = bytes[from];
    }
    const from = addSpacePrefix && utf8[0] === SPACE ? 1 : 0;
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(utf8.subarray(from, at));
  };

  const { bos, eos, addBos, addEos } = file;
  const ids = { bos, eos, eot, eogTokens };
  return { vocabSize: size, ...ids, addBos, addEos, addSpacePrefix, encode, decode, tokenBytes, isControl };
}

/**
 * Decodes tokens one at a time. All that `push` and the closing `flush` return, put together, equals
 * `tokenizer.decode` of all the ids, and no piece ends inside a code point.
 *
 * @param options.skipSpecial control tokens yield nothing; default false
 * @param options.continues the ids go on with a text that stands already: a space in front is kept; default false
 */
export function createDetokenizer(
  tokenizer: Tokenizer,
  options: { skipSpecial?: boolean; continues?: boolean } = {},
): Detokenizer {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const { skipSpecial = false, continues = false } = options;
  const open = createOpenCounter();
  const drops = tokenizer.addSpacePrefix && !continues;
  let atStart = drops;
  return {
    get pending() {
      return open.needed > 0;
    },
    push: (id) => {
      if (skipSpecial && tokenizer.isControl(id)) return '';
      let bytes = tokenizer.tokenBytes(id);
      if (atStart && bytes.length > 0) {
        atStart = false;
        if (bytes[0] === SPACE) bytes = bytes.subarray(1);
      }
      open.read(bytes);
      return decoder.decode(bytes, { stream: true });
    },
    flush: () => {
      open.needed = 0;
      atStart = drops;
      return decoder.decode();
    },
  };
}

/** Counts the bytes that `TextDecoder` still needs for the code point it is in (WHATWG Encoding, UTF-8 decoder). */
function createOpenCounter(): { needed: number; read(bytes: Uint8Array): void } {
  let lowest = 0x80;
  let highest = 0xbf;
  return {
    needed: 0,
    read(bytes) {
      for (let i = 0; i < bytes.length; i++) {
        const byte = bytes[i];
        const continues = this.needed > 0 && byte >= lowest && byte <= highest;
        lowest = 0x80;
        highest = 0xbf;
        if (continues) {
          this.needed--;
          continue;
        }
        this.needed = byte < 0xc2 || byte > 0xf4 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
        if (byte === 0xe0) lowest = 0xa0;
        if (byte === 0xed) highest = 0x9f;
        if (byte === 0xf0) lowest = 0x90;
        if (byte === 0xf4) highest = 0x8f;
      }
    },
  };
}

const SPACE = 0x20;
/** Room for pre-tokens of up to this many UTF-16 units is kept. */
const KEPT_UNITS = 1024;

function isEogName(text: string): boolean {
  const first = text.charCodeAt(0);
  return (first === 0x3c || first === 0x5b) && EOG_NAMES.includes(text); // < or [
}

function* matches(finder: SpecialFinder, text: string): Generator<{ id: number; start: number; end: number }> {
  let match = finder.find(text, 0);
  while (match !== undefined) {
    yield match;
    match = finder.find(text, match.end);
  }
}
