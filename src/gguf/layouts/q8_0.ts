// Q8_0: eight bits a weight, and an f16 scale for each 32; weight = d * q. A row is ne0 / 32 blocks, one after the other.
//
//   byte   0       2              3              34
//          | f16 d | int8 q[0]    | q[1] ...     |
//
// The product is exact in f32: 11 bits of d and 7 of q fit its 24.
import { type Blocks, blocksBytes, checkScales, checkWeights, putScale, scaleOf } from './blocks.ts';

/** Type id in the file. */
export const id = 8;
export const blocks: Blocks = { type: 'Q8_0', weights: 32, bytes: 34, scaleAt: 0 };
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
  const q = new Int8Array(packed.buffer, packed.byteOffset, packed.length);
  const values = new Float32Array((packed.length / 34) * 32);
  for (let at = 0, to = 0; at < packed.length; at += 34, to += 32) {
    const d = scaleOf(blocks, packed, at);
    for (let i = 0; i < 32; i++) values[to + i] = d * q[at + 2 + i];
  }
  return values;
}

/**
 * d = the largest |weight| of a block / 127, rounded up to an f16; q = weight / d, rounded to the nearest, ties up. So a
 * weight is off by at most d / 2.
 * @throws GgufError on a length that is no multiple of 32, and on weights that are not finite or too large for the scale
 */
export function encode(values: Float32Array): Uint8Array<ArrayBuffer> {
  checkWeights(blocks, values);
  const packed = new Uint8Array(sizeBytes([values.length]));
  for (let from = 0, at = 0; from < values.length; from += 32, at += 34) {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[from + i]));
    const d = putScale(blocks, packed, at, largest / 127);
    if (d === 0) continue;
    for (let i = 0; i < 32; i++) packed[at + 2 + i] = Math.round(values[from + i] / d);
  }
  return packed;
}
