/** Reads and checks the `tokenizer.ggml.*` keys of a GGUF file: the border where a bad vocabulary is refused. */
import { type Pre, pres } from './pretokenize.ts';
import { byteOfPiece, TokenType } from './vocabulary.ts';

interface CommonKeys {
  readonly tokens: readonly string[];
  /** llama.cpp's token types, one a token; all 1 (normal) where the file has none. */
  readonly types: ArrayLike<number>;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly eot: number | undefined;
  readonly eom: number | undefined;
  readonly unknown: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** A text, and what follows a special token, gets a space in front. */
  readonly addSpacePrefix: boolean;
}

/** Byte-level BPE. */
export interface Gpt2Keys extends CommonKeys {
  readonly model: 'gpt2';
  readonly pre: Pre;
  readonly merges: readonly string[];
}

/** SentencePiece. */
export interface LlamaKeys extends CommonKeys {
  readonly model: 'llama';
  /** One a token: the highest is merged first. */
  readonly scores: ArrayLike<number>;
}

const KEY = 'tokenizer.ggml.';

/** @throws Error naming the key, what it holds and what was expected */
export function readKeys(metadata: ReadonlyMap<string, unknown>): Gpt2Keys | LlamaKeys {
  const model = metadata.get(`${KEY}model`);
  if (model !== 'gpt2' && model !== 'llama') {
    throw new Error(`${KEY}model is ${show(model)}, expected "gpt2" (byte-level BPE) or "llama" (SentencePiece)`);
  }
  const pre = model === 'gpt2' ? readPre(metadata) : undefined;

  const tokens = strings(metadata, 'tokens');
  if (tokens.length === 0) throw new Error(`${KEY}tokens is empty, expected at least one token`);
  const types =
    metadata.get(`${KEY}token_type`) === undefined
      ? new Uint8Array(tokens.length).fill(TokenType.normal)
      : numbers(metadata, 'token_type', tokens.length);

  // Where a SentencePiece file is silent, llama.cpp takes the ids of the first LLaMA; of a BPE file it knows none.
  const id = (key: string, absent?: number): number | undefined => {
    const value = metadata.get(`${KEY}${key}`);
    if (value === undefined)
      return model === 'llama' && absent !== undefined && absent < tokens.length ? absent : undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < tokens.length) return value;
    throw new Error(`${KEY}${key} is ${show(value)}, expected a token id from 0 to ${tokens.length - 1}`);
  };
  const flag = (key: string, absent: boolean): boolean => {
    const value = metadata.get(`${KEY}${key}`) ?? absent;
    if (typeof value !== 'boolean') throw new Error(`${KEY}${key} is ${show(value)}, expected true or false`);
    return value;
  };
  const wants = (key: string, of: string, token: number | undefined, absent: boolean): boolean => {
    const value = flag(key, absent);
    if (value && token === undefined) throw new Error(`${KEY}${key} is true, but ${KEY}${of} is not set`);
    return value;
  };
  const bos = id('bos_token_id', 1);
  const eos = id('eos_token_id', 2);
  const common: CommonKeys = {
    tokens,
    types,
    bos,
    eos,
    eot: id('eot_token_id'),
    eom: id('eom_token_id'),
    unknown: id('unknown_token_id', 0),
    addBos: wants('add_bos_token', 'bos_token_id', bos, (pre?.addBos ?? true) && bos !== undefined),
    addEos: wants('add_eos_token', 'eos_token_id', eos, false),
    addSpacePrefix: model === 'llama' && flag('add_space_prefix', true),
  };
  if (pre !== undefined) return { ...common, model: 'gpt2', pre, merges: strings(metadata, 'merges') };

  if (flag('remove_extra_whitespaces', false)) {
    throw new Error(`${KEY}remove_extra_whitespaces is true, expected false: spaces count in every "llama" vocabulary`);
  }
  for (let i = 0; i < tokens.length; i++) {
    if (types[i] !== TokenType.byte || byteOfPiece(tokens[i]) >= 0) continue;
    throw new Error(`${KEY}tokens[${i}] is ${show(tokens[i])}, expected <0x00> to <0xFF>: its type is byte`);
  }
  return { ...common, model: 'llama', scores: readScores(metadata, tokens.length) };
}

function readPre(metadata: ReadonlyMap<string, unknown>): Pre {
  // A file without the key is an old conversion; llama.cpp takes the default for it too.
  const name = metadata.get(`${KEY}pre`) ?? 'default';
  const pre = typeof name === 'string' ? pres.get(name) : undefined;
  if (pre !== undefined) return pre;
  throw new Error(`${KEY}pre is ${show(name)}, expected one of ${[...pres.keys()].join(', ')}`);
}

function readScores(metadata: ReadonlyMap<string, unknown>, count: number): ArrayLike<number> {
  const scores = numbers(metadata, 'scores', count);
  for (let i = 0; i < count; i++) {
    if (!Number.isFinite(scores[i])) throw new Error(`${KEY}scores[${i}] is ${scores[i]}, expected a finite number`);
  }
  return scores;
}

function strings(metadata: ReadonlyMap<string, unknown>, key: string): readonly string[] {
  const value = metadata.get(`${KEY}${key}`);
  if (!Array.isArray(value)) throw new Error(`${KEY}${key} is ${show(value)}, expected an array of strings`);
  const bad = value.findIndex((item) => typeof item !== 'string');
  if (bad >= 0) throw new Error(`${KEY}${key}[${bad}] is ${show(value[bad])}, expected a string`);
  return value;
}

function numbers(metadata: ReadonlyMap<string, unknown>, key: string, count: number): ArrayLike<number> {
  const value = metadata.get(`${KEY}${key}`);
  if (isNumbers(value) && value.length === count) return value;
  const got = isNumbers(value) ? `${value.length} values` : show(value);
  throw new Error(`${KEY}${key} is ${got}, expected ${count} numbers, one a token`);
}

function isNumbers(value: unknown): value is ArrayLike<number> {
  if (Array.isArray(value)) return value.every((item) => typeof item === 'number');
  return (
    ArrayBuffer.isView(value) &&
    'length' in value &&
    !(value instanceof BigInt64Array || value instanceof BigUint64Array)
  );
}

function show(value: unknown): string {
  if (value === undefined) return 'missing';
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : String(value);
}
