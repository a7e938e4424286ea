// Metadata values of GGUF version 3. A value is stored as
//
//   scalar  | u32 type | value, little-endian |
//   string  | u32 8    | u64 byte length | UTF-8 bytes, no terminator |
//   array   | u32 9    | u32 element type | u64 count | elements without their types |

/** A value as the reader returns it. 64-bit scalars are numbers where that is exact, else bigints. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | string[]
  | boolean[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** Names of the value types; a type's id is its index here. */
export const VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;

export type ValueType = (typeof VALUE_TYPES)[number];
export type ElementType = Exclude<ValueType, 'array'>;

/** Bytes of one value of a type; of a string its length field, the least it can take. */
export const VALUE_BYTES: Readonly<Record<ElementType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  u64: 8,
  i64: 8,
  f64: 8,
};
