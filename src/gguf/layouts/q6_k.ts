// Q6_K: six bits a weight, an int8 scale for each 16 and an f16 scale for each 256; weight = d * sc * q, q in -32 .. 31. A
// row is ne0 / 256 blocks, one after the other.
//
//   byte   0         128      192             208     210
//          | ql[128] | qh[64] | int8 sc[16]   | f16 d |
//
// A weight's code is q + 32: four low bits in ql, two high bits in qh. A block is two halves h = 0, 1 of 128 weights, which
// take ql[64h ..] and qh[32h ..]; of each half, for l = 0..31:
//
//   bit           7      6 5      4 3      2 1      0
//   qh[32h + l]   | w[96+l]| w[64+l]| w[32+l]| w[l]   |      high bits
//   ql[64h + l]   | w[64 + l]       | w[l]            |      low bits
//   ql[64h+32+l]  | w[96 + l]       | w[32 + l]       |
//
// sc[i] belongs to the weights 16i .. 16i + 15 of the block. The product is exact in f32, in any order: 11 bits of d, 7 of
// sc and 5 of q fit its 24.
import { type Blocks, blocksBytes, checkScales, checkWeights, putScale, scaleOf } from './blocks.ts';

/** Type id in the file. */
export const id = 14;
export const blocks: Blocks = { type: 'Q6_K', weights: 256, bytes: 210, scaleAt: 208 };
/** Row length must be a multiple of this. */
export const rowMultiple: number = blocks.weights;

const QH_AT = 128;
const SC_AT = 192;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return blocksBytes(blocks, dims);
}

/**
 * packed -> values, in file order; exact.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on a scale d that is infinite or NaN
 */
export function decode(packed: Uint8Array, _dims: readonly number[], where: string): Float32Array {
  checkScales(blocks, packed, 0, where);
  const values = new Float32Array((packed.length / 210) * 256);
  const scales = new Float32Array(16);
  for (let at = 0, to = 0; at < packed.length; at += 210, to += 256) {
    const d = scaleOf(blocks, packed, at);
    for (let i = 0; i < 16; i++) scales[i] = d * ((packed[at + SC_AT + i] << 24) >> 24);
    for (let h = 0; h < 2; h++) {
      const half = to + 128 * h;
      const sc = 8 * h;
      for (let l = 0; l < 32; l++) {
        const [low, next] = [packed[at + 64 * h + l], packed[at + 64 * h + 32 + l]];
        const high = packed[at + QH_AT + 32 * h + l];
        const group = sc + (l >> 4);
        values[half + l] = scales[group] * (((low & 15) | ((high & 3) << 4)) - 32);
        values[half + 32 + l] = scales[group + 2] * (((next & 15) | (((high >> 2) & 3) << 4)) - 32);
        values[half + 64 + l] = scales[group + 4] * (((low >> 4) | (((high >> 4) & 3) << 4)) - 32);
        values[half + 96 + l] = scales[group + 6] * (((next >> 4) | ((high >> 6) << 4)) - 32);
      }
    }
  }
  return values;
}

/**
 * Each 16 weights get a step of their largest |weight| / 31. d = the largest step / 127, rounded up to an f16; sc = step / d,
 * rounded up, so that no q leaves its range; q = weight / (d * sc), rounded to the nearest, ties up. So a weight is off by at
 * most d * sc / 2. (ggml searches for steps with a smaller squared error, which may be negative.)
 * @throws GgufError on a length that is no multiple of 256, and on weights that are not finite or too large for the scale
 */
export function encode(values: Float32Array): Uint8Array<ArrayBuffer> {
  checkWeights(blocks, values);
  const packed = new Uint8Array(sizeBytes([values.length]));
  const steps = new Float64Array(16);
  const codes = new Uint8Array(256);
  for (let from = 0, at = 0; from < values.length; from += 256, at += 210) {
    let largestStep = 0;
    for (let g = 0; g < 16; g++) {
      let largest = 0;
      for (let i = from + 16 * g; i < from + 16 * g + 16; i++) largest = Math.max(largest, Math.abs(values[i]));
      steps[g] = largest / 31;
      largestStep = Math.max(largestStep, steps[g]);
    }
    const d = putScale(blocks, packed, at, largestStep / 127);
    for (let g = 0; g < 16; g++) {
      const sc = d === 0 ? 0 : Math.min(127, Math.ceil(steps[g] / d));
      packed[at + SC_AT + g] = sc;
      const step = sc === 0 ? Infinity : d * sc;
      for (let i = 16 * g; i < 16 * g + 16; i++) codes[i] = Math.round(values[from + i] / step) + 32;
    }
    for (let h = 0; h < 2; h++) {
      for (let l = 0, c = 128 * h; l < 32; l++, c++) {
        const [first, second, third, fourth] = [codes[c], codes[c + 32], codes[c + 64], codes[c + 96]];
        packed[at + 64 * h + l] = (first & 15) | (third << 4);
        packed[at + 64 * h + 32 + l] = (second & 15) | (fourth << 4);
        packed[at + QH_AT + 32 * h + l] =
          (first >> 4) | ((second >> 4) << 2) | ((third >> 4) << 4) | ((fourth >> 4) << 6);
      }
    }
  }
  return packed;
}
