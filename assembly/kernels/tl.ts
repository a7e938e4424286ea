// Where things lie in TL1 and TL2, whose drawings are in src/gguf/layouts/. Both are cut into tiles of `tileRows` x `tileCols`,
// and are read here in groups of 32 rows: of a byte a column pair or triple, one vector x holds the first 16 rows and one
// vector y the others. TL2 has rows 0 … 7 and 16 … 23 in x, the rest in y.

import { TL2 } from './prepare';

/** Columns that are coded in triples. */
// @ts-ignore: decorator
@inline export function tripleCols(type: i32, cols: i32, tileCols: i32): i32 {
  return type == TL2 ? cols / tileCols * tileCols : 0;
}

/** Bytes of the payload of TL2 that are indices of triples, and all but the pairs. */
// @ts-ignore: decorator
@inline export function indexBytes(rows: i32, triples: i32): i32 {
  return rows * (triples / 6);
}

// @ts-ignore: decorator
@inline export function pairsAt(rows: i32, triples: i32): i32 {
  return rows * (triples / 24 * 5);
}

/** Byte at which the tail with the scale lies; what is left before it is zero. */
// @ts-ignore: decorator
@inline export function tailAt(type: i32, rows: i32, cols: i32): i32 {
  return type == TL2 ? ((cols - 256) * rows / 3 * 5 / 8 + 64 * rows + 31) & ~31 : rows * (cols >> 2);
}

/**
 * Rows before `row`, a multiple of 32, in the order of the file: all of the row tiles before, those of `row`'s own in the column
 * tiles before, and the first rows of its own tile. Times the bytes that a row has in a tile it is the place of a group.
 */
// @ts-ignore: decorator
@inline export function groupAt(row: i32, tileRows: i32, colTiles: i32, colTile: i32): i32 {
  const own = row % tileRows;
  return (row - own) * colTiles + colTile * tileRows + own;
}

// Signs of 8 triples of 16 rows are 8 words of 16 bits: bit 15 - 2 g is triple g of a row of the first half, bit 14 - 2 g of one
// of the second. The two functions give bytes in the order of x or y, of which bits 7, 5, 3 and 1 are triples 0 … 3 or 4 … 7.

// @ts-ignore: decorator
@inline export function firstSigns(words: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.shr_u(words, 8), i16x8.shr_u(i16x8.shl(words, 1), 8));
}

// @ts-ignore: decorator
@inline export function lastSigns(words: v128): v128 {
  return firstSigns(i16x8.shl(words, 8));
}
