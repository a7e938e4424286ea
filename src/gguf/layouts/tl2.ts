// TL2: ternary weights in triples of five bits, in tiles for table lookup on x86, and one f32 scale for the whole tensor;
// weight = scale * w, w in {-1, 0, 1}.
//
// Of the K columns the first K3 = K - K % BK are coded in triples, the other K2 in pairs. A triple is v = 9 w[0] + 3 w[1] +
// w[2], -13 .. 13: |v| is its index (above 13 is an error), v < 0 its sign, kept apart. (A sign on v = 0 changes nothing.) The
// index of a pair is 3 w[0] + w[1] + 4 (0 .. 8; above is an error).
//
//   byte   0          M K3 / 6   + M K3 / 24   + M K2 / 4      size - 32   size - 28   size
//          | indices  | signs    | pairs       | padding, 0    | f32 scale | 28 unused |
//
// The size takes K2 to be 256, whatever it is; it does not depend on BK. The matrix is cut into tiles of BM x BK (tiles.ts),
// which go down K first, a tile into strips of bm = 32 rows; the pairs are in tiles of BM x 32. The order, slowest to fastest:
//
//   indices   tile row M / BM   tile column K3 / BK   strip BM / 32   6 columns BK / 6     row: 32 bytes
//   signs     tile row M / BM   tile column K3 / BK   strip BM / 32   24 columns BK / 24   row: 16 words of 16 bits
//   pairs     tile row M / BM   tile column K2 / 32   strip BM / 32   4 columns 32 / 4     row: 32 bytes
//
//   bit       7           4 3           0
//   index     | triple 0    | triple 1    |
//   pair      | pair 0      | pair 1      |
//
// Byte p of 32 belongs to row P[p / 8] * 8 + p % 8 of the strip, P = 0, 2, 1, 3 (what AVX2 unpacks to). Word r of 16 holds the
// signs of the rows h = 0: r and h = 1: 16 + r, that of triple g = 0..7 in bit 15 - 2g - h.
//
// BM and BK stand nowhere in the tensor, and with other ones its rows and columns are shuffled.
import { GgufError } from '../error.ts';
import {
  checkWeights,
  putTailScale,
  requireTiles,
  rowsOf,
  scaled,
  TAIL_BYTES,
  type Ternary,
  type Tiles,
  tailScale,
  tileText,
  weightsOf,
  wrongIndex,
} from './ternary.ts';
import { MOST_PAIR, NO_QUAD, QUADS } from './tl1.ts';

/** Type id in the file. */
export const id = 39;
/** Row length must be a multiple of this: K3 and K2 are. */
export const rowMultiple = 32;
/** Row length must be at least this: the size is a formula that takes 256 columns of pairs for granted. */
export const leastRow = 256;

const STRIP = 32;
/** The largest index of a triple. */
export const MOST_TRIPLE = 13;
/** What `TRIPLES` holds for an index that stands for no triple; above the three weights. */
const NO_TRIPLE = 1 << 24;
/** index, and 16 for the sign -> the three weights as the low bytes of an i32. */
const TRIPLES = Int32Array.from({ length: 32 }, (_, i) => {
  if ((i & 15) > MOST_TRIPLE) return NO_TRIPLE;
  const u = (i & 15) + 13;
  const sign = i < 16 ? 1 : -1;
  const three = [Math.floor(u / 9), Math.floor(u / 3) % 3, u % 3];
  return three.reduce((word, trit, j) => word | (((sign * (trit - 1)) & 255) << (8 * j)), 0);
});

/** Bytes of a tensor of dims (ne0 first), the tail with the scale included. */
export function sizeBytes(dims: readonly number[]): number {
  const m = rowsOf(dims);
  const triples = Math.floor((Math.floor(((dims[0] - 256) * m) / 3) * 5) / 8);
  return Math.ceil((triples + 64 * m) / 32) * 32 + TAIL_BYTES;
}

/**
 * The tiles, if a matrix of dims can be cut into them.
 * @throws GgufError if not, naming M, K, BM, BK and bm
 */
export function checkTiles(tiles: Tiles | undefined, dims: readonly number[], where: string): Tiles {
  const given = requireTiles('TL2', tiles, dims, where);
  const { rows, cols, sub } = given;
  const rules: [broken: boolean, rule: string][] = [
    [sub !== STRIP, 'bm 32'],
    [rows % sub !== 0, 'BM a multiple of bm'],
    [cols % 96 !== 0, 'BK a multiple of 96'],
    [rowsOf(dims) % rows !== 0, 'M a multiple of BM'],
    [dims[0] % rowMultiple !== 0, `K a multiple of ${rowMultiple}`],
    [dims[0] < leastRow, `K at least ${leastRow}`],
    [dims[0] % cols > leastRow, `K mod BK at most ${leastRow}, for which the size has room`],
  ];
  const broken = rules.find(([isBroken]) => isBroken);
  if (broken === undefined) return given;
  throw new GgufError(`${where}: ${tileText(dims, given)}: expected ${broken[1]} (TL2)`);
}

/** Byte of 32 that belongs to row r of a strip; P is its own inverse. */
function byteOf(r: number): number {
  return [0, 16, 8, 24][r >> 3] + (r & 7);
}

/**
 * packed -> w in {-1, 0, 1} in row order, and the tensor's scale.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on no tiles or such as do not fit, an index above 13 (pairs: 8), padding other than 0, and a scale that is
 * not a finite number above 0
 */
export function unpack(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Ternary {
  const given = checkTiles(tiles, dims, where);
  const scales = tailScale('TL2', packed, where);
  const [k] = dims;
  const weights = new Int8Array(weightsOf(dims));
  const words = new Int32Array(weights.buffer);
  const { k3, pairsAt, end } = eachStrip(given, dims, (row, column, at, signAt) => {
    for (let r = 0; r < STRIP; r++) {
      let from = at + byteOf(r);
      let signFrom = signAt + 2 * (r & 15);
      let to = ((row + r) * k + column) >> 2;
      // The sign of the next triple is bit 18, as one of the two rows starts at bit 15 and the other at bit 14.
      for (const last = to + given.cols / 4; to < last; signFrom += 32) {
        let signs = (packed[signFrom] | (packed[signFrom + 1] << 8)) << (3 + (r >> 4));
        for (let half = 0; half < 2; half++, from += 64, to += 3, signs <<= 8) {
          const [a, b] = [packed[from], packed[from + 32]];
          const t0 = TRIPLES[(a >> 4) | ((signs >> 14) & 16)];
          const t1 = TRIPLES[(a & 15) | ((signs >> 12) & 16)];
          const t2 = TRIPLES[(b >> 4) | ((signs >> 10) & 16)];
          const t3 = TRIPLES[(b & 15) | ((signs >> 8) & 16)];
          if (((t0 | t1 | t2 | t3) & NO_TRIPLE) !== 0) {
            const indices = [a >> 4, a & 15, b >> 4, b & 15];
            const wrong = indices.findIndex((index) => index > MOST_TRIPLE);
            const place = ((4 * to) % k) + 3 * wrong;
            throw wrongIndex('TL2', [row + r, place, indices[wrong], MOST_TRIPLE], dims, given, where);
          }
          words[to] = t0 | (t1 << 24);
          words[to + 1] = (t1 >> 8) | (t2 << 16);
          words[to + 2] = (t2 >> 16) | (t3 << 8);
        }
      }
    }
  });
  eachPairStrip(given, dims, k3, pairsAt, (row, column, at) => {
    for (let r = 0; r < STRIP; r++) {
      const to = ((row + r) * k + column) >> 2;
      for (let i = 0, from = at + byteOf(r); i < 8; i++, from += 32) {
        const quad = QUADS[packed[from]];
        if (quad === NO_QUAD) {
          const first = packed[from] >> 4 > MOST_PAIR;
          const index = first ? packed[from] >> 4 : packed[from] & 15;
          throw wrongIndex('TL2', [row + r, column + 4 * i + (first ? 0 : 2), index, MOST_PAIR], dims, given, where);
        }
        words[to + i] = quad;
      }
    }
  });
  for (let at = end; at < packed.length - TAIL_BYTES; at++) {
    if (packed[at] === 0) continue;
    throw new GgufError(
      `${where}: byte ${at} of the tensor is ${packed[at]}, expected 0: padding behind the codes ` +
        `(TL2, ${tileText(dims, given)})`,
    );
  }
  return { weights, scales };
}

/**
 * packed -> scale * w in row order.
 * @throws GgufError as unpack does
 */
export function decode(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Float32Array {
  return scaled(unpack(packed, dims, where, tiles));
}

/**
 * w in {-1, 0, 1} in row order and the tensor's scale -> packed.
 * @throws GgufError on no tiles or such as do not fit, another weight, or a scale that is not finite and above 0
 */
export function encode(
  { weights: w, scales }: Ternary,
  dims: readonly number[],
  tiles?: Tiles,
): Uint8Array<ArrayBuffer> {
  const given = checkTiles(tiles, dims, 'TL2');
  checkWeights('TL2', w, dims, rowMultiple);
  const [k] = dims;
  const packed = new Uint8Array(sizeBytes(dims));
  putTailScale('TL2', packed, scales);
  const { k3, pairsAt } = eachStrip(given, dims, (row, column, at, signAt) => {
    for (let r = 0; r < STRIP; r++) {
      let to = at + byteOf(r);
      let signTo = signAt + 2 * (r & 15);
      let i = (row + r) * k + column;
      for (const last = i + given.cols; i < last; signTo += 32) {
        let signs = 0; // of eight triples, the first in bit 14
        for (let two = 0; two < 4; two++, i += 6, to += 32) {
          const u = 9 * w[i] + 3 * w[i + 1] + w[i + 2];
          const v = 9 * w[i + 3] + 3 * w[i + 4] + w[i + 5];
          const [minusU, minusV] = [u >> 31, v >> 31];
          packed[to] = (((u ^ minusU) - minusU) << 4) | ((v ^ minusV) - minusV);
          signs = (signs << 4) | (minusU & 4) | (minusV & 1);
        }
        const word = signs << (1 - (r >> 4));
        packed[signTo] |= word & 255;
        packed[signTo + 1] |= word >> 8;
      }
    }
  });
  eachPairStrip(given, dims, k3, pairsAt, (row, column, at) => {
    for (let r = 0; r < STRIP; r++) {
      let to = at + byteOf(r);
      for (let i = (row + r) * k + column, last = i + 32; i < last; i += 4, to += 32) {
        packed[to] = ((3 * w[i] + w[i + 1] + 4) << 4) | (3 * w[i + 2] + w[i + 3] + 4);
      }
    }
  });
  return packed;
}

/** Calls back with the first row, first column, first byte of the indices and of the signs of each strip of triples. */
function eachStrip(
  { rows, cols }: Tiles,
  dims: readonly number[],
  strip: (row: number, column: number, at: number, signAt: number) => void,
): { k3: number; pairsAt: number; end: number } {
  const [k] = dims;
  const m = rowsOf(dims);
  const k3 = k - (k % cols);
  const signsAt = (m * k3) / 6;
  const pairsAt = signsAt + (m * k3) / 24;
  let done = 0; // weights
  for (let top = 0; top < m; top += rows) {
    for (let column = 0; column < k3; column += cols) {
      for (let row = top; row < top + rows; row += STRIP, done += STRIP * cols) {
        strip(row, column, done / 6, signsAt + done / 24);
      }
    }
  }
  return { k3, pairsAt, end: pairsAt + (m * (k - k3)) / 4 };
}

/** Calls back with the first row, first column and first byte of each strip of pairs. */
function eachPairStrip(
  { rows }: Tiles,
  dims: readonly number[],
  k3: number,
  pairsAt: number,
  strip: (row: number, column: number, at: number) => void,
): void {
  let at = pairsAt;
  for (let top = 0; top < rowsOf(dims); top += rows) {
    for (let column = k3; column < dims[0]; column += 32) {
      for (let row = top; row < top + rows; row += STRIP, at += STRIP * 8) strip(row, column, at);
    }
  }
}
