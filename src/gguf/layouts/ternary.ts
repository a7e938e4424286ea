// What the ternary layouts share: I2_S, TL1 and TL2 with one f32 scale for the tensor, which lies in a tail behind the codes,
//
//   byte   0            size - 32   size - 28   size
//          | codes ...  | f32 scale | 28 unused |
//
// and TQ1_0 and TQ2_0 with an f16 scale for each block of 256 weights.
import { GgufError } from '../error.ts';
import { type Blocks, checkScales, scaleOf } from './blocks.ts';
import { f16Bits } from './f16.ts';

/** A ternary tensor as numbers: weight = scale * w. */
export interface Ternary {
  /** w in {-1, 0, 1}, in row order (ne0 fastest). */
  readonly weights: Int8Array;
  /** One for the tensor, or one for each 256 weights. */
  readonly scales: Float32Array;
}

/** How TL1 and TL2 cut a matrix into tiles; no tensor says it (tiles.ts). bitnet.cpp calls them BM, BK and bm. */
export interface Tiles {
  /** Rows of a tile: BM. */
  readonly rows: number;
  /** Columns of a tile: BK. */
  readonly cols: number;
  /** Rows of a tile that are interleaved: bm. */
  readonly sub: number;
}

/** Bytes behind the codes, of which the first four are the tensor's scale. */
export const TAIL_BYTES = 32;

/** Number of weights of a tensor of dims. */
export function weightsOf(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1);
}

/** Rows of a tensor of dims, those of all its matrices. */
export function rowsOf(dims: readonly number[]): number {
  return weightsOf(dims.slice(1));
}

/**
 * The scale, from the tail of a tensor.
 * @param where what to name in an error: file and tensor
 * @param at byte of the file at which the tail lies, for the error
 * @throws GgufError if it is not a finite number above 0
 */
export function readScale(type: string, tail: Uint8Array, where: string, at?: number): number {
  const scale = new DataView(tail.buffer, tail.byteOffset, tail.length).getFloat32(0, true);
  if (scale > 0 && scale < Infinity) return scale;
  throw new GgufError(`${where}: scale ${scale}, expected a finite number above 0 (${type})`, at);
}

/** The scale, as the only one of a tensor, from the tail of its packed bytes. Throws as readScale does. */
export function tailScale(type: string, packed: Uint8Array, where: string): Float32Array {
  return Float32Array.of(readScale(type, packed.subarray(packed.length - TAIL_BYTES), where));
}

/**
 * Writes the tensor's scale into the tail of its packed bytes.
 * @throws GgufError on several scales, or one that is not finite and above 0
 */
export function putTailScale(type: string, packed: Uint8Array, scales: Float32Array): void {
  if (scales.length !== 1) throw new GgufError(`${scales.length} scales, expected one for the tensor (${type})`);
  const [scale] = scales;
  if (!(scale > 0 && scale < Infinity)) {
    throw new GgufError(`scale ${scale}, expected a finite f32 above 0 (${type})`);
  }
  new DataView(packed.buffer).setFloat32(packed.length - TAIL_BYTES, scale, true);
}

/**
 * The scales of all blocks.
 * @throws GgufError on one that is infinite or NaN
 */
export function blockScales(blocks: Blocks, packed: Uint8Array, where: string): Float32Array {
  checkScales(blocks, packed, 0, where);
  return Float32Array.from({ length: packed.length / blocks.bytes }, (_, i) =>
    scaleOf(blocks, packed, i * blocks.bytes),
  );
}

/**
 * Writes the scales of all blocks, each rounded to the nearest f16; a single scale goes to every block.
 * @throws GgufError on a number of scales that is neither, and on a scale that is infinite, NaN, or 0 only when rounded
 */
export function putBlockScales(blocks: Blocks, packed: Uint8Array, scales: Float32Array): void {
  const { type, bytes, scaleAt } = blocks;
  const count = packed.length / bytes;
  if (scales.length !== 1 && scales.length !== count) {
    throw new GgufError(`${scales.length} scales, expected 1 or ${count} (${type})`);
  }
  for (let block = 0; block < count; block++) {
    const scale = scales[scales.length === 1 ? 0 : block];
    const bits = f16Bits(scale);
    if ((bits & 0x7c00) === 0x7c00 || ((bits & 0x7fff) === 0 && scale !== 0)) {
      throw new GgufError(`block ${block}: scale ${scale}, expected what an f16 holds, 2^-24 to 65504 or 0 (${type})`);
    }
    packed[block * bytes + scaleAt] = bits & 255;
    packed[block * bytes + scaleAt + 1] = bits >> 8;
  }
}

/**
 * Checks the weights that are to be packed.
 * @throws GgufError on a number of weights other than dims ask for, rows that are no multiple, and weights beyond -1, 0, 1
 */
export function checkWeights(type: string, weights: Int8Array, dims: readonly number[], rowMultiple: number): void {
  if (weights.length !== weightsOf(dims)) {
    throw new GgufError(`${weights.length} weights, expected those of [${dims.join(', ')}] (${type})`);
  }
  if (dims[0] % rowMultiple !== 0) {
    throw new GgufError(`row length ${dims[0]}, expected a multiple of ${rowMultiple} (${type})`);
  }
  const words = wordsOf(weights);
  let word = 0;
  while (word < words.length && !isWrong(words[word])) word++;
  let i = 4 * word;
  while (i < weights.length && weights[i] >= -1 && weights[i] <= 1) i++;
  if (i < weights.length) throw new GgufError(`weight ${i} is ${weights[i]}, expected -1, 0 or 1 (${type})`);
}

/** Whether one of four int8 is none of -1, 0 and 1: bits 7 to 1 must be equal, and bit 0 set where they are. */
function isWrong(word: number): boolean {
  const change = word ^ (word >>> 1);
  return ((change & 0x7e7e7e7e) | (change & (word >>> 1) & 0x01010101)) !== 0;
}

/** Bytes four at a time; a rest of up to three is left out. */
export function wordsOf(bytes: Uint8Array | Int8Array): Int32Array {
  const { buffer, byteOffset } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Int32Array(buffer, byteOffset, bytes.length >> 2);
}

/** Four weights -> their codes w + 1: an addition in each byte, without a carry to the next. */
export function codesOf(weights: number): number {
  return ((weights & 0x7f7f7f7f) + 0x01010101) ^ (weights & 0x80808080);
}

/** Four codes -> their weights. */
export function weightsOfCodes(codes: number): number {
  return ((codes | 0x80808080) - 0x01010101) ^ 0x80808080;
}

/** scale * w in row order. Exact. */
export function scaled({ weights, scales }: Ternary): Float32Array {
  const values = new Float32Array(weights.length);
  const width = weights.length / scales.length;
  for (let i = 0, block = 0; i < values.length; block++) {
    const scale = scales[block];
    for (const end = i + width; i < end; i++) values[i] = weights[i] * scale;
  }
  return values;
}

/** What is thrown for a code 3 of two bits. */
export function code3(type: string, index: number, dims: readonly number[], where: string): GgufError {
  const place = `row ${Math.floor(index / dims[0])}, column ${index % dims[0]}`;
  return new GgufError(`${where}: ${place}: code 3, expected 0, 1 or 2 (${type})`);
}

/** "M 256, K 512, BM 128, BK 96, bm 32" of a matrix in tiles, for errors. */
export function tileText(dims: readonly number[], { rows, cols, sub }: Tiles): string {
  return `M ${rowsOf(dims)}, K ${dims[0]}, BM ${rows}, BK ${cols}, bm ${sub}`;
}

/**
 * The tiles of a matrix, which must be given.
 * @throws GgufError if they are not, or not as whole numbers above 0
 */
export function requireTiles(type: string, tiles: Tiles | undefined, dims: readonly number[], where: string): Tiles {
  if (tiles === undefined) {
    throw new GgufError(`${where}: tile parameters BM, BK and bm of [${dims.join(', ')}] not given (${type})`);
  }
  if ([tiles.rows, tiles.cols, tiles.sub].every((n) => Number.isSafeInteger(n) && n > 0)) return tiles;
  throw new GgufError(`${where}: ${tileText(dims, tiles)}: expected whole numbers above 0 (${type})`);
}

/** What is thrown for an index that stands for no weights. */
export function wrongIndex(
  type: string,
  [row, column, index, most]: readonly [row: number, column: number, index: number, most: number],
  dims: readonly number[],
  tiles: Tiles,
  where: string,
): GgufError {
  const what = `${where}: row ${row}, column ${column}: index ${index}, expected at most ${most}`;
  const why = `the tile parameters do not fit the file, or its data is broken`;
  return new GgufError(`${what}: ${why} (${type}, ${tileText(dims, tiles)})`);
}
