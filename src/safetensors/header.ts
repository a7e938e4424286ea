// safetensors; integers little-endian.
//
//   | u64 n | n bytes of JSON, which may end in spaces | data |
//
//   {"__metadata__": {"key": "text"}, "name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [begin, end]}, ...}
//
// Offsets count from the start of the data; tensors fill it without overlap or hole, in any order.
import { SafetensorsError } from './error.ts';

/** Bytes of a file: what this room needs of one. */
export interface Bytes {
  /** For messages. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /** Fills dst with the bytes from `at` on. */
  read(at: number, dst: Uint8Array): Promise<void>;
}

/** Bytes of one element of each dtype. */
const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

export type Dtype = keyof typeof DTYPE_BYTES;

export interface SafetensorsTensor {
  readonly name: string;
  readonly dtype: Dtype;
  /** Slowest dimension first; empty for a scalar. */
  readonly shape: readonly number[];
  /** Byte of the file. */
  readonly at: number;
  readonly bytes: number;
}

export interface SafetensorsHeader {
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The format's own bound on the JSON. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_DIMS = 8; // a checkpoint's tensors have at most 5

/**
 * Reads and checks the header of a safetensors file: every length, name, shape and place.
 * @throws SafetensorsError on anything that is not a well-formed file
 */
export async function readSafetensors(file: Bytes): Promise<SafetensorsHeader> {
  const fail = (problem: string, at?: number): never => {
    throw new SafetensorsError(`${file.name}: ${problem}`, at);
  };
  if (file.size < 8) fail(`${file.size} bytes, expected at least 8, the length of the header`, 0);
  const prefix = new Uint8Array(8);
  await file.read(0, prefix);
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  const most = Math.min(MAX_HEADER_BYTES, file.size - 8);
  if (length > most || length < 2) fail(`header of ${length} bytes, expected 2 to ${most}`, 0);
  const json = new Uint8Array(length);
  await file.read(8, json);
  if (json[0] !== 0x7b) fail('header does not begin with {', 8);

  let text: string;
  let entries: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
    entries = JSON.parse(text);
  } catch (cause) {
    throw new SafetensorsError(`${file.name}: header is not JSON in UTF-8 (${(cause as Error).message})`, 8, { cause });
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) fail(`tensor '${twice}': duplicate name`, 8);

  const dataAt = 8 + length;
  const tensors = new Map<string, SafetensorsTensor>();
  let metadata = new Map<string, string>();
  for (const [name, entry] of Object.entries(entries as object)) {
    if (name === '__metadata__') metadata = readMetadata(entry, fail);
    else tensors.set(name, readTensor(name, entry, dataAt, file.size, fail));
  }
  checkPlaces([...tensors.values()], dataAt, file.size, fail);
  return { tensors, metadata };
}

type Fail = (problem: string, at?: number) => never;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function readMetadata(value: unknown, fail: Fail): Map<string, string> {
  if (!isObject(value) || !Object.values(value).every((v) => typeof v === 'string')) {
    return fail('__metadata__: expected an object of texts', 8);
  }
  return new Map(Object.entries(value as Record<string, string>));
}

function readTensor(name: string, entry: unknown, dataAt: number, size: number, fail: Fail): SafetensorsTensor {
  const wrong = (problem: string): never => fail(`tensor '${name}': ${problem}`, 8);
  if (!isObject(entry)) return wrong('expected an object with dtype, shape and data_offsets');
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    return wrong(`dtype ${JSON.stringify(dtype)}, expected one of ${Object.keys(DTYPE_BYTES).join(', ')}`);
  }
  const whole = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (!Array.isArray(shape) || shape.length > MAX_DIMS || !shape.every(whole)) {
    return wrong(`shape ${JSON.stringify(shape)}, expected up to ${MAX_DIMS} whole numbers`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(whole)) {
    return wrong(`data_offsets ${JSON.stringify(offsets)}, expected [begin, end]`);
  }
  const [begin, end] = offsets as [number, number];
  const room = size - dataAt;
  if (begin > end || end > room) {
    return wrong(`data_offsets [${begin}, ${end}], expected begin <= end <= ${room}, the bytes of the data`);
  }
  const expected = shape.reduce((a: number, b: number) => a * b, DTYPE_BYTES[dtype as Dtype]);
  if (end - begin !== expected) {
    return wrong(`${end - begin} bytes, expected ${expected} for ${dtype} [${shape.join(', ')}]`);
  }
  return { name, dtype: dtype as Dtype, shape, at: dataAt + begin, bytes: end - begin };
}

/** The tensors lie side by side and fill the data. */
function checkPlaces(tensors: readonly SafetensorsTensor[], dataAt: number, size: number, fail: Fail): void {
  let end = dataAt;
  let before = 'the header';
  // Empty tensors stand before a full one at the same place.
  for (const { name, at, bytes } of [...tensors].sort((a, b) => a.at - b.at || a.bytes - b.bytes)) {
    if (at !== end) {
      const fault = at < end ? 'overlap with' : 'hole after';
      fail(`tensor '${name}': begins at byte ${at}, expected ${end}: ${fault} ${before}`, at);
    }
    end = at + bytes;
    before = `'${name}'`;
  }
  if (end !== size) fail(`${size - end} bytes after ${before} that belong to no tensor`, end);
}

/**
 * The first key of the outer object that stands there twice: JSON.parse keeps the last one without a word. `text` is valid
 * JSON.
 */
function duplicateKey(text: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (const [token, colon] of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g)) {
    if (token === '{' || token === '[') depth++;
    else if (token === '}' || token === ']') depth--;
    else if (depth === 1 && colon !== undefined) {
      const key = JSON.parse(token.slice(0, token.lastIndexOf('"') + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}
