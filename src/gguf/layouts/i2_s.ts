// I2_S: ternary weights in two bits each and one f32 scale for the whole tensor; weight = scale * w, w in {-1, 0, 1}.
//
// The weights in row order (K = ne0 fastest) are cut into blocks of 128 = 32 bytes; K % 128 == 0, so a block never
// crosses a row. A weight's code is w + 1 (0, 1, 2; code 3 is an error). Byte p of a block, p = 0..31:
//
//   bit    7      6 5      4 3      2 1      0
//          | w[p]   | w[32+p]| w[64+p]| w[96+p]|        the first quarter sits in the top bits
//
//   byte   0                         n/4                  n/4 + 32      n = number of weights
//          | blocks of 32 bytes ...  | f32 scale | 28 unused |
//
// Released ARM builds of bitnet.cpp compute on blocks of 64 weights in 16 bytes. That form has the same size and no
// mark; published files are the one drawn here.
import { GgufError } from '../error.ts';

/** Type id in the file. */
export const id = 36;
/** Row length must be a multiple of this. */
export const rowMultiple = 128;

/** Bytes behind the codes, of which the first four are the scale. */
export const TAIL_BYTES = 32;

/** Bytes of a tensor of dims (ne0 first), the tail with the scale included. */
export function sizeBytes(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1) / 4 + TAIL_BYTES;
}

/** Index of the first byte of blocks that holds a code 3, else -1. */
export function checkCodes(blocks: Uint8Array): number {
  let i = 0;
  if (blocks.byteOffset % 4 === 0) {
    const words = new Uint32Array(blocks.buffer, blocks.byteOffset, blocks.length >> 2);
    while (i < words.length && (words[i] & (words[i] >>> 1) & 0x55555555) === 0) i++;
    i *= 4;
  }
  while (i < blocks.length && (blocks[i] & (blocks[i] >> 1) & 0x55) === 0) i++;
  return i < blocks.length ? i : -1;
}

/**
 * The scale, from the tail of a tensor.
 * @param where what to name in an error: file and tensor
 * @param at byte of the file at which the tail lies, for the error
 * @throws GgufError if it is not a finite number above 0
 */
export function readScale(tail: Uint8Array, where: string, at?: number): number {
  const scale = new DataView(tail.buffer, tail.byteOffset, tail.length).getFloat32(0, true);
  if (scale > 0 && scale < Infinity) return scale;
  throw new GgufError(`${where}: scale ${scale}, expected a finite number above 0 (I2_S)`, at);
}

/**
 * packed -> w in {-1, 0, 1} in row order, and the tensor's scale.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on code 3, with its row and column, and on a scale that is not a finite number above 0
 */
export function unpack(
  packed: Uint8Array,
  dims: readonly number[],
  where: string,
): { weights: Int8Array; scale: number } {
  const blocks = packed.subarray(0, packed.length - TAIL_BYTES);
  const bad = checkCodes(blocks);
  if (bad >= 0) {
    const quarter = [6, 4, 2, 0].findIndex((shift) => ((blocks[bad] >> shift) & 3) === 3);
    const index = (bad >> 5) * 128 + quarter * 32 + (bad & 31);
    const row = Math.floor(index / dims[0]);
    throw new GgufError(`${where}: row ${row}, column ${index % dims[0]}: code 3, expected 0, 1 or 2 (I2_S)`);
  }
  const scale = readScale(packed.subarray(blocks.length), where);
  const weights = new Int8Array(blocks.length * 4);
  for (let at = 0, to = 0; to < weights.length; at += 32, to += 128) {
    for (let p = 0; p < 32; p++) {
      const byte = blocks[at + p];
      weights[to + p] = (byte >> 6) - 1;
      weights[to + 32 + p] = ((byte >> 4) & 3) - 1;
      weights[to + 64 + p] = ((byte >> 2) & 3) - 1;
      weights[to + 96 + p] = (byte & 3) - 1;
    }
  }
  return { weights, scale };
}

/**
 * packed -> scale * w in row order.
 * @throws GgufError as unpack does
 */
export function decode(packed: Uint8Array, dims: readonly number[], where: string): Float32Array {
  const { weights, scale } = unpack(packed, dims, where);
  const values = new Float32Array(weights.length);
  for (let i = 0; i < values.length; i++) values[i] = weights[i] * scale;
  return values;
}

/**
 * w in {-1, 0, 1} in row order, whole blocks of 128, and the tensor's scale -> packed.
 * @throws GgufError on a length that is no multiple of 128, another weight, or a scale that is not finite and above 0
 */
export function encode(weights: Int8Array, scale: number): Uint8Array {
  if (weights.length % 128 !== 0) {
    throw new GgufError(`${weights.length} weights, expected a multiple of 128 (I2_S)`);
  }
  const wrong = weights.findIndex((w) => w < -1 || w > 1);
  if (wrong >= 0) throw new GgufError(`weight ${wrong} is ${weights[wrong]}, expected -1, 0 or 1 (I2_S)`);
  if (!(Math.fround(scale) > 0 && Math.fround(scale) < Infinity)) {
    throw new GgufError(`scale ${scale}, expected a finite f32 above 0 (I2_S)`);
  }
  const packed = new Uint8Array(weights.length / 4 + TAIL_BYTES);
  for (let from = 0, at = 0; from < weights.length; from += 128, at += 32) {
    for (let p = 0; p < 32; p++) {
      packed[at + p] =
        ((weights[from + p] + 1) << 6) |
        ((weights[from + 32 + p] + 1) << 4) |
        ((weights[from + 64 + p] + 1) << 2) |
        (weights[from + 96 + p] + 1);
    }
  }
  new DataView(packed.buffer).setFloat32(weights.length / 4, scale, true);
  return packed;
}
