// TQ1_0: ternary weights, five to a byte, and an f16 scale for each 256; weight = d * w, w in {-1, 0, 1}. A row is ne0 / 256
// blocks, one after the other.
//
//   byte   0        32       48       52      54
//          | qs[32] | qs[16] | qh[4]  | f16 d |
//
// A trit is w + 1. A byte holds five as the number q = 81 t[0] + 27 t[1] + 9 t[2] + 3 t[3] + t[4], stored as q * 256 / 243,
// rounded up: a fixed-point fraction, from which times 3 shifts out one trit after the other. The trits of the bytes are the
// weights
//
//   byte          t[0]      t[1]      t[2]      t[3]      t[4]
//   m             m         32 + m    64 + m    96 + m    128 + m        m = 0..31
//   32 + m        160 + m   176 + m   192 + m   208 + m   224 + m        m = 0..15
//   48 + m        240 + m   244 + m   248 + m   252 + m   none: 0        m = 0..3
//
// Thirteen bytes (1, 20, 40, 60, 79, 99, 119, 138, 158, 178, 197, 217, 237) are no rounded q, nor in qh those with another
// fifth trit than 0. They decode to the trits that ggml reads in them; `checkTrits` finds them.
import { type Blocks, blocksBytes } from './blocks.ts';
import { blockScales, checkWeights, putBlockScales, scaled, type Ternary, weightsOf } from './ternary.ts';

/** Type id in the file. */
export const id = 34;
export const blocks: Blocks = { type: 'TQ1_0', weights: 256, bytes: 54, scaleAt: 52 };
/** Row length must be a multiple of this. */
export const rowMultiple: number = blocks.weights;

/** Byte of a block at which qh lies. */
export const QH_AT = 48;

/** q -> byte. */
const BYTES = Uint8Array.from({ length: 243 }, (_, q) => Math.ceil((q * 256) / 243));
/** byte -> t[0] in bits 1-0, t[1] in bits 3-2, ... */
export const TRITS: Uint16Array = Uint16Array.from({ length: 256 }, (_, byte) => {
  let trits = 0;
  for (let n = 0; n < 5; n++) trits |= ((((byte * 3 ** n) & 255) * 3) >> 8) << (2 * n);
  return trits;
});
/** Of each byte: 2 if qh may hold it, 1 if only qs may, 0 if it is no rounded q. */
const KINDS = new Uint8Array(256);
for (let q = 0; q < 243; q++) KINDS[BYTES[q]] = q % 3 === 0 ? 2 : 1;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return blocksBytes(blocks, dims);
}

/**
 * Index of the first byte in a piece of a tensor, its bytes from `at` on, that no five (in qh: four) trits encode to; else -1.
 * Such a file was not written by ggml's rule: whoever only reads it warns, who copies its weights refuses.
 */
export function checkTrits(piece: Uint8Array, at = 0): number {
  for (let i = 0, place = at % blocks.bytes; i < piece.length; i++, place++) {
    if (place === blocks.bytes) place = 0;
    if (place < blocks.scaleAt && KINDS[piece[i]] < (place < QH_AT ? 1 : 2)) return i;
  }
  return -1;
}

/**
 * packed -> w in {-1, 0, 1} in row order, and the scale of each block; it may be 0 or negative. Any byte decodes.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on a scale that is infinite or NaN
 */
export function unpack(packed: Uint8Array, dims: readonly number[], where: string): Ternary {
  const scales = blockScales(blocks, packed, where);
  const weights = new Int8Array(weightsOf(dims));
  for (let at = 0, to = 0; to < weights.length; at += 54, to += 256) {
    for (let m = 0; m < 32; m++) {
      const trits = TRITS[packed[at + m]];
      weights[to + m] = (trits & 3) - 1;
      weights[to + 32 + m] = ((trits >> 2) & 3) - 1;
      weights[to + 64 + m] = ((trits >> 4) & 3) - 1;
      weights[to + 96 + m] = ((trits >> 6) & 3) - 1;
      weights[to + 128 + m] = (trits >> 8) - 1;
    }
    for (let m = 0; m < 16; m++) {
      const trits = TRITS[packed[at + 32 + m]];
      weights[to + 160 + m] = (trits & 3) - 1;
      weights[to + 176 + m] = ((trits >> 2) & 3) - 1;
      weights[to + 192 + m] = ((trits >> 4) & 3) - 1;
      weights[to + 208 + m] = ((trits >> 6) & 3) - 1;
      weights[to + 224 + m] = (trits >> 8) - 1;
    }
    for (let m = 0; m < 4; m++) {
      const trits = TRITS[packed[at + QH_AT + m]];
      weights[to + 240 + m] = (trits & 3) - 1;
      weights[to + 244 + m] = ((trits >> 2) & 3) - 1;
      weights[to + 248 + m] = ((trits >> 4) & 3) - 1;
      weights[to + 252 + m] = ((trits >> 6) & 3) - 1;
    }
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
export function encode({ weights: w, scales }: Ternary, dims: readonly number[]): Uint8Array<ArrayBuffer> {
  checkWeights('TQ1_0', w, dims, rowMultiple);
  const packed = new Uint8Array(sizeBytes(dims));
  putBlockScales(blocks, packed, scales);
  for (let from = 0, at = 0; from < w.length; from += 256, at += 54) {
    for (let m = 0, i = from; m < 32; m++, i++) {
      packed[at + m] = BYTES[121 + 81 * w[i] + 27 * w[i + 32] + 9 * w[i + 64] + 3 * w[i + 96] + w[i + 128]];
    }
    for (let m = 0, i = from + 160; m < 16; m++, i++) {
      packed[at + 32 + m] = BYTES[121 + 81 * w[i] + 27 * w[i + 16] + 9 * w[i + 32] + 3 * w[i + 48] + w[i + 64]];
    }
    for (let m = 0, i = from + 240; m < 4; m++, i++) {
      packed[at + QH_AT + m] = BYTES[120 + 81 * w[i] + 27 * w[i + 4] + 9 * w[i + 8] + 3 * w[i + 12]];
    }
  }
  return packed;
}
