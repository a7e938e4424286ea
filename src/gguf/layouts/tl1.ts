// TL1: ternary weights in pairs of four bits, in tiles for table lookup on ARM, and one f32 scale for the whole tensor;
// weight = scale * w, w in {-1, 0, 1}.
//
// The index of a pair is 3 w[0] + w[1] + 4 (0 .. 8; above is an error). A byte holds four neighbours of a row:
//
//   bit    7           4 3           0
//          | w[0], w[1]  | w[2], w[3]  |
//
// The M x K matrix is cut into tiles of BM x BK (tiles.ts), which go down K first. A tile is cut into strips of bm rows, and a
// strip into pieces of 256 / bm columns: 64 bytes, of which each 16 belong to 16 rows. So the bytes are in the order of
//
//   tile row   tile column   strip     columns       rows      columns         row
//   M / BM     K / BK        BM / bm   BK bm / 256   bm / 16   256 / bm / 4    16          slowest to fastest
//
//   byte   0                         n/4                  n/4 + 32      n = number of weights
//          | tiles ...               | f32 scale | 28 unused |
//
// BM, BK and bm stand nowhere in the tensor, and with other ones its rows and columns are shuffled.
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

/** Type id in the file. */
export const id = 38;
/** Row length must be a multiple of this: BK is. */
export const rowMultiple = 32;

/** The largest index of a pair. */
export const MOST_PAIR = 8;
/** What `QUADS` holds for a byte with an index that stands for no pair; no four weights are these bytes. */
export const NO_QUAD = 0x02020202;
/** byte -> its four weights as the bytes of an i32. */
export const QUADS: Int32Array = Int32Array.from({ length: 256 }, (_, byte) => {
  const [high, low] = [byte >> 4, byte & 15];
  if (high > MOST_PAIR || low > MOST_PAIR) return NO_QUAD;
  const four = [Math.floor(high / 3), high % 3, Math.floor(low / 3), low % 3];
  return four.reduce((word, trit, i) => word | (((trit - 1) & 255) << (8 * i)), 0);
});

/** Bytes of a tensor of dims (ne0 first), the tail with the scale included. */
export function sizeBytes(dims: readonly number[]): number {
  return weightsOf(dims) / 4 + TAIL_BYTES;
}

/**
 * The tiles, if a matrix of dims can be cut into them.
 * @throws GgufError if not, naming M, K, BM, BK and bm
 */
export function checkTiles(tiles: Tiles | undefined, dims: readonly number[], where: string): Tiles {
  const given = requireTiles('TL1', tiles, dims, where);
  const { rows, cols, sub } = given;
  const rules: [broken: boolean, rule: string][] = [
    [sub !== 32 && sub !== 64, 'bm 32 or 64'],
    [rows % sub !== 0, 'BM a multiple of bm'],
    [cols % 32 !== 0, 'BK a multiple of 32'],
    [rowsOf(dims) % rows !== 0, 'M a multiple of BM'],
    [dims[0] % cols !== 0, 'K a multiple of BK'],
  ];
  const broken = rules.find(([isBroken]) => isBroken);
  if (broken === undefined) return given;
  throw new GgufError(`${where}: ${tileText(dims, given)}: expected ${broken[1]} (TL1)`);
}

/** Byte of a strip at which row r of it has its first four columns. */
function rowAt(r: number, sub: number): number {
  return (r >> 4) * (1024 / sub) + (r & 15);
}

/**
 * packed -> w in {-1, 0, 1} in row order, and the tensor's scale.
 * @param where what to name in an error: file and tensor
 * @throws GgufError on no tiles or such as do not fit, an index above 8, and a scale that is not a finite number above 0
 */
export function unpack(packed: Uint8Array, dims: readonly number[], where: string, tiles?: Tiles): Ternary {
  const given = checkTiles(tiles, dims, where);
  const scales = tailScale('TL1', packed, where);
  const weights = new Int8Array(weightsOf(dims));
  const words = new Int32Array(weights.buffer);
  eachStrip(given, dims, (row, column, at) => {
    const { cols, sub } = given;
    for (let r = 0; r < sub; r++) {
      let to = ((row + r) * dims[0] + column) >> 2;
      const end = to + (cols >> 2);
      for (let piece = at + rowAt(r, sub); to < end; piece += 64) {
        for (let from = piece; from < piece + 1024 / sub; from += 16) {
          const quad = QUADS[packed[from]];
          if (quad === NO_QUAD) {
            const first = packed[from] >> 4 > MOST_PAIR;
            const index = first ? packed[from] >> 4 : packed[from] & 15;
            const place = ((4 * to) % dims[0]) + (first ? 0 : 2);
            throw wrongIndex('TL1', [row + r, place, index, MOST_PAIR], dims, given, where);
          }
          words[to++] = quad;
        }
      }
    }
  });
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
  const given = checkTiles(tiles, dims, 'TL1');
  checkWeights('TL1', w, dims, rowMultiple);
  const packed = new Uint8Array(sizeBytes(dims));
  putTailScale('TL1', packed, scales);
  eachStrip(given, dims, (row, column, at) => {
    const { cols, sub } = given;
    for (let r = 0; r < sub; r++) {
      let i = (row + r) * dims[0] + column;
      const end = i + cols;
      for (let piece = at + rowAt(r, sub); i < end; piece += 64) {
        for (let to = piece; to < piece + 1024 / sub; to += 16, i += 4) {
          packed[to] = ((3 * w[i] + w[i + 1] + 4) << 4) | (3 * w[i + 2] + w[i + 3] + 4);
        }
      }
    }
  });
  return packed;
}

/** Calls back with the first row, first column and first byte of each strip, in file order. */
function eachStrip(
  { rows, cols, sub }: Tiles,
  dims: readonly number[],
  strip: (row: number, column: number, at: number) => void,
): void {
  let at = 0;
  for (let top = 0; top < rowsOf(dims); top += rows) {
    for (let column = 0; column < dims[0]; column += cols) {
      for (let row = top; row < top + rows; row += sub) {
        strip(row, column, at);
        at += (sub * cols) / 4;
      }
    }
  }
}
