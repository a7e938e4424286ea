import type { GgufHeader } from '../gguf/header.ts';
import { TAIL_BYTES } from '../gguf/layouts/ternary.ts';
import type { Source } from '../gguf/source.ts';

/** How the weights of an I2_S tensor are spread. */
export interface TernaryShare {
  weights: number;
  minus: number;
  zero: number;
  plus: number;
  /** Codes that stand for no weight. */
  wrong: number;
  scale: number;
}

const PIECE_BYTES = 4 << 20;

/** Counts the weights of every I2_S tensor, by name; reads the file in pieces. */
export async function countTernary(
  source: Source,
  header: GgufHeader,
  onProgress: (share: number) => void,
): Promise<Map<string, TernaryShare>> {
  const tensors = [...header.tensors.values()].filter((t) => t.type === 'I2_S');
  const total = tensors.reduce((sum, t) => sum + t.bytes, 0);
  const shares = new Map<string, TernaryShare>();
  const piece = new Uint8Array(PIECE_BYTES);
  const histogram = new Float64Array(256);
  let done = 0;
  for (const { name, at, bytes } of tensors) {
    histogram.fill(0);
    const codes = bytes - TAIL_BYTES;
    for (let from = 0; from < codes; from += PIECE_BYTES) {
      const part = piece.subarray(0, Math.min(PIECE_BYTES, codes - from));
      await source.read(at + from, part);
      for (let i = 0; i < part.length; i++) histogram[part[i]]++;
      done += part.length;
      onProgress(done / total);
    }
    const tail = new DataView(new ArrayBuffer(4));
    await source.read(at + codes, new Uint8Array(tail.buffer));
    const counts = [0, 0, 0, 0];
    for (let byte = 0; byte < 256; byte++) {
      for (const shift of [6, 4, 2, 0]) counts[(byte >> shift) & 3] += histogram[byte];
    }
    const [minus, zero, plus, wrong] = counts;
    shares.set(name, { weights: 4 * codes, minus, zero, plus, wrong, scale: tail.getFloat32(0, true) });
  }
  return shares;
}
