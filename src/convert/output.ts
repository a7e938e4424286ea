// Tensors on their way into the file: header first, as every size is known before a weight is read.
import * as f16 from '../gguf/layouts/f16.ts';
import * as f32 from '../gguf/layouts/f32.ts';
import * as q6k from '../gguf/layouts/q6_k.ts';
import * as q80 from '../gguf/layouts/q8_0.ts';
import type { Ternary, Tiles } from '../gguf/layouts/ternary.ts';
import { TERNARY, type TensorType, type TernaryType } from '../gguf/layouts.ts';
import { headerBytes, type TypedValue } from '../gguf/writer.ts';
import { ConvertError } from './error.ts';
import { hasRows, type InputTensor, type Matrix, readMatrix, readRows, rowsOf } from './input.ts';
import type { Importance } from './prune.ts';
import { type Floats, quantize, type RoundingError, scaled } from './quantize.ts';
import { isTernary, MATRIX } from './types.ts';

/** Where a file is written to. Writes come in the order of the file, without gaps. */
export interface Sink {
  write(at: number, bytes: Uint8Array): Promise<void> | void;
}

/** A tensor as it will be, and what it is made of. */
export interface OutputTensor {
  readonly type: TensorType;
  readonly input: InputTensor;
  /** Of TL1 and TL2. */
  readonly tiles?: Tiles;
}

/** Bytes of the input's tensors read so far, of all that will be. */
export interface ConvertProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Tensor being converted. */
  readonly tensor: string;
}

/** What is done to the seven matrices of each layer. */
export interface MatrixWork {
  /** Weights that are not ternary are made so. */
  readonly quantize: boolean;
  /** Weights of a scale, where it is not one for a tensor. */
  readonly block?: number;
  readonly importance?: Importance;
  readonly prune?: (input: InputTensor, matrix: Matrix) => Promise<Matrix>;
}

export interface WriteOptions extends MatrixWork {
  readonly onProgress?: (progress: ConvertProgress) => void;
  readonly signal?: AbortSignal;
}

/** What became of a matrix that was pruned, or rounded by importance. */
export interface MatrixReport {
  readonly name: string;
  readonly weights: number;
  /** Made 0 by pruning. */
  readonly pruned: number;
  /** Are 0 in the file. */
  readonly zeros: number;
  /** Of the rounding, to what pruning left. */
  readonly error?: RoundingError;
}

export interface Written {
  /** Of the file. */
  readonly bytes: number;
  /** In the order of the file. */
  readonly matrices: readonly MatrixReport[];
  readonly notes: readonly string[];
}

/** Weights that are decoded at a time where rows can be read one by one. */
const PIECE_WEIGHTS = 1 << 20;
const COPY_BYTES = 4 << 20;

/** How far scales moved when they were rounded to f16. */
interface RoundedScales {
  tensors: number;
  largest: number;
}

/**
 * Writes a GGUF file. Holds at most one matrix at a time, as it is read, as int8 and packed.
 * @throws ConvertError or GgufError on weights or scales that the type does not hold; the signal's reason when aborted
 */
export async function writeTensors(
  sink: Sink,
  metadata: ReadonlyMap<string, TypedValue>,
  tensors: readonly OutputTensor[],
  options: WriteOptions,
): Promise<Written> {
  const shapes = tensors.map(({ type, input: { name, dims } }) => ({ name, type, dims }));
  const header = headerBytes(metadata, shapes);
  const totalBytes = tensors.reduce((sum, { input }) => sum + input.bytes, 0);
  let doneBytes = 0;
  let end = 0;
  const write = async (bytes: Uint8Array) => {
    await sink.write(end, bytes);
    end += bytes.length;
  };
  const rounded: RoundedScales = { tensors: 0, largest: 0 };
  const matrices: MatrixReport[] = [];

  await write(header.bytes);
  for (const [i, { type, input, tiles }] of tensors.entries()) {
    const report = (share: number) => {
      options.signal?.throwIfAborted();
      options.onProgress?.({ doneBytes: doneBytes + share * input.bytes, totalBytes, tensor: input.name });
    };
    report(0);
    const matrix = await matrixOf(type, input, options, matrices);
    if (matrix !== undefined) {
      if ('ternary' in matrix) noteScales(type, matrix.ternary, rounded);
      if ('ternary' in matrix && isTernary(type)) await write(encodeTernary(type, matrix.ternary, input, tiles));
      else {
        const floats = floatsOf(matrix, input);
        await writePieces(write, report, type, input, async (first, count) => rowsAt(floats, first, count));
      }
    } else if (type === input.type && input.plus === undefined && input.order === undefined) {
      await copy(write, report, input);
    } else await writePieces(write, report, type, input, (first, count) => readRows(input, first, count));
    report(1);
    doneBytes += input.bytes;
    await write(new Uint8Array((header.at[i + 1] ?? header.size) - end));
  }
  return { bytes: header.size, matrices, notes: roundingNotes(rounded) };
}

/** A tensor that cannot be written row by row as it is read: pruned and rounded where that is asked for. */
async function matrixOf(
  type: TensorType,
  input: InputTensor,
  { quantize: rounds, block, importance, prune }: MatrixWork,
  reports: MatrixReport[],
): Promise<Matrix | undefined> {
  const isWorked = MATRIX.test(input.name) && (rounds || prune !== undefined);
  if (!isTernary(type) && hasRows(input) && !input.isMaster && !isWorked) return undefined;
  const given = await readMatrix(input);
  if ('floats' in given && isTernary(type) && !rounds) {
    throw new ConvertError(
      `${input.where}: ${input.type} weights that are not ternary (expected -s, 0 and s with one s); quantize rounds them`,
    );
  }
  if (!isWorked) return given;
  const pruned = prune === undefined ? given : await prune(input, given);
  const { name } = input;
  const h = importance?.get(name);
  const isRounded = rounds && 'floats' in pruned;
  const ternary = isRounded ? quantize(pruned.floats, block, h) : undefined;
  const made = ternary === undefined ? pruned : { ternary };
  if (pruned !== given || (isRounded && h !== undefined)) {
    const zerosOf = (matrix: Matrix) => countZeros(floatsOf(matrix, input));
    const zeros = zerosOf(made);
    const before = made === given ? zeros : zerosOf(given);
    const weights = rowsOf(input) * input.dims[0];
    reports.push({ name, weights, pruned: zerosOf(pruned) - before, zeros, error: ternary?.error });
  }
  return made;
}

const floatsOf = (matrix: Matrix, { dims, where }: InputTensor): Floats =>
  'ternary' in matrix ? scaled(matrix.ternary, dims[0], where) : matrix.floats;

function countZeros({ rows, row }: Floats): number {
  let zeros = 0;
  for (let r = 0; r < rows; r++) for (const value of row(r)) zeros += +(value === 0);
  return zeros;
}

function encodeTernary(type: TernaryType, ternary: Ternary, input: InputTensor, tiles: Tiles | undefined): Uint8Array {
  const fitting = type === 'TQ1_0' || type === 'TQ2_0' ? ternary : withOneScale(ternary, input.where, type);
  try {
    return TERNARY[type].encode(fitting, input.dims, tiles);
  } catch (cause) {
    // The layout knows no name.
    throw new ConvertError(`${input.where}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The same numbers with one scale for the tensor; the weights may be changed in place. Blocks without weights other than 0 may
 * have any scale.
 * @throws ConvertError where the scales differ
 */
function withOneScale({ weights, scales }: Ternary, where: string, type: string): Ternary {
  if (scales.length === 1) return { weights, scales };
  const width = weights.length / scales.length;
  let scale = 0;
  let first = 0;
  for (const [block, s] of scales.entries()) {
    const part = weights.subarray(block * width, (block + 1) * width);
    if (s === scale || part.every((w) => w === 0)) continue;
    if (s === 0) part.fill(0);
    else if (scale === 0) [scale, first] = [s, block];
    else {
      const differ = `block ${first} has the scale ${scale}, block ${block} has ${s}`;
      throw new ConvertError(`${where}: ${differ}: scales of blocks do not fit the one of a tensor (${type})`);
    }
  }
  if (scale < 0) for (let i = 0; i < weights.length; i++) weights[i] = -weights[i];
  return { weights, scales: Float32Array.of(Math.abs(scale) || 1) };
}

function noteScales(type: TensorType, { scales }: Ternary, rounded: RoundedScales): void {
  if (type !== 'TQ1_0' && type !== 'TQ2_0' && type !== 'F16') return;
  let largest = 0;
  for (const scale of scales) {
    if (scale !== 0) largest = Math.max(largest, Math.abs(f16.f16Value(f16.f16Bits(scale)) / scale - 1));
  }
  if (largest > 0) rounded.tensors++;
  rounded.largest = Math.max(rounded.largest, largest);
}

function roundingNotes({ tensors, largest }: RoundedScales): string[] {
  if (tensors === 0) return [];
  const share = (100 * largest).toPrecision(2);
  return [`scales of ${tensors} ${tensors === 1 ? 'tensor' : 'tensors'} rounded to F16, by at most ${share} %`];
}

function rowsAt({ cols, row }: Floats, first: number, count: number): Float32Array {
  const values = new Float32Array(count * cols);
  for (let r = 0; r < count; r++) values.set(row(first + r), r * cols);
  return values;
}

type Write = (bytes: Uint8Array) => Promise<void>;
type Report = (share: number) => void;

async function copy(write: Write, report: Report, { file, at, bytes }: InputTensor): Promise<void> {
  for (let done = 0; done < bytes; done += COPY_BYTES) {
    const piece = new Uint8Array(Math.min(COPY_BYTES, bytes - done));
    await file.read(at + done, piece);
    await write(piece);
    report((done + piece.length) / bytes);
  }
}

async function writePieces(
  write: Write,
  report: Report,
  type: TensorType,
  input: InputTensor,
  read: (first: number, count: number) => Promise<Float32Array>,
): Promise<void> {
  const { where, dims } = input;
  const encode = encoderOf(type, where);
  const rows = rowsOf(input);
  const most = Math.max(1, Math.floor(PIECE_WEIGHTS / dims[0]));
  for (let first = 0; first < rows; first += most) {
    const count = Math.min(most, rows - first);
    await write(encode(await read(first, count)));
    report((first + count) / rows);
  }
}

const ENCODERS: Readonly<Record<string, (values: Float32Array) => Uint8Array>> = {
  F32: f32.encode,
  F16: f16.encode,
  Q8_0: q80.encode,
  Q6_K: q6k.encode,
};

/** Of a type that rows are written as. Throws what the layout throws with the tensor's name, and on what F16 does not hold. */
function encoderOf(type: TensorType, where: string): (values: Float32Array) => Uint8Array {
  return (values) => {
    try {
      const packed = ENCODERS[type](values);
      if (type === 'F16') checkFinite(packed, values);
      return packed;
    } catch (cause) {
      throw new ConvertError(`${where}: ${(cause as Error).message}`, { cause });
    }
  };
}

function checkFinite(packed: Uint8Array, values: Float32Array): void {
  for (let i = 1; i < packed.length; i += 2) {
    if ((packed[i] & 0x7c) !== 0x7c) continue;
    throw new ConvertError(`a number ${values[i >> 1]}, expected a finite one of at most 65504 (F16)`);
  }
}
