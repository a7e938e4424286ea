// A tensor of either kind of input under its GGUF name, and how its numbers are read.
import type { Ternary, Tiles } from '../gguf/layouts/ternary.ts';
import { checkTrits } from '../gguf/layouts/tq1_0.ts';
import { requireLayout, TERNARY, type TensorType } from '../gguf/layouts.ts';
import { ConvertError } from './error.ts';
import { asTernary, type Floats, quantize } from './quantize.ts';
import { isTernary } from './types.ts';

/** Bytes that are read by ranges. */
export interface InputFile {
  readonly name: string;
  read(at: number, dst: Uint8Array): Promise<void>;
}

export interface InputTensor {
  /** As GGUF calls it. */
  readonly name: string;
  /** For messages: file and tensor. */
  readonly where: string;
  /** ne0 (the row length) first. */
  readonly dims: readonly number[];
  readonly file: InputFile;
  readonly at: number;
  readonly bytes: number;
  /** 'packed' is the ternary form of Hugging Face checkpoints, which lies in `scale` too. */
  readonly type: TensorType | 'packed';
  /** What it is written as where nothing else is asked for. */
  readonly kept: TensorType;
  /** Of 'packed' weights. */
  readonly scale?: number;
  /** Of TL1 and TL2. */
  readonly tiles?: Tiles;
  /** Row of the file for each row of the tensor, where they differ. */
  readonly order?: Int32Array;
  /** Is added to each number. */
  readonly plus?: number;
  /** The model was trained to have these floats rounded to ternary weights. */
  readonly isMaster?: boolean;
}

export const rowsOf = (t: InputTensor): number => t.dims.slice(1).reduce((a, b) => a * b, 1);

/** Whether a row can be read by itself. */
export function hasRows(t: InputTensor): boolean {
  return t.type !== 'packed' && !isTernary(t.type);
}

/**
 * Rows [first, first + count) of a tensor that hasRows, as f32.
 * @throws GgufError on a type that is not read, and as its layout does
 */
export async function readRows(t: InputTensor, first: number, count: number): Promise<Float32Array> {
  const rowBytes = t.bytes / rowsOf(t);
  const packed = new Uint8Array(count * rowBytes);
  if (t.order === undefined) await t.file.read(t.at + first * rowBytes, packed);
  else {
    for (let r = 0; r < count; r++) {
      await t.file.read(t.at + t.order[first + r] * rowBytes, packed.subarray(r * rowBytes, (r + 1) * rowBytes));
    }
  }
  const values = requireLayout(t.type as TensorType, t.where).decode(packed, [t.dims[0], count], t.where);
  const { plus } = t;
  if (plus !== undefined) for (let i = 0; i < values.length; i++) values[i] += plus;
  return values;
}

/** A whole matrix, as ternary weights where it has such, else as floats. */
export type Matrix = { readonly ternary: Ternary } | { readonly floats: Floats };

/**
 * Reads a matrix: unpacked, taken as ternary where its floats are, or rounded where the model was trained for it.
 * @throws GgufError or ConvertError on what the layout forbids
 */
export async function readMatrix(t: InputTensor): Promise<Matrix> {
  const bytes = new Uint8Array(t.bytes);
  await t.file.read(t.at, bytes);
  if (t.type === 'packed') return { ternary: unpackHuggingFace(bytes, t) };
  if (t.type === 'TQ1_0') {
    const odd = checkTrits(bytes);
    if (odd >= 0) {
      throw new ConvertError(`${t.where}: byte ${odd} is ${bytes[odd]}, which encodes no five trits (TQ1_0)`);
    }
  }
  if (isTernary(t.type)) return { ternary: TERNARY[t.type].unpack(bytes, t.dims, t.where, t.tiles) };
  const floats = floatsOf(t, bytes);
  const ternary = asTernary(floats) ?? (t.isMaster ? quantize(floats) : undefined);
  return ternary === undefined ? { floats } : { ternary };
}

function floatsOf(t: InputTensor, bytes: Uint8Array): Floats {
  const [cols] = t.dims;
  const rows = rowsOf(t);
  const rowBytes = bytes.length / rows;
  const { order } = t;
  const layout = requireLayout(t.type as TensorType, t.where);
  const common = { rows, cols, where: t.where };
  if (t.type === 'BF16') {
    // What nearly all checkpoints are in: without an array for each row.
    const words = new Uint16Array(bytes.buffer);
    const values = new Float32Array(cols);
    const bits = new Uint32Array(values.buffer);
    const row = (r: number) => {
      const from = (order === undefined ? r : order[r]) * cols;
      for (let i = 0; i < cols; i++) bits[i] = words[from + i] << 16;
      return values;
    };
    return { ...common, row };
  }
  const row = (r: number) => {
    const from = (order === undefined ? r : order[r]) * rowBytes;
    return layout.decode(bytes.subarray(from, from + rowBytes), [cols], t.where);
  };
  return { ...common, row };
}

/**
 * The ternary weights of Hugging Face's BitNet checkpoints, u8 [rows / 4][cols]: bits 2i and 2i + 1 of byte [r][k] are the
 * code w + 1 of row i * rows / 4 + r.
 *
 *   bit    7      6 5      4 3      2 1      0
 *          | w[3R+r] | w[2R+r] | w[R+r]  | w[r]    |      R = rows / 4, column k
 */
function unpackHuggingFace(packed: Uint8Array, t: InputTensor): Ternary {
  const [cols] = t.dims;
  const rows = rowsOf(t);
  const quarter = rows / 4;
  const weights = new Int8Array(rows * cols);
  for (let r = 0; r < rows; r++) {
    const row = t.order === undefined ? r : t.order[r];
    const shift = 2 * Math.floor(row / quarter);
    const from = (row % quarter) * cols;
    let strange = 0;
    for (let k = 0, at = r * cols; k < cols; k++, at++) {
      const code = (packed[from + k] >> shift) & 3;
      strange |= code & (code >> 1);
      weights[at] = code - 1;
    }
    if (strange !== 0) {
      const k = weights.subarray(r * cols, (r + 1) * cols).indexOf(2);
      throw new ConvertError(`${t.where}: row ${row}, column ${k}: code 3, expected 0, 1 or 2 (packed ternary)`);
    }
  }
  return { weights, scales: Float32Array.of(t.scale as number) };
}
