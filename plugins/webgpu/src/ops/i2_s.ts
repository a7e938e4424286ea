import type { Bound, Recorder } from '../recorder.ts';
import { bitsOf } from '../recorder.ts';
import { bitLinearBatch, TILE_ROWS, TILE_TOKENS } from '../shaders/bit_linear_batch.ts';
import { prepareI8 } from '../shaders/prepare.ts';
import type { Multiplier, Rows } from './multiply.ts';

/** vec4<u32> of a row of I2_S: half blocks of 128. */
export const vectorsOf = (cols: number): number => 2 * Math.ceil(cols / 128);

/** Norm weights as bindings, eps as words: two of them, 0 where there is none. */
export function normWords({ norms }: Pick<Rows, 'norms'>): { weights: Bound[]; eps: [number, number] } {
  const eps = (i: number) => bitsOf(norms[i]?.eps ?? 0);
  return { weights: norms.map(({ weight }) => weight), eps: [eps(0), eps(1)] };
}

/** Batches of rows by I2_S: prepared once, then tiles of them by tiles of W. */
export const i2s: Multiplier = {
  prepare(g: Recorder, _type, rows) {
    if (rows.index !== undefined) throw new Error('webgpu: an I2_S head');
    const { weights, eps } = normWords(rows);
    const paddedCols = 64 * vectorsOf(rows.cols);
    const q = g.part(rows.scratch, `${rows.name} q`, rows.rows * paddedCols);
    const info = g.part(rows.scratch, `${rows.name} info`, rows.rows * 8);
    g.dispatch(
      prepareI8(g.variant, rows.norms.length as 0 | 1 | 2),
      [rows.x, q, info, ...weights],
      [rows.cols, paddedCols, ...eps],
      [rows.rows],
    );
    return { rows: rows.rows, buffers: [q, info] };
  },
  multiply(g, w, { rows, buffers }, add, y) {
    g.dispatch(
      bitLinearBatch(g.variant, add),
      [w.tensor, ...buffers, y],
      [vectorsOf(w.cols), w.rows, rows],
      [Math.ceil(w.rows / TILE_ROWS), Math.ceil(rows / TILE_TOKENS)],
    );
  },
};
