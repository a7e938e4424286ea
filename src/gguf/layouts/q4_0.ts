// Q4_0: four bits a weight, and an f16 scale for each 32; weight = d * (code - 8). A row is ne0 / 32 blocks, one after the
// other. Byte 2 + j of a block, j = 0..15:
//
//   bit    7       4 3     0
//          | w[16+j] | w[j]  |
//
//   byte   0       2              18
//          | f16 d | codes        |
//
// The product is exact in f32: 11 bits of d and 4 of the code fit its 24.
import { type Blocks, blocksBytes, checkScales, checkWeights, putScale, scaleOf } from './blocks.ts';

/** Type id in the file. */
export const id = 2;
export const blocks: Blocks = { type: 'Q4_0', weights: 32, bytes: 18, scaleAt: 0 };
/** Row length must be a multiple of this. */
export const rowMultiple: number = blocks.weights;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return blocksBytes(blocks, dims);
}

/**
 * packed -> values, in file order; exact.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on a scale that is infinite or NaN
 */
export function decode(packed: Uint8Array, _dims: readonly number[], where: string): Float32Array {
  checkScales(blocks, packed, 0, where);
  const values = new Float32Array((packed.length / 18) * 32);
  for (let at = 0, to = 0; at < packed.length; at += 18, to += 32) {
    const d = scaleOf(blocks, packed, at);
    for (let j = 0; j < 16; j++) {
      const byte = packed[at + 2 + j];
      values[to + j] = d * ((byte & 15) - 8);
      values[to + 16 + j] = d * ((byte >> 4) - 8);
    }
  }
  return values;
}

/**
 * d = the largest |weight| of a block / 7, rounded up to an f16; code = weight / d + 8, rounded to the nearest, ties up. So a
 * weight is off by at most d / 2. (ggml puts the largest at code 0, with steps an eighth smaller; then a weight as large on
 * the other side is off by a whole step.)
 * @throws GgufError on a length that is no multiple of 32, and on weights that are not finite or too large for the scale
 */
export function encode(values: Float32Array): Uint8Array<ArrayBuffer> {
  checkWeights(blocks, values);
  const packed = new Uint8Array(sizeBytes([values.length]));
  for (let from = 0, at = 0; from < values.length; from += 32, at += 18) {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[from + i]));
    const d = putScale(blocks, packed, at, largest / 7);
    for (let j = 0; j < 16; j++) {
      const low = d === 0 ? 0 : Math.round(values[from + j] / d);
      const high = d === 0 ? 0 : Math.round(values[from + 16 + j] / d);
      packed[at + 2 + j] = (low + 8) | ((high + 8) << 4);
    }
  }
  return packed;
}
