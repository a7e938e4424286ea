// GGUF version 3; integers little-endian.
//
//   | "GGUF" | u32 version | u64 tensors | u64 keys |
//   | keys:    string name | u32 type | value |                     see value.ts
//   | tensors: string name | u32 n | u64 dims[n] | u32 type | u64 offset |
//   | padding to general.alignment |
//   | data: each tensor at its offset from here, padded to general.alignment |
//
// A tensor's bytes are not stored. Tensors lie in file order without holes, so each one's span, from its offset to the
// next one's, must be what its type and dims ask for; the span of a type that is only listed is its size. A type id
// that was given twice (39) is settled by the span, too.
import { type Cursor, cursorAt0, fail, fill, left, need, position, text, u32, u64 } from './cursor.ts';
import { rowFault, sizeOf, strangeType, type TensorType, typeNames } from './layouts.ts';
import { magicFault } from './magic.ts';
import type { Source } from './source.ts';
import { type ElementType, type GgufValue, VALUE_BYTES, VALUE_TYPES } from './value.ts';

export interface GgufHeader {
  version: number;
  /** Bytes; tensors start at multiples of it. */
  alignment: number;
  /** In file order. */
  metadata: Map<string, GgufValue>;
  /** What each value of `metadata` is stored as, for a copy of the file. */
  metadataTypes: Map<string, StoredType>;
  /** In file order. */
  tensors: Map<string, TensorInfo>;
  /** Byte of the file at which the data section starts. */
  dataAt: number;
  /** Bytes of the whole file. */
  size: number;
  /** What is odd but harms nobody. */
  warnings: string[];
}

export interface StoredType {
  /** Of the value, or of the elements of an array. */
  type: ElementType;
  array: boolean;
}

export interface TensorInfo {
  name: string;
  type: TensorType;
  typeId: number;
  /** ne0 (the row length) first; 1 to 4. */
  dims: number[];
  /** Byte of the file. */
  at: number;
  /** Without padding; for a type whose blocks are not known here, the span to the next tensor or the end of the file. */
  bytes: number;
}

/** Upper bounds beside the bytes left in the file, which bound everything. */
export interface Limits {
  /** Bytes of a string value. */
  stringBytes: number;
  /** Elements of an array. */
  elements: number;
  keys: number;
  tensors: number;
}

/** Vocabularies of 262144 tokens with 500000 merges pass with room to spare. */
export const LIMITS: Limits = { stringBytes: 64 << 20, elements: 1 << 24, keys: 100_000, tensors: 1_000_000 };

/** Where general.alignment is absent. */
export const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 20;
const MAX_DIMS = 4;
const NAME_BYTES = 63; // ggml keeps names in 64 bytes with a terminator
const KEY_BYTES = 65535; // the format's own bound
const LEAST_KEY_BYTES = 14; // name length, one letter, type, u8
const LEAST_TENSOR_BYTES = 33; // name length, one letter, n, one dim, type, offset
const MOST_TENSOR_BYTES = 8 + NAME_BYTES + 4 + 8 * MAX_DIMS + 4 + 8;

/**
 * Reads and checks the header of a GGUF version 3 file: every count, length, type, dim and offset against what is left
 * of the file, before anything is allocated for it. The data section is not read.
 * @throws GgufError on anything that is not a well-formed version 3 file
 */
export async function readHeader(source: Source, limits: Partial<Limits> = {}): Promise<GgufHeader> {
  const bounds = { ...LIMITS, ...limits };
  const c = cursorAt0(source);
  await fill(c, 24);
  checkMagic(c);
  need(c, 16, 'header');
  const tensorCount = count(c, 'tensor count', bounds.tensors, LEAST_TENSOR_BYTES);
  const keyCount = count(c, 'key count', bounds.keys, LEAST_KEY_BYTES);

  const warnings: string[] = [];
  const metadata = new Map<string, GgufValue>();
  const metadataTypes = new Map<string, StoredType>();
  let alignment = DEFAULT_ALIGNMENT;
  for (let i = 0; i < keyCount; i++) {
    const key = await readKey(c, i);
    if (metadata.has(key)) fail(c, `key '${key}'`, 'duplicate key');
    const what = `key '${key}'`;
    const replacedBefore = c.replaced;
    await fill(c, 4);
    need(c, 4, what);
    const type = valueType(c, what);
    const array = type === 'array';
    const element = array ? await readElementType(c, what) : type;
    const value = array ? await readArray(c, element, what, bounds) : await readScalar(c, element, what, bounds);
    if (key === 'general.alignment') alignment = checkAlignment(c, type, value);
    if (c.replaced > replacedBefore) {
      const strings = c.replaced - replacedBefore;
      warnings.push(`${source.name}: ${what}: ${strings} not valid UTF-8, read with U+FFFD`);
    }
    metadata.set(key, value);
    metadataTypes.set(key, { type: element, array });
  }
  if (typeof metadata.get('general.architecture') !== 'string') {
    warnings.push(`${source.name}: no string general.architecture; the file can be listed but not run`);
  }

  const raw: RawTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    if (c.window.length - c.at < MOST_TENSOR_BYTES) await fill(c, MOST_TENSOR_BYTES);
    const tensor = readTensor(c, i);
    if (names.has(tensor.name)) fail(c, `tensor '${tensor.name}'`, 'duplicate name', tensor.infoAt);
    names.add(tensor.name);
    raw.push(tensor);
  }
  const dataAt = alignUp(position(c), alignment);
  const tensors = placeTensors(c, raw, dataAt, alignment, metadata, warnings);
  return { version: 3, alignment, metadata, metadataTypes, tensors, dataAt, size: source.size, warnings };
}

function checkMagic(c: Cursor): void {
  need(c, 4, 'magic');
  const fault = magicFault(c.window);
  if (fault !== undefined) fail(c, 'magic', fault);
  c.at = 4;
  need(c, 4, 'version');
  const version = u32(c);
  if (version === 0x03000000) fail(c, 'version', 'big-endian file, expected little-endian', 4);
  if (version !== 3) fail(c, 'version', `${version}, expected 3`, 4);
}

/** A u64 count of items that take at least itemBytes each. */
function count(c: Cursor, what: string, most: number, itemBytes: number): number {
  const at = position(c);
  const n = u64(c);
  const room = Math.floor(left(c) / itemBytes);
  if (n > most || n > room) fail(c, what, `${n}, expected at most ${Math.min(most, room)}`, at);
  return n;
}

async function readKey(c: Cursor, index: number): Promise<string> {
  await fill(c, 8);
  need(c, 8, `key ${index}`);
  const n = count(c, `key ${index}: name length`, KEY_BYTES, 1);
  await fill(c, n);
  return readName(c, n, `key ${index}`);
}

/** A key or tensor name of n bytes: not empty, valid UTF-8, no control characters. */
function readName(c: Cursor, n: number, what: string): string {
  const at = position(c);
  const replacedBefore = c.replaced;
  const name = text(c, n);
  if (name === '') fail(c, what, 'empty name', at);
  if (c.replaced > replacedBefore) fail(c, what, 'name is not valid UTF-8', at);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\x00-\x1f\x7f-\x9f]/.test(name)) fail(c, what, `control character in name ${JSON.stringify(name)}`, at);
  return name;
}

function valueType(c: Cursor, what: string): (typeof VALUE_TYPES)[number] {
  const at = position(c);
  const id = u32(c);
  if (id >= VALUE_TYPES.length) fail(c, what, `value type ${id}, expected 0 to ${VALUE_TYPES.length - 1}`, at);
  return VALUE_TYPES[id];
}

function checkAlignment(c: Cursor, type: string, value: GgufValue): number {
  const what = "key 'general.alignment'";
  if (type !== 'u32' || typeof value !== 'number') fail(c, what, `type ${type}, expected u32`);
  if (value < 1 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0) {
    fail(c, what, `${value}, expected a power of two up to ${MAX_ALIGNMENT}`);
  }
  return value;
}

async function readScalar(c: Cursor, type: ElementType, what: string, bounds: Limits): Promise<GgufValue> {
  await fill(c, VALUE_BYTES[type]);
  need(c, VALUE_BYTES[type], what);
  if (type === 'string') {
    const n = count(c, `${what}: string length`, bounds.stringBytes, 1);
    await fill(c, n);
    return text(c, n);
  }
  const { view, at } = c;
  if (type === 'bool' && view.getUint8(at) > 1) fail(c, what, `bool ${view.getUint8(at)}, expected 0 or 1`);
  c.at += VALUE_BYTES[type];
  switch (type) {
    case 'u8':
      return view.getUint8(at);
    case 'i8':
      return view.getInt8(at);
    case 'u16':
      return view.getUint16(at, true);
    case 'i16':
      return view.getInt16(at, true);
    case 'u32':
      return view.getUint32(at, true);
    case 'i32':
      return view.getInt32(at, true);
    case 'f32':
      return view.getFloat32(at, true);
    case 'f64':
      return view.getFloat64(at, true);
    case 'bool':
      return view.getUint8(at) === 1;
    case 'u64':
      return exact(view.getBigUint64(at, true));
    case 'i64':
      return exact(view.getBigInt64(at, true));
  }
}

function exact(value: bigint): number | bigint {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

async function readElementType(c: Cursor, what: string): Promise<ElementType> {
  await fill(c, 12); // and the array's length
  need(c, 12, what);
  const type = valueType(c, `${what}: element`);
  return type === 'array' ? fail(c, what, 'array of arrays, expected scalars or strings') : type;
}

async function readArray(c: Cursor, type: ElementType, what: string, bounds: Limits): Promise<GgufValue> {
  const n = count(c, `${what}: array length`, bounds.elements, VALUE_BYTES[type]);
  if (type === 'string') return readStrings(c, n, what, bounds);
  const bytes = n * VALUE_BYTES[type];
  await fill(c, bytes);
  const elements = c.window.slice(c.at, c.at + bytes);
  if (type === 'bool') {
    const wrong = elements.findIndex((b) => b > 1);
    if (wrong >= 0) fail(c, what, `element ${wrong}: bool ${elements[wrong]}, expected 0 or 1`);
    c.at += bytes;
    return Array.from(elements, (b) => b === 1);
  }
  c.at += bytes;
  // Little-endian, as is every machine that runs JavaScript today.
  const { buffer } = elements;
  switch (type) {
    case 'u8':
      return elements;
    case 'i8':
      return new Int8Array(buffer);
    case 'u16':
      return new Uint16Array(buffer);
    case 'i16':
      return new Int16Array(buffer);
    case 'u32':
      return new Uint32Array(buffer);
    case 'i32':
      return new Int32Array(buffer);
    case 'f32':
      return new Float32Array(buffer);
    case 'f64':
      return new Float64Array(buffer);
    case 'u64':
      return new BigUint64Array(buffer);
    case 'i64':
      return new BigInt64Array(buffer);
  }
}

async function readStrings(c: Cursor, n: number, what: string, bounds: Limits): Promise<string[]> {
  const strings: string[] = [];
  for (let i = 0; i < n; i++) {
    if (c.window.length - c.at < 8) await fill(c, 8);
    if (c.window.length - c.at < 8) need(c, 8, `${what}: element ${i}`);
    const length = u64(c);
    if (length > bounds.stringBytes || length > c.window.length - c.at) {
      c.at -= 8;
      count(c, `${what}: element ${i}: string length`, bounds.stringBytes, 1);
      await fill(c, length);
    }
    strings.push(text(c, length));
  }
  return strings;
}

interface RawTensor {
  name: string;
  typeId: number;
  /** What the id may stand for with these dims. */
  types: readonly TensorType[];
  dims: number[];
  /** Product of dims, at most 2^53. */
  weights: number;
  /** From the start of the data section; not checked yet. */
  offset: number;
  /** Byte of the file at which this entry of the table starts. */
  infoAt: number;
}

function readTensor(c: Cursor, index: number): RawTensor {
  const infoAt = position(c);
  need(c, 8, `tensor ${index}`);
  const nameBytes = u64(c);
  if (nameBytes > NAME_BYTES) {
    fail(c, `tensor ${index}`, `name of ${nameBytes} bytes, expected at most ${NAME_BYTES}`, infoAt);
  }
  need(c, nameBytes, `tensor ${index}: name`);
  const name = readName(c, nameBytes, `tensor ${index}`);
  const what = `tensor '${name}'`;
  need(c, 4, what);
  const n = u32(c);
  if (n < 1 || n > MAX_DIMS) fail(c, what, `${n} dims, expected 1 to ${MAX_DIMS}`, infoAt);
  need(c, 8 * n + 12, what);
  const dims: number[] = [];
  for (let i = 0; i < n; i++) dims.push(u64(c));
  const weights = dims.reduce((a, b) => a * b, 1);
  if (!(weights > 0 && weights <= Number.MAX_SAFE_INTEGER)) {
    fail(c, what, `dims [${dims.join(', ')}], expected each at least 1 and at most 2^53 weights`, infoAt);
  }
  const typeId = u32(c);
  const types = typeNames(typeId);
  if (types.length === 0) fail(c, what, strangeType(typeId), infoAt);
  const faults = types.map((type) => rowFault(type, dims[0]));
  if (!faults.includes(undefined)) fail(c, what, faults.join('; '), infoAt);
  const possible = types.filter((_, i) => faults[i] === undefined);
  return { name, typeId, types: possible, dims, weights, offset: u64(c), infoAt };
}

/** Checks that the tensors fill the data section in order; everything they take is given an absolute place. */
function placeTensors(
  c: Cursor,
  raw: RawTensor[],
  dataAt: number,
  alignment: number,
  metadata: ReadonlyMap<string, GgufValue>,
  warnings: string[],
): Map<string, TensorInfo> {
  const dataBytes = Math.max(0, c.source.size - dataAt);
  const tensors = new Map<string, TensorInfo>();
  let end = 0; // of the tensors so far, padding included
  let before = 'start of the data';
  for (const [i, tensor] of raw.entries()) {
    const { name, typeId, dims, weights, offset, infoAt } = tensor;
    const what = `tensor '${name}'`;
    if (offset % alignment !== 0) fail(c, what, `offset ${offset}, expected a multiple of ${alignment}`, infoAt);
    if (offset >= dataBytes)
      fail(c, what, `offset ${offset}, expected less than ${dataBytes}, the data's size`, infoAt);
    if (offset !== end) {
      const fault = offset < end ? 'overlap with' : 'hole after';
      fail(c, what, `offset ${offset}, expected ${end}: ${fault} ${before}`, infoAt);
    }
    const isLast = i + 1 === raw.length;
    const span = (isLast ? dataBytes : raw[i + 1].offset) - offset;
    const type = tensor.types.length === 1 ? tensor.types[0] : settleType(tensor, span, isLast, alignment, metadata);
    if (type === undefined) {
      const sizes = tensor.types.map((t) => `${t} takes ${sizeOf(t, dims)}`).join(', ');
      fail(
        c,
        what,
        `type id ${typeId}, [${dims.join(', ')}] in ${span} bytes: ${sizes}, which nothing decides`,
        infoAt,
      );
    }
    const shape = `${type} [${dims.join(', ')}]`;
    const bytes = sizeOf(type, dims) ?? span;
    if (bytes > dataBytes - offset) {
      fail(c, what, `${shape} takes ${bytes} bytes, the file has ${dataBytes - offset} left for it`, infoAt);
    }
    // No type spends less than one bit on a weight.
    if (bytes < weights / 8) fail(c, what, `${bytes} bytes, too few for ${shape}`, infoAt);
    end = offset + alignUp(bytes, alignment);
    before = `'${name}', ${shape}, ${bytes} bytes`;
    tensors.set(name, { name, type, typeId, dims, at: dataAt + offset, bytes });
  }
  if (dataBytes > end) warnings.push(`${c.source.name}: ${dataBytes - end} bytes after the last tensor`);
  return tensors;
}

/** Architectures of the bitnet.cpp fork alone, which has no MXFP4. */
const FORK_ARCHITECTURES = ['bitnet-b1.58', 'bitnet-25'];
/** Of a file whose big matrices have the type id 39. */
const TYPE_OF_FILE_TYPE: Readonly<Record<number, TensorType>> = { 38: 'MXFP4', 39: 'TL2' };

/**
 * The type of a tensor whose id was given twice: the only one with the size of the span, padding left out; among several, or
 * where bytes follow the last tensor, the one that the architecture tells, else the one that general.file_type tells.
 */
function settleType(
  { types, dims }: RawTensor,
  span: number,
  isLast: boolean,
  alignment: number,
  metadata: ReadonlyMap<string, GgufValue>,
): TensorType | undefined {
  const sizes = types.map((type) => sizeOf(type, dims) ?? span);
  const exact = types.filter((_, i) => sizes[i] <= span && alignUp(sizes[i], alignment) === alignUp(span, alignment));
  if (exact.length === 1) return exact[0];
  const rivals = exact.length > 0 || !isLast ? exact : types.filter((_, i) => sizes[i] <= span);
  const isFork = FORK_ARCHITECTURES.includes(String(metadata.get('general.architecture')));
  const told = isFork ? 'TL2' : TYPE_OF_FILE_TYPE[Number(metadata.get('general.file_type'))];
  return rivals.find((type) => type === told);
}

/** n, or the next multiple of alignment. */
export function alignUp(n: number, alignment: number): number {
  return Math.ceil(n / alignment) * alignment;
}
