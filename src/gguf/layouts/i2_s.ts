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
import {
  checkWeights,
  code3,
  codesOf,
  putTailScale,
  scaled,
  TAIL_BYTES,
  type Ternary,
  tailScale,
  weightsOf,
  weightsOfCodes,
  wordsOf,
} from './ternary.ts';

/** Type id in the file. */
export const id = 36;
/** Row length must be a multiple of this. */
export const rowMultiple = 128;

/** Bytes of a tensor of dims (ne0 first), the tail with the scale included. */
export function sizeBytes(dims: readonly number[]): number {
  return weightsOf(dims) / 4 + TAIL_BYTES;
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
 * packed -> w in {-1, 0, 1} in row order, and the tensor's scale.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on code 3, with its row and column, and on a scale that is not a finite number above 0
 */
export function unpack(packed: Uint8Array, dims: readonly number[], where: string): Ternary {
  const blocks = packed.subarray(0, packed.length - TAIL_BYTES);
  const bad = checkCodes(blocks);
  if (bad >= 0) {
    const quarter = [6, 4, 2, 0].findIndex((shift) => ((blocks[bad] >> shift) & 3) === 3);
    throw code3('I2_S', (bad >> 5) * 128 + quarter * 32 + (bad & 31), dims, where);
  }
  const scales = tailScale('I2_S', packed, where);
  const weights = new Int8Array(blocks.length * 4);
  const [from, into] = [wordsOf(blocks), wordsOf(weights)];
  for (let at = 0, to = 0; at < from.length; at += 8, to += 32) {
    for (let p = 0; p < 8; p++) {
      const codes = from[at + p]; // of four bytes
      into[to + p] = weightsOfCodes((codes >> 6) & 0x03030303);
      into[to + 8 + p] = weightsOfCodes((codes >> 4) & 0x03030303);
      into[to + 16 + p] = weightsOfCodes((codes >> 2) & 0x03030303);
      into[to + 24 + p] = weightsOfCodes(codes & 0x03030303);
    }
  }
  return { weights, scales };
}

/**
 * packed -> scale * w in row order.
 * @throws GgufError as unpack does
 */
export function decode(packed: Uint8Array, dims: readonly number[], where: string): Float32Array {
  return scaled(unpack(packed, dims, where));
}

/**
 * w in {-1, 0, 1} in row order and the tensor's scale -> packed.
 * @throws GgufError on rows that are not whole blocks, another weight, or a scale that is not finite and above 0
 */
export function encode({ weights, scales }: Ternary, dims: readonly number[]): Uint8Array<ArrayBuffer> {
  checkWeights('I2_S', weights, dims, rowMultiple);
  const packed = new Uint8Array(sizeBytes(dims));
  putTailScale('I2_S', packed, scales);
  const [words, into] = [wordsOf(weights), wordsOf(packed)];
  for (let from = 0, at = 0; from < words.length; from += 32, at += 8) {
    for (let p = 0; p < 8; p++) {
      into[at + p] =
        (codesOf(words[from + p]) << 6) |
        (codesOf(words[from + 8 + p]) << 4) |
        (codesOf(words[from + 16 + p]) << 2) |
        codesOf(words[from + 24 + p]);
    }
  }
  return packed;
}
