import type { Matrix } from '../backend/backend.ts';

/** Row of byte p = 0..31 of TL2's indices: eights of rows in the order 0, 2, 1, 3. */
const tl2Row = (p: number): number => [0, 16, 8, 24][p >> 3] + (p & 7);

/**
 * Weights -1, 0, 1 in row order, and the scale, of a matrix in TL1 or TL2 (drawn in src/gguf/layouts/).
 *
 * @returns also `bad`, the first byte with an index that codes nothing, or of padding that is not 0; else 2^32 - 1
 */
export function unpackTl(
  { type, rows, cols, tiles }: Omit<Matrix, 'tensor'>,
  w: Uint8Array,
): { weights: Int8Array; scale: number; bad: number } {
  if (tiles === undefined) throw new Error(`a matrix of ${type} without tiles`);
  const { rows: bm, cols: bk, sub } = tiles;
  const weights = new Int8Array(rows * cols);
  let at = 0;
  let bad = 0xffff_ffff;
  /** The nibbles of the next byte, which may be at most `most`. */
  const nibbles = (most: number): [number, number] => {
    const byte = w[at];
    if (byte >> 4 > most || (byte & 15) > most) bad = Math.min(bad, at);
    at++;
    return [byte >> 4, byte & 15];
  };
  const putPair = (index: number, row: number, col: number): void => {
    weights[row * cols + col] = Math.floor(index / 3) - 1;
    weights[row * cols + col + 1] = (index % 3) - 1;
  };

  if (type === 'tl1') {
    const by = 256 / sub;
    for (let mb = 0; mb < rows; mb += bm)
      for (let kb = 0; kb < cols; kb += bk)
        for (let s = mb; s < mb + bm; s += sub)
          for (let kk = kb; kk < kb + bk; kk += by)
            for (let r16 = s; r16 < s + sub; r16 += 16)
              for (let c = kk; c < kk + by; c += 4)
                for (let lane = r16; lane < r16 + 16; lane++) {
                  const [first, second] = nibbles(8);
                  putPair(first, lane, c);
                  putPair(second, lane, c + 2);
                }
    return { weights, scale: scaleAt(w, at), bad };
  }

  const triples = Math.floor(cols / bk) * bk;
  const put = (value: number, row: number, col: number): void => {
    const u = value + 13;
    weights[row * cols + col] = Math.floor(u / 9) - 1;
    weights[row * cols + col + 1] = (Math.floor(u / 3) % 3) - 1;
    weights[row * cols + col + 2] = (u % 3) - 1;
  };
  for (let mb = 0; mb < rows; mb += bm)
    for (let kb = 0; kb < triples; kb += bk)
      for (let s = mb; s < mb + bm; s += 32)
        for (let col = kb; col < kb + bk; col += 6)
          for (let p = 0; p < 32; p++) {
            const [first, second] = nibbles(13);
            put(first, s + tl2Row(p), col);
            put(second, s + tl2Row(p), col + 3);
          }
  for (let mb = 0; mb < rows; mb += bm)
    for (let kb = 0; kb < triples; kb += bk)
      for (let s = mb; s < mb + bm; s += 32)
        for (let g8 = kb; g8 < kb + bk; g8 += 24)
          for (let word = 0; word < 16; word++, at += 2) {
            const bits = w[at] | (w[at + 1] << 8);
            for (let g = 0; g < 8; g++)
              for (let h = 0; h < 2; h++) {
                if (((bits >> (15 - 2 * g - h)) & 1) === 0) continue;
                const first = (s + 16 * h + word) * cols + g8 + 3 * g;
                for (let i = first; i < first + 3; i++) weights[i] = 0 - weights[i];
              }
          }
  for (let mb = 0; mb < rows; mb += bm)
    for (let k32 = triples; k32 < cols; k32 += 32)
      for (let s = mb; s < mb + bm; s += 32)
        for (let col = k32; col < k32 + 32; col += 4)
          for (let p = 0; p < 32; p++) {
            const [first, second] = nibbles(8);
            putPair(first, s + tl2Row(p), col);
            putPair(second, s + tl2Row(p), col + 2);
          }
  const tail = Math.ceil((Math.floor((Math.floor(((cols - 256) * rows) / 3) * 5) / 8) + 64 * rows) / 32) * 32;
  while (at < tail) nibbles(0);
  return { weights, scale: scaleAt(w, tail), bad };
}

const scaleAt = (w: Uint8Array, at: number): number => new DataView(w.buffer, w.byteOffset).getFloat32(at, true);

/** The same as I2_S (bit_linear.ts), rows padded with weights 0 to whole blocks of 128. */
export function repackTl(m: Omit<Matrix, 'tensor'>, w: Uint8Array): Uint8Array {
  const { weights, scale } = unpackTl(m, w);
  const rowBytes = 32 * Math.ceil(m.cols / 128);
  const to = new Uint8Array(m.rows * rowBytes + 32);
  for (let row = 0; row < m.rows; row++) {
    for (let k = 0; k < 4 * rowBytes; k++) {
      const code = k < m.cols ? weights[row * m.cols + k] + 1 : 1;
      to[row * rowBytes + 32 * (k >> 7) + (k & 31)] |= code << (6 - 2 * ((k >> 5) & 3));
    }
  }
  new DataView(to.buffer).setFloat32(m.rows * rowBytes, scale, true);
  return to;
}
