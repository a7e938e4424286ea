import { GgufError } from '../error.ts';
import { f16Bits, f16Value } from './f16.ts';

/** A layout of blocks that lie within a row, each with one f16 scale. */
export interface Blocks {
  /** Name of the type. */
  readonly type: string;
  readonly weights: number;
  readonly bytes: number;
  /** Byte of a block at which its scale lies; even, as `bytes` is. */
  readonly scaleAt: number;
}

/** Bytes of a tensor of dims (ne0 first). */
export function blocksBytes({ weights, bytes }: Blocks, dims: readonly number[]): number {
  return (dims.reduce((a, b) => a * b, 1) / weights) * bytes;
}

/** Scale of the block that starts at byte `at`. */
export function scaleOf({ scaleAt }: Blocks, packed: Uint8Array, at: number): number {
  return f16Value(packed[at + scaleAt] | (packed[at + scaleAt + 1] << 8));
}

/**
 * Checks the scales in a piece of a tensor: its bytes from `at` on. `at` is even, as the piece's length is, so that no piece
 * ends inside a scale.
 * @param where what to name in an error: file and tensor
 * @param fileAt byte of the file at which the tensor lies, for the error
 * @throws GgufError on a scale that is infinite or NaN
 */
export function checkScales(blocks: Blocks, piece: Uint8Array, at: number, where: string, fileAt?: number): void {
  const { type, bytes, scaleAt } = blocks;
  const first = Math.ceil((at - scaleAt) / bytes);
  for (let i = first * bytes + scaleAt - at; i < piece.length; i += bytes) {
    if ((piece[i + 1] & 0x7c) !== 0x7c) continue;
    const block = (at + i - scaleAt) / bytes;
    const scale = scaleOf(blocks, piece, i - scaleAt);
    const message = `${where}: block ${block}: scale ${scale}, expected a finite number (${type})`;
    throw new GgufError(message, fileAt === undefined ? undefined : fileAt + at + i);
  }
}

/** Byte of the first scale below 0 in a piece of a tensor, its bytes from `at` on, as in checkScales; else -1. */
export function negativeScale({ bytes, scaleAt }: Blocks, piece: Uint8Array, at: number): number {
  const first = Math.ceil((at - scaleAt) / bytes);
  for (let i = first * bytes + scaleAt - at; i < piece.length; i += bytes) if (piece[i + 1] > 0x80) return i;
  return -1;
}

/**
 * Checks what is to be packed.
 * @throws GgufError on a length that is not whole blocks, and on a weight that is infinite or NaN
 */
export function checkWeights({ type, weights }: Blocks, values: Float32Array): void {
  if (values.length % weights !== 0) {
    throw new GgufError(`${values.length} weights, expected a multiple of ${weights} (${type})`);
  }
  let i = 0;
  while (i < values.length && Math.abs(values[i]) < Infinity) i++;
  if (i < values.length) throw new GgufError(`weight ${i} is ${values[i]}, expected a finite number (${type})`);
}

/**
 * Writes the least f16 that is not below `scale` into the block at byte `at`, and returns it. Rounded up, so that the largest
 * weight, divided by it, stays within the range of the codes.
 * @throws GgufError on a scale above 65504, the largest f16
 */
export function putScale({ type, scaleAt }: Blocks, packed: Uint8Array, at: number, scale: number): number {
  let bits = f16Bits(scale);
  if (f16Value(bits) < scale) bits++;
  const rounded = f16Value(bits);
  if (rounded === Infinity) throw new GgufError(`scale ${scale}, expected at most 65504 (${type})`);
  packed[at + scaleAt] = bits & 255;
  packed[at + scaleAt + 1] = bits >> 8;
  return rounded;
}
