import { TERNARY, type TernaryType } from '../gguf/layouts.ts';

export function isTernary(type: string): type is TernaryType {
  return Object.hasOwn(TERNARY, type);
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
export const MATRIX: RegExp = /^blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$/;
export const TABLE: RegExp = /^(token_embd|output)\.weight$/;
