import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { f16Value } from '../gguf/layouts/f16.ts';
import { rowsOf, TAIL_BYTES, type Tiles, weightsOf } from '../gguf/layouts/ternary.ts';
import { MOST_PAIR } from '../gguf/layouts/tl1.ts';
import { MOST_TRIPLE } from '../gguf/layouts/tl2.ts';
import { checkTrits, QH_AT, TRITS } from '../gguf/layouts/tq1_0.ts';
import { TERNARY, type TernaryType } from '../gguf/layouts.ts';
import type { Source } from '../gguf/source.ts';
import { type FoundTiles, isTiled, tilesOf } from '../gguf/tiles.ts';

/** How the weights of a tensor are spread that is ternary by its type, or a matrix of floats -s, 0 and s. */
export interface TernaryShare {
  weights: number;
  /** Absent where the tiles of TL2 are not known, which tell its triples from its pairs. */
  counts?: Counts;
  scales: Scales;
  /** Rows and columns of zeros only. Counted in I2_S and TQ2_0, where a row is not longer than 4 MB. */
  zeroRows?: number;
  zeroCols?: number;
  /** Of TL1 and TL2. */
  tiles?: FoundTiles;
  /** Why there are none. */
  tilesFault?: string;
}

export interface Counts {
  minus: number;
  zero: number;
  plus: number;
  /** Codes that stand for no weights, and bytes other than 0 in TL2's padding. */
  wrong: number;
  /** Bytes of TQ1_0 that have trits, but that no trits encode to. */
  odd: number;
}

/** The scale of a tensor, or those of its blocks. */
export interface Scales {
  count: number;
  /** Of those that are neither 0 nor broken; 0 where there are none. */
  min: number;
  max: number;
  distinct: number;
  /** Blocks of scale 0. */
  zero: number;
  /** Infinite or NaN; not above 0 where a tensor has one. */
  broken: number;
}

const PIECE_BYTES = 4 << 20;
/** Floats are given up at the first other magnitude: nearly always in the first piece. */
const FLOAT_PIECE_BYTES = 128 << 10;

interface Reader {
  source: Source;
  buffer: ArrayBuffer;
  /** Called with the number of bytes. */
  onBytes(bytes: number): void;
}

/**
 * Counts the weights of every ternary tensor, by name; reads the file in pieces.
 * @param preset of the tiles of TL1 and TL2 (tiles.ts), where the file and the shapes are not to tell them
 */
export async function countTernary(
  source: Source,
  header: GgufHeader,
  preset: string | undefined,
  onProgress: (share: number) => void,
): Promise<Map<string, TernaryShare>> {
  const tensors = [...header.tensors.values()].filter((t) => isTernary(t) || isFloatMatrix(t));
  const total = tensors.reduce((sum, t) => sum + t.bytes, 0);
  const shares = new Map<string, TernaryShare>();
  let done = 0;
  let before = 0;
  const onBytes = (bytes: number) => {
    done += bytes;
    onProgress(done / total);
  };
  const reader = { source, buffer: new ArrayBuffer(PIECE_BYTES), onBytes };
  for (const tensor of tensors) {
    const share = isTernary(tensor)
      ? await countTensor(reader, tensor, header, preset)
      : await countFloats(reader, tensor);
    if (share !== undefined) shares.set(tensor.name, share);
    before += tensor.bytes;
    onBytes(before - done);
  }
  return shares;
}

type TernaryTensor = TensorInfo & { type: TernaryType };

function isTernary(tensor: TensorInfo): tensor is TernaryTensor {
  return Object.hasOwn(TERNARY, tensor.type);
}

function isFloatMatrix({ type, dims }: TensorInfo): boolean {
  return (type === 'F16' || type === 'BF16' || type === 'F32') && dims.length > 1;
}

async function countTensor(
  reader: Reader,
  tensor: TernaryTensor,
  header: GgufHeader,
  preset: string | undefined,
): Promise<TernaryShare> {
  const { type, name, dims, at, bytes } = tensor;
  const weights = weightsOf(dims);
  if (type === 'TQ1_0' || type === 'TQ2_0') return { weights, ...(await countBlocks(reader, tensor)) };
  const tail = new DataView(new ArrayBuffer(TAIL_BYTES));
  await reader.source.read(at + bytes - TAIL_BYTES, new Uint8Array(tail.buffer));
  const scale = tail.getFloat32(0, true);
  const scales = scalesOf(
    [[scale, 1]],
    (s) => s,
    (s) => s > 0 && s < Infinity,
  );
  if (!isTiled(type)) return { weights, ...(await countBlocks(reader, tensor)), scales };

  let tiles: FoundTiles | undefined;
  let tilesFault: string | undefined;
  try {
    tiles = tilesOf(type, dims, header.metadata, `tensor '${name}'`, preset);
  } catch (error) {
    tilesFault = (error as Error).message;
  }
  // The nibbles of TL1 are pairs in whatever order.
  if (type === 'TL1') return { weights, counts: (await countBlocks(reader, tensor)).counts, scales, tiles, tilesFault };
  const counts = tiles && (await countTl2(reader, tensor, tiles.tiles));
  return { weights, counts, scales, tiles, tilesFault };
}

/** I2_S, TL1, TQ1_0 and TQ2_0: words of 16 bits are counted, and what they stand for is told in the end. */
async function countBlocks(
  reader: Reader,
  { type, dims, at, bytes }: TernaryTensor,
): Promise<Omit<TernaryShare, 'weights'> & { counts: Counts }> {
  const { blocks } = TERNARY[type];
  const size = blocks === undefined ? bytes - TAIL_BYTES : bytes;
  const rowBytes = size / rowsOf(dims);
  const period = (blocks?.bytes ?? rowBytes) / 2;
  const end = (blocks?.scaleAt ?? rowBytes) / 2;
  const lastAt = type === 'TQ1_0' ? QH_AT / 2 : end;
  const fits = rowBytes <= PIECE_BYTES;
  const lines = fits && (type === 'I2_S' || type === 'TQ2_0') ? zeroLines(rowBytes / 2, period, end) : undefined;
  const [codes, last, scaleWords] = [0, 0, 0].map(() => new Float64Array(1 << 16));
  await eachPiece(reader, at, size, fits ? rowBytes : (blocks?.bytes ?? 2), PIECE_BYTES, (piece, length) => {
    const words = new Uint16Array(piece, 0, length / 2);
    tally(words, 0, lastAt, period, codes);
    if (lastAt < end) tally(words, lastAt, end, period, last);
    if (end < period) tally(words, end, period, period, scaleWords);
    lines?.add(words);
    return true;
  });

  const counts: Counts = { minus: 0, zero: 0, plus: 0, wrong: 0, odd: 0 };
  eachByte(codes, (byte, n) => {
    if (type === 'TL1') addPairs(counts, byte, n);
    else if (type === 'TQ1_0') addFraction(counts, byte, 0, n);
    else for (const shift of [0, 2, 4, 6]) addCode(counts, (byte >> shift) & 3, n);
  });
  eachByte(last, (byte, n) => addFraction(counts, byte, QH_AT, n));
  const scales = scalesOf(scaleWords.entries(), f16Value, Number.isFinite);
  return { counts, scales, zeroRows: lines?.rows(), zeroCols: lines?.cols() };
}

/**
 * TL2: index bytes together with the signs of their two triples. The order of rows and columns counts nothing, so that BK is
 * all that is needed of the tiles, and a group of 32 rows x 24 columns, 128 bytes with 32 bytes of signs, is like any other.
 */
async function countTl2(reader: Reader, tensor: TernaryTensor, tiles: Tiles): Promise<Counts> {
  const { source, onBytes } = reader;
  const { dims, at, bytes } = tensor;
  const rows = rowsOf(dims);
  const k3 = dims[0] - (dims[0] % tiles.cols);
  const signsAt = (rows * k3) / 6;
  const pairsAt = signsAt + (rows * k3) / 24;
  const end = pairsAt + (rows * (dims[0] - k3)) / 4;
  const counts: Counts = { minus: 0, zero: 0, plus: 0, wrong: 0, odd: 0 };
  const seen = new Float64Array(6 << 8); // byte, and its signs in bits 10 and 8
  const most = 1 << 14;
  const indices = new Uint8Array(128 * most);
  const signs = new Uint16Array(16 * most);
  for (let group = 0, count = 0; group < signsAt / 128; group += count) {
    count = Math.min(most, signsAt / 128 - group);
    await source.read(at + 128 * group, indices.subarray(0, 128 * count));
    await source.read(at + signsAt + 32 * group, new Uint8Array(signs.buffer, 0, 32 * count));
    for (let i = 0; i < 128 * count; i++) {
      const word = signs[((i >> 7) << 4) | ((i >> 1) & 8) | (i & 7)];
      seen[indices[i] | (((word >> (13 - ((i >> 3) & 12) - ((i >> 3) & 1))) & 5) << 8)]++;
    }
    onBytes(160 * count);
  }
  for (const [key, n] of seen.entries()) {
    for (const [index, sign] of [
      [(key >> 4) & 15, key >> 10],
      [key & 15, (key >> 8) & 1],
    ]) {
      if (index > MOST_TRIPLE) counts.wrong += n;
      else addTrits(counts, 13 + (sign === 1 ? -index : index), 3, n);
    }
  }
  const pairs = new Float64Array(1 << 16);
  await eachPiece(reader, at + pairsAt, end - pairsAt, 2, PIECE_BYTES, (piece, length) => {
    tally(new Uint16Array(piece, 0, length / 2), 0, length / 2, length / 2, pairs);
    return true;
  });
  eachByte(pairs, (byte, n) => addPairs(counts, byte, n));
  await eachPiece(reader, at + end, bytes - TAIL_BYTES - end, 1, PIECE_BYTES, (piece, length) => {
    counts.wrong += new Uint8Array(piece, 0, length).reduce((sum, byte) => sum + Math.sign(byte), 0);
    return true;
  });
  return counts;
}

/** The share of a matrix of floats that are -s, 0 and s with one s; of others undefined, and they are read no further. */
async function countFloats(reader: Reader, { type, dims, at, bytes }: TensorInfo): Promise<TernaryShare | undefined> {
  const sign = type === 'F32' ? 0x80000000 : 0x8000;
  const counts: Counts = { minus: 0, zero: 0, plus: 0, wrong: 0, odd: 0 };
  let size = 0; // the bits of s
  const isWhole = await eachPiece(reader, at, bytes, 4, FLOAT_PIECE_BYTES, (piece, length) => {
    const numbers = type === 'F32' ? new Uint32Array(piece, 0, length / 4) : new Uint16Array(piece, 0, length / 2);
    for (let i = 0; i < numbers.length; i++) {
      const magnitude = numbers[i] & (sign - 1);
      if (magnitude === 0) counts.zero++;
      else if (size !== 0 && magnitude !== size) return false;
      else if ((numbers[i] & sign) === 0) counts.plus++;
      else counts.minus++;
      if (magnitude !== 0) size = magnitude;
    }
    return true;
  });
  const bits = type === 'BF16' ? size << 16 : size;
  const scale = type === 'F16' ? f16Value(bits) : new Float32Array(Uint32Array.of(bits).buffer)[0];
  if (!isWhole || size === 0 || !Number.isFinite(scale)) return;
  return { weights: weightsOf(dims), counts, scales: scalesOf([[scale, 1]], (s) => s, Number.isFinite) };
}

/**
 * Reads a region in pieces of whole units (the last may be shorter), until `take` returns false.
 * @returns whether it never did
 */
async function eachPiece(
  { source, buffer, onBytes }: Reader,
  at: number,
  size: number,
  unit: number,
  most: number,
  take: (piece: ArrayBuffer, length: number) => boolean,
): Promise<boolean> {
  const step = Math.floor(most / unit) * unit;
  for (let from = 0; from < size; from += step) {
    const length = Math.min(step, size - from);
    await source.read(at + from, new Uint8Array(buffer, 0, length));
    if (!take(buffer, length)) return false;
    onBytes(length);
  }
  return true;
}

/** Counts the words [from, to) of each `period`. */
function tally(words: Uint16Array, from: number, to: number, period: number, counts: Float64Array): void {
  for (let start = 0; start < words.length; start += period) {
    const end = Math.min(start + to, words.length);
    for (let i = start + from; i < end; i++) counts[words[i]]++;
  }
}

/** Calls back with each byte that occurs in counted words, and how often. */
function eachByte(words: Float64Array, take: (byte: number, count: number) => void): void {
  const bytes = new Float64Array(256);
  for (let word = 0; word < words.length; word++) {
    bytes[word & 255] += words[word];
    bytes[word >> 8] += words[word];
  }
  for (const [byte, count] of bytes.entries()) if (count > 0) take(byte, count);
}

function addCode(counts: Counts, code: number, n: number): void {
  counts[(['minus', 'zero', 'plus', 'wrong'] as const)[code]] += n;
}

/** n times the trits of a number below 3 ** trits. */
function addTrits(counts: Counts, number: number, trits: number, n: number): void {
  for (let i = 0, rest = number; i < trits; i++, rest = Math.floor(rest / 3)) addCode(counts, rest % 3, n);
}

/** n times a byte of two pairs, of TL1 or TL2. */
function addPairs(counts: Counts, byte: number, n: number): void {
  for (const index of [byte >> 4, byte & 15]) {
    if (index > MOST_PAIR) counts.wrong += n;
    else addTrits(counts, index, 2, n);
  }
}

/** n times a byte of TQ1_0 at a place of its block. */
function addFraction(counts: Counts, byte: number, place: number, n: number): void {
  for (let i = 0; i < (place < QH_AT ? 5 : 4); i++) addCode(counts, (TRITS[byte] >> (2 * i)) & 3, n);
  if (checkTrits(Uint8Array.of(byte), place) >= 0) counts.odd += n;
}

/** Finds rows and columns of zeros, where each 16-bit word has eight codes, and code 1 is 0. */
function zeroLines(rowWords: number, period: number, end: number) {
  const used = new Uint16Array(rowWords); // a column's two bits are 0 as long as its codes are 1
  let zeroRows = 0;
  return {
    /** Whole rows, of which the words [0, end) of each `period` are codes. */
    add(words: Uint16Array): void {
      for (let row = 0; row < words.length; row += rowWords) {
        let any = 0;
        for (let start = 0; start < rowWords; start += period) {
          for (let i = start; i < start + end; i++) {
            const other = words[row + i] ^ 0x5555;
            used[i] |= other;
            any |= other;
          }
        }
        if (any === 0) zeroRows++;
      }
    },
    rows: () => zeroRows,
    cols(): number {
      let zeroCols = 0;
      for (const [i, word] of used.entries()) {
        for (let shift = 0; i % period < end && shift < 16; shift += 2) if (((word >> shift) & 3) === 0) zeroCols++;
      }
      return zeroCols;
    },
  };
}

/** Sums up keys and how often each occurs. */
function scalesOf(
  entries: Iterable<readonly [key: number, n: number]>,
  scaleOf: (key: number) => number,
  isGood: (scale: number) => boolean,
): Scales {
  const scales: Scales = { count: 0, min: Infinity, max: -Infinity, distinct: 0, zero: 0, broken: 0 };
  for (const [key, n] of entries) {
    if (n === 0) continue;
    const scale = scaleOf(key);
    scales.count += n;
    if (!isGood(scale)) scales.broken += n;
    else if (scale === 0) scales.zero += n;
    else {
      scales.distinct++;
      scales.min = Math.min(scales.min, scale);
      scales.max = Math.max(scales.max, scale);
    }
  }
  return scales.distinct > 0 ? scales : { ...scales, min: 0, max: 0 };
}
