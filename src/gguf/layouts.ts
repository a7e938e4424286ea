import { GgufError } from './error.ts';
import * as bf16 from './layouts/bf16.ts';
import type { Blocks } from './layouts/blocks.ts';
import * as f16 from './layouts/f16.ts';
import * as f32 from './layouts/f32.ts';
import * as i2s from './layouts/i2_s.ts';
import * as q40 from './layouts/q4_0.ts';
import * as q6k from './layouts/q6_k.ts';
import * as q80 from './layouts/q8_0.ts';
import { type Ternary, type Tiles, weightsOf } from './layouts/ternary.ts';
import * as tl1 from './layouts/tl1.ts';
import * as tl2 from './layouts/tl2.ts';
import * as tq10 from './layouts/tq1_0.ts';
import * as tq20 from './layouts/tq2_0.ts';

/** What every file in layouts/ tells of its layout. */
export interface Layout {
  /** Type id in the file. */
  readonly id: number;
  /** Row length (ne0) must be a multiple of this. */
  readonly rowMultiple: number;
  /** Row length must be at least this. */
  readonly leastRow?: number;
  /** Of a layout whose blocks have scales that are to be checked. */
  readonly blocks?: Blocks;
  /** Bytes of a tensor of dims (ne0 first). */
  sizeBytes(dims: readonly number[]): number;
  /** packed (sizeBytes(dims) long) -> values in file order; where names file and tensor in an error. TL1 and TL2 need tiles. */
  decode(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Float32Array;
}

/** A layout of weights -1, 0 and 1 with scales. */
export interface TernaryLayout extends Layout {
  unpack(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Ternary;
  encode(ternary: Ternary, dims: readonly number[], tiles?: Tiles): Uint8Array<ArrayBuffer>;
}

/** Types whose weights are -1, 0 and 1. */
export type TernaryType = 'I2_S' | 'TL1' | 'TL2' | 'TQ1_0' | 'TQ2_0';

/** Types whose values this build reads. */
export type ReadType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q6_K' | 'Q4_0' | TernaryType;

export const TERNARY: Readonly<Record<TernaryType, TernaryLayout>> = {
  I2_S: i2s,
  TL1: tl1,
  TL2: tl2,
  TQ1_0: tq10,
  TQ2_0: tq20,
};
const LAYOUTS: Readonly<Record<ReadType, Layout>> = {
  ...{ F32: f32, F16: f16, BF16: bf16, Q8_0: q80, Q6_K: q6k, Q4_0: q40 },
  ...TERNARY,
};

/** Of the types that are only listed: the one whose id is another's too. Blocks of 32 weights in 17 bytes. */
const MXFP4: Pick<Layout, 'rowMultiple' | 'leastRow' | 'sizeBytes'> = {
  rowMultiple: 32,
  sizeBytes: (dims) => (weightsOf(dims) / 32) * 17,
};

// Ids as in ggml of August 2026; 36 to 39 as in the bitnet.cpp fork, of which ggml reuses 39 for MXFP4.
const UNREAD = {
  3: 'Q4_1',
  6: 'Q5_0',
  7: 'Q5_1',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q4_K',
  13: 'Q5_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  37: 'I8_S',
  39: 'MXFP4',
  40: 'NVFP4',
  41: 'Q1_0',
  42: 'Q2_0',
} as const;

const REMOVED: Readonly<Record<number, string>> = {
  4: 'Q4_2',
  5: 'Q4_3',
  31: 'Q4_0_4_4',
  32: 'Q4_0_4_8',
  33: 'Q4_0_8_8',
};

/** Name of a tensor's type: one that is read, or one that is only listed. */
export type TensorType = ReadType | (typeof UNREAD)[keyof typeof UNREAD];

const NAMES = new Map<number, TensorType[]>();
for (const [name, { id }] of Object.entries(LAYOUTS)) NAMES.set(id, [name as ReadType]);
for (const [id, name] of Object.entries(UNREAD)) NAMES.set(Number(id), [...typeNames(Number(id)), name]);

/** Names of a type id: one, several where an id was given twice, or none (any more). */
export function typeNames(id: number): readonly TensorType[] {
  return NAMES.get(id) ?? [];
}

/** What to call an id without a name: "removed type 4 (Q4_2)" or "unknown type 250". */
export function strangeType(id: number): string {
  return id in REMOVED ? `removed type ${id} (${REMOVED[id]})` : `unknown type ${id}`;
}

/** The layout of a type, or undefined when this build only lists tensors of that type. */
export function layoutOf(type: TensorType): Layout | undefined {
  return Object.hasOwn(LAYOUTS, type) ? LAYOUTS[type as ReadType] : undefined;
}

/** Bytes of a tensor of dims (ne0 first), or undefined where this build does not know the type's blocks. */
export function sizeOf(type: TensorType, dims: readonly number[]): number | undefined {
  return (type === 'MXFP4' ? MXFP4 : layoutOf(type))?.sizeBytes(dims);
}

/** What is wrong with rows of this length in a tensor of the type, or undefined. */
export function rowFault(type: TensorType, cols: number): string | undefined {
  const { rowMultiple = 1, leastRow = 0 } = (type === 'MXFP4' ? MXFP4 : layoutOf(type)) ?? {};
  if (cols % rowMultiple !== 0) return `row length ${cols}, expected a multiple of ${rowMultiple} (${type})`;
  if (cols < leastRow) return `row length ${cols}, expected at least ${leastRow} (${type})`;
}

/**
 * The layout of a type that must be read.
 * @param where what to name in an error: file and tensor
 * @throws GgufError naming the type and those that are read
 */
export function requireLayout(type: TensorType, where: string): Layout {
  const layout = layoutOf(type);
  if (layout) return layout;
  throw new GgufError(`${where}: type ${type}; this build reads ${Object.keys(LAYOUTS).join(', ')}`);
}

/**
 * Values of a tensor in file order (ne0 fastest).
 * @param where what to name in an error: file and tensor
 * @param tiles of TL1 and TL2, which need them
 * @throws GgufError on a type that is not read, a wrong number of bytes, or what the layout forbids
 */
export function decode(
  type: TensorType,
  packed: Uint8Array,
  dims: readonly number[],
  where: string,
  tiles?: Tiles,
): Float32Array {
  const layout = requireLayout(type, where);
  const expected = layout.sizeBytes(dims);
  if (packed.length !== expected) {
    throw new GgufError(`${where}: ${packed.length} bytes, expected ${expected} for [${dims.join(', ')}] (${type})`);
  }
  return layout.decode(packed, dims, where, tiles);
}
