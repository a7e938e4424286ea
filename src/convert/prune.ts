// Which weights of a matrix become 0, and what is left of it then.
import { ConvertError } from './error.ts';
import { type InputTensor, type Matrix, readMatrix, rowsOf } from './input.ts';
import { type Floats, scaled } from './quantize.ts';

export interface PruneOptions {
  /** Share of each matrix's weights that are to be 0, those that are already included; 0 to 1. */
  readonly ratio: number;
  /** Takes whole neurons of the feed-forward layers instead, this share of them. Default false. */
  readonly structured?: boolean;
}

/** [cols] of a row, 1 where the weight becomes 0; the next call may overwrite it. */
type Mask = (row: number) => Uint8Array;

/** Mean squares [cols] of what a matrix sees, by its name. */
export type Importance = ReadonlyMap<string, Float32Array>;

/**
 * @param tensors all of the file, for the neurons, which lie in three of them
 * @returns what makes of a matrix the pruned one
 */
export function createPruning(
  { ratio, structured = false }: PruneOptions,
  importance: Importance | undefined,
  tensors: readonly InputTensor[],
): (t: InputTensor, matrix: Matrix) => Promise<Matrix> {
  const neurons = new Map<string, Promise<Uint8Array>>();
  const maskOf = async (t: InputTensor, matrix: Matrix): Promise<Mask | undefined> => {
    if (!structured) return smallest(t, matrix, ratio, importance?.get(t.name));
    const [, layer, which] = /^(blk\.\d+\.)ffn_(gate|up|down)\.weight$/.exec(t.name) ?? [];
    if (layer === undefined) return undefined;
    const found = neurons.get(layer) ?? leastNeurons(layer, tensors, ratio, importance);
    neurons.set(layer, found);
    const dropped = await found;
    if (which === 'down') return () => dropped;
    const [none, all] = [new Uint8Array(t.dims[0]), new Uint8Array(t.dims[0]).fill(1)];
    return (row) => (dropped[row] === 1 ? all : none);
  };
  return async (t, matrix) => {
    const mask = await maskOf(t, matrix);
    return mask === undefined ? matrix : masked(matrix, mask, t.dims[0]);
  };
}

function masked(matrix: Matrix, mask: Mask, cols: number): Matrix {
  if ('ternary' in matrix) {
    const weights = matrix.ternary.weights.slice();
    for (let at = 0; at < weights.length; at += cols) {
      const dropped = mask(at / cols);
      for (let i = 0; i < cols; i++) if (dropped[i] === 1) weights[at + i] = 0;
    }
    return { ternary: { ...matrix.ternary, weights } };
  }
  const { floats } = matrix;
  const values = new Float32Array(cols);
  const row = (r: number) => {
    values.set(floats.row(r));
    const dropped = mask(r);
    for (let i = 0; i < cols; i++) if (dropped[i] === 1) values[i] = 0;
    return values;
  };
  return { floats: { ...floats, isPruned: true, row } };
}

/**
 * The `ratio` of the weights with the smallest |w| sqrt(h), zeros first and equal ones in row order.
 * @throws ConvertError where all have the same size and nothing else is known
 */
function smallest(t: InputTensor, matrix: Matrix, ratio: number, h: Float32Array | undefined): Mask {
  const [cols] = t.dims;
  const rows = rowsOf(t);
  if ('ternary' in matrix && h === undefined) {
    throw new ConvertError(
      `${t.where}: ternary weights have one size: to rank them prune needs a sample text (calibrate)`,
    );
  }
  const floats = 'ternary' in matrix ? scaled(matrix.ternary, cols, t.where) : matrix.floats;
  const roots = new Float32Array(cols).fill(1);
  if (h !== undefined) for (let i = 0; i < cols; i++) roots[i] = Math.sqrt(h[i]);
  const keys = new Int32Array(cols);
  const scores = new Float32Array(keys.buffer);
  /** Sizes of floats compare as their bits do; 0 is what is 0 already, a weight that nothing sees 1. */
  const rank = (r: number): Int32Array => {
    const row = floats.row(r);
    for (let i = 0; i < cols; i++) {
      scores[i] = Math.abs(row[i]) * roots[i];
      keys[i] = row[i] === 0 ? 0 : keys[i] + 1;
    }
    return keys;
  };

  // A radix select: first the upper half of the bits of the last key that is taken, then the lower.
  let left = Math.ceil(ratio * rows * cols);
  if (left === 0) return () => new Uint8Array(cols);
  const select = (countOf: (key: number) => number): number => {
    const counts = new Float64Array(1 << 16);
    for (let r = 0; r < rows; r++) {
      const keys = rank(r);
      for (let i = 0; i < cols; i++) {
        const bin = countOf(keys[i]);
        if (bin >= 0) counts[bin]++;
      }
    }
    let bin = 0;
    for (; counts[bin] < left; bin++) left -= counts[bin];
    return bin;
  };
  const high = select((key) => key >> 16);
  const last = (high << 16) | select((key) => (key >> 16 === high ? key & 0xffff : -1));
  // Of those with the last key the first `left`: up to which row, and how many of that row.
  let [lastRow, ofLastRow] = [0, 0];
  for (let r = 0; r < rows && left > 0; r++) {
    const ties = rank(r).reduce((sum, key) => sum + +(key === last), 0);
    [lastRow, ofLastRow] = [r, Math.min(left, ties)];
    left -= ofLastRow;
  }
  const dropped = new Uint8Array(cols);
  return (r) => {
    let ties = r < lastRow ? cols : r === lastRow ? ofLastRow : 0;
    const keys = rank(r);
    for (let i = 0; i < cols; i++) dropped[i] = +(keys[i] < last || (keys[i] === last && ties-- > 0));
    return dropped;
  };
}

/** [neurons], 1 for the `ratio` of them that add least to what their layer gives. */
async function leastNeurons(
  layer: string,
  tensors: readonly InputTensor[],
  ratio: number,
  importance: Importance | undefined,
): Promise<Uint8Array> {
  const read = async (name: string): Promise<Floats> => {
    const t = tensors.find((tensor) => tensor.name === name);
    if (t === undefined)
      throw new ConvertError(`tensor '${name}' is missing: a neuron lies in ffn_gate, ffn_up and ffn_down`);
    const matrix = await readMatrix(t);
    return 'ternary' in matrix ? scaled(matrix.ternary, t.dims[0], t.where) : matrix.floats;
  };
  const downName = `${layer}ffn_down.weight`;
  const down = await read(downName);
  const squares = new Float64Array(down.cols);
  for (let r = 0; r < down.rows; r++) {
    const row = down.row(r);
    for (let i = 0; i < row.length; i++) squares[i] += row[i] * row[i];
  }
  const h = importance?.get(downName);
  if (h !== undefined) for (let i = 0; i < h.length; i++) squares[i] *= h[i];
  else {
    for (const name of ['ffn_gate', 'ffn_up']) {
      const w = await read(`${layer}${name}.weight`);
      if (w.rows !== down.cols) throw new ConvertError(`${w.where}: ${w.rows} rows, expected ${down.cols} neurons`);
      for (let r = 0; r < w.rows; r++) squares[r] *= w.row(r).reduce((sum, x) => sum + x * x, 0);
    }
  }
  const order = Array.from(squares.keys()).sort((a, b) => squares[a] - squares[b] || a - b);
  const dropped = new Uint8Array(squares.length);
  for (const n of order.slice(0, Math.ceil(ratio * order.length))) dropped[n] = 1;
  return dropped;
}
