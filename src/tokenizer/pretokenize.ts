/**
 * Pre-tokenizers: where a text is cut before byte pair encoding. Each is a regular expression in the papers and in
 * llama.cpp; here it is a hand-written scanner, one pass, no backtracking, so that time is linear in the text.
 */

/**
 * Returns the end of the pre-token that begins at `at`, `at < end <= text.length`. All offsets are UTF-16 units.
 * A scanner keeps no state: the answer depends on `text[at, end)` alone, and a lone surrogate counts as U+FFFD.
 */
export type Scanner = (text: string, at: number, end: number) => number;

const LETTER = 1; // \p{L}
const NUMBER = 2; // \p{N}
const SPACE = 4; // \s, that is \p{White_Space}: with U+0085, without U+FEFF, unlike JavaScript's own \s
const PUNCT = 8; // \p{P} and $ + < = > ^ ~ |: what the `default` pre-tokenizer takes as punctuation
const OTHER = 16; // the rest: marks, symbols, the backtick, control characters, unassigned
const SIGNS = PUNCT | OTHER; // [^\s\p{L}\p{N}]

const LF = 0x0a;
const CR = 0x0d;
const BLANK = 0x20;
const QUOTE = 0x27;

/** Class of each code point in pages of 256, made when first touched: 40 us a page, and a text touches few. */
const pages: (Uint8Array | undefined)[] = new Array(0x1100).fill(undefined);

function makePage(index: number): Uint8Array {
  const page = new Uint8Array(256);
  for (let i = 0; i < 256; i++) {
    const char = String.fromCodePoint(index * 256 + i);
    if (/\p{L}/u.test(char)) page[i] = LETTER;
    else if (/\p{N}/u.test(char)) page[i] = NUMBER;
    else if (/\p{White_Space}/u.test(char)) page[i] = SPACE;
    else page[i] = /[\p{P}$+<=>^~|]/u.test(char) ? PUNCT : OTHER;
  }
  pages[index] = page;
  return page;
}

const latin: Uint8Array = makePage(0);

function classOf(code: number): number {
  return code < 256 ? latin[code] : (pages[code >> 8] ?? makePage(code >> 8))[code & 255];
}

function codeAt(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  return (unit & 0xf800) === 0xd800 ? (text.codePointAt(at) ?? unit) : unit;
}

/** End of the longest run from `at` whose classes are all in `mask`. */
function run(text: string, at: number, end: number, mask: number): number {
  while (at < end) {
    const unit = text.charCodeAt(at);
    if (unit < 256) {
      if ((latin[unit] & mask) === 0) break;
      at++;
      continue;
    }
    const code = codeAt(text, at);
    if ((classOf(code) & mask) === 0) break;
    at += code > 0xffff ? 2 : 1;
  }
  return at;
}

/** Units of `'s 't 'm 'd 're 've 'll` at `at`, or 0. Folding takes the long s too, as `(?i:'s)` does. */
function contraction(text: string, at: number, end: number, fold: boolean): number {
  const first = at + 1 < end ? lower(text.charCodeAt(at + 1), fold) : 0;
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64) return 2; // s t m d
  const second = at + 2 < end ? lower(text.charCodeAt(at + 2), fold) : 0;
  if (second === 0x65 && (first === 0x72 || first === 0x76)) return 3; // re ve
  return first === 0x6c && second === 0x6c ? 3 : 0; // ll
}

function lower(unit: number, fold: boolean): number {
  if (!fold) return unit;
  if (unit === 0x17f) return 0x73;
  return unit >= 0x41 && unit <= 0x5a ? unit + 32 : unit;
}

/** `\s+(?!\S)|\s+` over the run [at, stop): all of it at the end of the text, else all but its last character. */
function spaces(at: number, stop: number, end: number): number {
  return stop === end || stop === at + 1 ? stop : stop - 1;
}

/** `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` */
function gpt2(text: string, at: number, end: number): number {
  const unit = text.charCodeAt(at);
  if (unit === QUOTE) {
    const length = contraction(text, at, end, false);
    if (length > 0) return at + length;
  }
  const from = unit === BLANK ? at + 1 : at;
  if (from < end) {
    const kind = classOf(codeAt(text, from));
    if (kind !== SPACE) return run(text, from, end, (kind & SIGNS) !== 0 ? SIGNS : kind);
  }
  return spaces(at, run(text, at, end, SPACE), end);
}

/**
 * `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
 * where D, `maxDigits`, is 3 for Llama 3 and 1 for Qwen 2.
 */
function llama(text: string, at: number, end: number, maxDigits: number): number {
  const code = codeAt(text, at);
  const kind = classOf(code);
  const after = code > 0xffff ? at + 2 : at + 1;
  if (kind === LETTER) return run(text, after, end, LETTER);
  if (kind === NUMBER) {
    let stop = after;
    for (let n = 1; n < maxDigits && stop < end; n++) {
      const next = codeAt(text, stop);
      if (classOf(next) !== NUMBER) break;
      stop += next > 0xffff ? 2 : 1;
    }
    return stop;
  }
  if (code === QUOTE) {
    const length = contraction(text, at, end, true);
    if (length > 0) return at + length;
  }
  if (code !== CR && code !== LF && after < end && classOf(codeAt(text, after)) === LETTER) {
    return run(text, after, end, LETTER);
  }
  const from = code === BLANK ? after : at;
  if (from < end && (classOf(codeAt(text, from)) & SIGNS) !== 0) {
    let stop = run(text, from, end, SIGNS);
    while (stop < end && isNewline(text.charCodeAt(stop))) stop++;
    return stop;
  }
  const stop = run(text, at, end, SPACE);
  for (let last = stop - 1; last >= at; last--) {
    if (isNewline(text.charCodeAt(last))) return last + 1;
  }
  return spaces(at, stop, end);
}

function isNewline(unit: number): boolean {
  return unit === LF || unit === CR;
}

/**
 * Four expressions applied in turn, each inside the pieces of the one before: `[\p{P}$+<=>^~|]+`, gpt2's, `\p{N}+`,
 * `[0-9][0-9][0-9]`. Folded into one pass: punctuation comes out whole, so that no contraction is left to match and a
 * run of spaces before punctuation is not shortened; a number leaves its space behind and falls into threes.
 */
function fallback(text: string, at: number, end: number): number {
  const code = codeAt(text, at);
  const kind = classOf(code);
  if (kind === PUNCT) return run(text, at, end, PUNCT);
  if (kind === NUMBER) return threes(text, at, end);
  const from = code === BLANK ? at + 1 : at;
  if (from < end) {
    const next = classOf(codeAt(text, from));
    if (next === LETTER || next === OTHER) return run(text, from, end, next);
    if (next === NUMBER) return from;
  }
  const stop = run(text, at, end, SPACE);
  return stop < end && classOf(codeAt(text, stop)) === PUNCT ? stop : spaces(at, stop, end);
}

/** Inside a run of numbers: three ASCII digits, or what stands before the next three. */
function threes(text: string, at: number, end: number): number {
  if (threeDigits(text, at, end)) return at + 3;
  let stop = at;
  do {
    stop += codeAt(text, stop) > 0xffff ? 2 : 1;
  } while (stop < end && classOf(codeAt(text, stop)) === NUMBER && !threeDigits(text, stop, end));
  return stop;
}

function threeDigits(text: string, at: number, end: number): boolean {
  return at + 3 <= end && isDigit(text, at) && isDigit(text, at + 1) && isDigit(text, at + 2);
}

function isDigit(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  return unit >= 0x30 && unit <= 0x39;
}

/** A pre-tokenizer and what llama.cpp ties to its name (llama-vocab.cpp). */
export interface Pre {
  readonly scan: Scanner;
  /** A pre-token that is itself in the vocabulary is taken whole, before any merge. */
  readonly ignoreMerges: boolean;
  /** What `tokenizer.ggml.add_bos_token` is when the file does not say. */
  readonly addBos: boolean;
}

const llama3: Pre = { scan: (text, at, end) => llama(text, at, end, 3), ignoreMerges: true, addBos: true };
const dbrx: Pre = { ...llama3, ignoreMerges: false, addBos: false };
const qwen2: Pre = { scan: (text, at, end) => llama(text, at, end, 1), ignoreMerges: false, addBos: false };
const gpt2Pre: Pre = { scan: gpt2, ignoreMerges: false, addBos: false };

const LLAMA3 = ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon_e', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'];
const QWEN2 = [
  'qwen2',
  'deepseek-r1-qwen',
  'kormo',
  'f2llmv2',
  'megrez',
  'stablelm2',
  'hunyuan',
  'solar-open',
  'grok-2',
];
const GPT2 = ['gpt-2', 'phi-2', 'gigachat', 'a.x-4.0', 'mellum', 'mpt', 'olmo', 'jais', 'exaone4', 'trillion'];

/** By the value of `tokenizer.ggml.pre`. The names are llama.cpp's, and `falcon_e` that of the BitNet fork. */
export const pres: ReadonlyMap<string, Pre> = new Map<string, Pre>([
  ...LLAMA3.map((name): [string, Pre] => [name, llama3]),
  ...QWEN2.map((name): [string, Pre] => [name, qwen2]),
  ...GPT2.map((name): [string, Pre] => [name, gpt2Pre]),
  ...['dbrx', 'smaug-bpe', 'glm4', 'chatglm-bpe'].map((name): [string, Pre] => [name, dbrx]),
  ['default', { scan: fallback, ignoreMerges: false, addBos: false }],
]);
