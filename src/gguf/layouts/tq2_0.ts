// TQ2_0: ternary weights in two bits each, and an f16 scale for each 256; weight = d * w, w in {-1, 0, 1}. A row is ne0 / 256
// blocks, one after the other.
//
//   byte   0       64      66
//          | codes | f16 d |
//
// A weight's code is w + 1 (0, 1, 2; code 3 is an error). A block is two halves h = 0, 1 of 128 weights, which take 32 bytes
// each. Byte 32h + p, p = 0..31, of w = the weights of the half:
//
//   bit    7      6 5      4 3      2 1      0
//          | w[96+p]| w[64+p]| w[32+p]| w[p]   |        the first quarter sits in the low bits, unlike in I2_S
import { type Blocks, blocksBytes } from './blocks.ts';
import { blockScales, checkWeights, code3, putBlockScales, scaled, type Ternary, weightsOf } from './ternary.ts';

/** Type id in the file. */
export const id = 35;
export const blocks: Blocks = { type: 'TQ2_0', weights: 256, bytes: 66, scaleAt: 64 };
/** Row length must be a multiple of this. */
export const rowMultiple: number = blocks.weights;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return blocksBytes(blocks, dims);
}

/**
 * packed -> w in {-1, 0, 1} in row order, and the scale of each block; it may be 0 or negative.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on code 3, with its row and column, and on a scale that is infinite or NaN
 */
export function unpack(packed: Uint8Array, dims: readonly number[], where: string): Ternary {
  const scales = blockScales(blocks, packed, where);
  const weights = new Int8Array(weightsOf(dims));
  for (let half = 0, to = 0; to < weights.length; half++, to += 128) {
    const at = 32 * half + 2 * (half >> 1);
    let bad = 0;
    for (let p = 0; p < 32; p++) {
      const byte = packed[at + p];
      bad |= byte & (byte >> 1) & 0x55;
      weights[to + p] = (byte & 3) - 1;
      weights[to + 32 + p] = ((byte >> 2) & 3) - 1;
      weights[to + 64 + p] = ((byte >> 4) & 3) - 1;
      weights[to + 96 + p] = (byte >> 6) - 1;
    }
    if (bad !== 0) throw code3('TQ2_0', weights.indexOf(2, to), dims, where);
  }
  return { weights, scales };
}

/**
 * packed -> d * w in row order.
 * @throws GgufError as unpack does
 */
export function decode(packed: Uint8Array, dims: readonly number[], where: string): Float32Array {
  return scaled(unpack(packed, dims, where));
}

/**
 * w in {-1, 0, 1} in row order and the scales, each rounded to the nearest f16 (one is taken for all blocks) -> packed.
 * @throws GgufError on rows that are not whole blocks, another weight, or a scale that no f16 holds
 */
export function encode({ weights, scales }: Ternary, dims: readonly number[]): Uint8Array<ArrayBuffer> {
  checkWeights('TQ2_0', weights, dims, rowMultiple);
  const packed = new Uint8Array(sizeBytes(dims));
  putBlockScales(blocks, packed, scales);
  for (let half = 0, from = 0; from < weights.length; half++, from += 128) {
    const at = 32 * half + 2 * (half >> 1);
    for (let p = 0; p < 32; p++) {
      packed[at + p] =
        (weights[from + p] + 1) |
        ((weights[from + 32 + p] + 1) << 2) |
        ((weights[from + 64 + p] + 1) << 4) |
        ((weights[from + 96 + p] + 1) << 6);
    }
  }
  return packed;
}
