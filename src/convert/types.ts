import * as i2s from '../gguf/layouts/i2_s.ts';
import type { Ternary, Tiles } from '../gguf/layouts/ternary.ts';
import * as tl1 from '../gguf/layouts/tl1.ts';
import * as tl2 from '../gguf/layouts/tl2.ts';
import * as tq10 from '../gguf/layouts/tq1_0.ts';
import * as tq20 from '../gguf/layouts/tq2_0.ts';

export interface TernaryLayout {
  /** Row length (ne0) must be a multiple of this. */
  readonly rowMultiple: number;
  unpack(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Ternary;
  encode(ternary: Ternary, dims: readonly number[], tiles?: Tiles): Uint8Array;
}

export type TernaryType = 'I2_S' | 'TL1' | 'TL2' | 'TQ1_0' | 'TQ2_0';

export const TERNARY_LAYOUTS: Readonly<Record<TernaryType, TernaryLayout>> = {
  I2_S: i2s,
  TL1: tl1,
  TL2: tl2,
  TQ1_0: tq10,
  TQ2_0: tq20,
};

export function isTernary(type: string): type is TernaryType {
  return Object.hasOwn(TERNARY_LAYOUTS, type);
}

/** What matrices are written as. */
export type MatrixType = TernaryType | 'F16';
/** What the embedding and an output head of its own are written as. */
export type TableType = 'F16' | 'Q8_0' | 'Q6_K';

/** general.file_type of a file of such matrices: bitnet.cpp's numbers for its own types, llama.cpp's for the others. */
export const FILE_TYPES: Readonly<Record<MatrixType, number>> = {
  F16: 1,
  TQ1_0: 36,
  TQ2_0: 37,
  TL1: 38,
  TL2: 39,
  I2_S: 40,
};

/** Types that only bitnet.cpp and this package open. The others are llama.cpp's. */
export const isForkType = (type: MatrixType): boolean => type === 'I2_S' || type === 'TL1' || type === 'TL2';

/** The seven matrices of a layer, by GGUF name. */
export const MATRIX = /^blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$/;
export const TABLE = /^(token_embd|output)\.weight$/;
