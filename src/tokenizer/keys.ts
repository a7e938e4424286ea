/** Reads and checks the `tokenizer.ggml.*` keys of a GGUF file: the border where a bad vocabulary is refused. */
import { type Pre, pres } from './pretokenize.ts';

export interface TokenizerKeys {
  readonly pre: Pre;
  readonly tokens: readonly string[];
  /** llama.cpp's token types, one a token; all 1 (normal) where the file has none. */
  readonly types: ArrayLike<number>;
  readonly merges: readonly string[];
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly eot: number | undefined;
  readonly eom: number | undefined;
  readonly unknown: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
}

const KEY = 'tokenizer.ggml.';

/** @throws Error naming the key, what it holds and what was expected */
export function readKeys(metadata: ReadonlyMap<string, unknown>): TokenizerKeys {
  const model = metadata.get(`${KEY}model`);
  if (model !== 'gpt2') {
    const hint = model === 'llama' ? ' (SentencePiece vocabularies are not supported)' : '';
    throw new Error(`${KEY}model is ${show(model)}, expected "gpt2", that is byte-level BPE${hint}`);
  }
  // A file without the key is an old conversion; llama.cpp takes the default for it too.
  const name = metadata.get(`${KEY}pre`) ?? 'default';
  const pre = typeof name === 'string' ? pres.get(name) : undefined;
  if (pre === undefined) {
    throw new Error(`${KEY}pre is ${show(name)}, expected one of ${[...pres.keys()].join(', ')}`);
  }

  const tokens = strings(metadata, 'tokens');
  if (tokens.length === 0) throw new Error(`${KEY}tokens is empty, expected at least one token`);
  const types = metadata.get(`${KEY}token_type`) ?? new Uint8Array(tokens.length).fill(1);
  if (!isNumbers(types) || types.length !== tokens.length) {
    const got = isNumbers(types) ? `${types.length} values` : show(types);
    throw new Error(`${KEY}token_type is ${got}, expected ${tokens.length} numbers, one a token`);
  }

  const id = (key: string): number | undefined => {
    const value = metadata.get(`${KEY}${key}`);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < tokens.length) return value;
    throw new Error(`${KEY}${key} is ${show(value)}, expected a token id from 0 to ${tokens.length - 1}`);
  };
  const bos = id('bos_token_id');
  const eos = id('eos_token_id');
  const wants = (key: string, of: string, token: number | undefined, absent: boolean): boolean => {
    const value = metadata.get(`${KEY}${key}`) ?? absent;
    if (typeof value !== 'boolean') throw new Error(`${KEY}${key} is ${show(value)}, expected true or false`);
    if (value && token === undefined) throw new Error(`${KEY}${key} is true, but ${KEY}${of} is not set`);
    return value;
  };
  return {
    pre,
    tokens,
    types,
    merges: strings(metadata, 'merges'),
    bos,
    eos,
    eot: id('eot_token_id'),
    eom: id('eom_token_id'),
    unknown: id('unknown_token_id'),
    addBos: wants('add_bos_token', 'bos_token_id', bos, pre.addBos && bos !== undefined),
    addEos: wants('add_eos_token', 'eos_token_id', eos, false),
  };
}

function strings(metadata: ReadonlyMap<string, unknown>, key: string): readonly string[] {
  const value = metadata.get(`${KEY}${key}`);
  if (!Array.isArray(value)) throw new Error(`${KEY}${key} is ${show(value)}, expected an array of strings`);
  const bad = value.findIndex((item) => typeof item !== 'string');
  if (bad >= 0) throw new Error(`${KEY}${key}[${bad}] is ${show(value[bad])}, expected a string`);
  return value;
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
