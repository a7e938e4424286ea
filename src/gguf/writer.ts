import { GgufError } from './error.ts';
import { alignUp, DEFAULT_ALIGNMENT, type GgufHeader, type StoredType } from './header.ts';
import { requireLayout, rowFault, type TensorType } from './layouts.ts';
import { type ElementType, VALUE_BYTES, VALUE_TYPES } from './value.ts';

type NumberType = Exclude<ElementType, 'string' | 'bool'>;

/** A metadata value with the type it is stored in. */
export type TypedValue =
  | { type: NumberType; value: number | bigint }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'array'; of: NumberType; value: ArrayLike<number | bigint> }
  | { type: 'array'; of: 'bool'; value: ArrayLike<boolean> }
  | { type: 'array'; of: 'string'; value: ArrayLike<string> };

/** Keys in the order in which they are written; a Map serves. */
export type TypedMetadata = Iterable<readonly [key: string, value: TypedValue]>;

/** The metadata of a file that was read, with the types it is stored in. */
export function typedMetadata({ metadata, metadataTypes }: GgufHeader): Map<string, TypedValue> {
  return new Map(
    [...metadata].map(([key, value]) => {
      const { type, array } = metadataTypes.get(key) as StoredType;
      return [key, (array ? { type: 'array', of: type, value } : { type, value }) as TypedValue];
    }),
  );
}

export interface TensorShape {
  name: string;
  type: TensorType;
  /** ne0 (the row length) first. */
  dims: readonly number[];
}

export interface HeaderBytes {
  /** The header, padded to the alignment: the data section follows. */
  bytes: Uint8Array;
  /** For each tensor, its first byte in the file; what lies between its end and the next is to be filled with 0. */
  at: number[];
  /** Bytes of the whole file, padding after the last tensor included. */
  size: number;
}

/**
 * The header of a file whose tensors are written by the caller, at their places and in this order.
 * The alignment is the u32 'general.alignment' of the metadata, else 32.
 * @throws GgufError on a type that this build does not write or a row length that its layout forbids
 */
export function headerBytes(metadata: TypedMetadata, tensors: readonly TensorShape[]): HeaderBytes {
  const entries = [...metadata];
  let alignment = DEFAULT_ALIGNMENT;
  const out = startBytes();
  for (const letter of 'GGUF') put(out, 'u8', letter.charCodeAt(0));
  put(out, 'u32', 3);
  put(out, 'u64', tensors.length);
  put(out, 'u64', entries.length);
  for (const [key, entry] of entries) {
    putString(out, key);
    putValue(out, entry);
    if (key === 'general.alignment') alignment = Number(entry.value);
  }
  const offsets: number[] = [];
  let end = 0;
  for (const { name, type, dims } of tensors) {
    const where = `tensor '${name}'`;
    const layout = requireLayout(type, where);
    const fault = rowFault(type, dims[0]);
    if (fault !== undefined) throw new GgufError(`${where}: ${fault}`);
    putString(out, name);
    put(out, 'u32', dims.length);
    for (const dim of dims) put(out, 'u64', dim);
    put(out, 'u32', layout.id);
    put(out, 'u64', end);
    offsets.push(end);
    end = alignUp(end + layout.sizeBytes(dims), alignment);
  }
  const dataAt = alignUp(out.length, alignment);
  reserve(out, dataAt - out.length);
  const at = offsets.map((offset) => dataAt + offset);
  return { bytes: out.bytes.slice(0, dataAt), at, size: dataAt + end };
}

/**
 * A whole file in memory.
 * @throws GgufError as headerBytes does, and when a tensor's packed bytes are not as many as its type and dims ask for
 */
export function writeGguf(
  metadata: TypedMetadata,
  tensors: readonly (TensorShape & { packed: Uint8Array })[],
): Uint8Array {
  const header = headerBytes(metadata, tensors);
  const file = new Uint8Array(header.size);
  file.set(header.bytes);
  for (const [i, { name, type, dims, packed }] of tensors.entries()) {
    const where = `tensor '${name}'`;
    const expected = requireLayout(type, where).sizeBytes(dims);
    if (packed.length !== expected) {
      throw new GgufError(`${where}: ${packed.length} bytes, expected ${expected} for [${dims.join(', ')}] (${type})`);
    }
    file.set(packed, header.at[i]);
  }
  return file;
}

/** Bytes that grow; beyond `length` they are zero. */
interface Bytes {
  bytes: Uint8Array;
  view: DataView;
  length: number;
}

const utf8 = new TextEncoder();

function startBytes(): Bytes {
  const bytes = new Uint8Array(1 << 16);
  return { bytes, view: new DataView(bytes.buffer), length: 0 };
}

/** Makes room for n more bytes. */
function reserve(out: Bytes, n: number): void {
  if (out.length + n <= out.bytes.length) return;
  const bytes = new Uint8Array(Math.max(2 * out.bytes.length, out.length + n));
  bytes.set(out.bytes);
  out.bytes = bytes;
  out.view = new DataView(bytes.buffer);
}

function put(out: Bytes, type: NumberType | 'bool', value: number | bigint | boolean): void {
  reserve(out, 8);
  const { view, length } = out;
  switch (type) {
    case 'u8':
    case 'i8':
    case 'bool':
      view.setUint8(length, Number(value));
      break;
    case 'u16':
    case 'i16':
      view.setUint16(length, Number(value), true);
      break;
    case 'u32':
    case 'i32':
      view.setUint32(length, Number(value), true);
      break;
    case 'f32':
      view.setFloat32(length, Number(value), true);
      break;
    case 'f64':
      view.setFloat64(length, Number(value), true);
      break;
    case 'u64':
    case 'i64':
      view.setBigUint64(length, BigInt(value), true);
  }
  out.length += VALUE_BYTES[type];
}

function putString(out: Bytes, value: string): void {
  reserve(out, 8 + 3 * value.length);
  const { written } = utf8.encodeInto(value, out.bytes.subarray(out.length + 8));
  put(out, 'u64', written);
  out.length += written;
}

function putValue(out: Bytes, entry: TypedValue): void {
  put(out, 'u32', VALUE_TYPES.indexOf(entry.type));
  if (entry.type === 'string') putString(out, entry.value);
  else if (entry.type === 'bool') put(out, 'bool', entry.value);
  else if (entry.type !== 'array') put(out, entry.type, entry.value);
  else {
    put(out, 'u32', VALUE_TYPES.indexOf(entry.of));
    put(out, 'u64', entry.value.length);
    for (let i = 0; i < entry.value.length; i++) {
      if (entry.of === 'string') putString(out, entry.value[i]);
      else put(out, entry.of, entry.value[i]);
    }
  }
}
