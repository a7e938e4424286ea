import { TILE_ROWS, TILE_TOKENS } from '../shaders/bit_linear_batch.ts';
import { bitLinearTqBatch } from '../shaders/bit_linear_tq_batch.ts';
import { MOST_TQ_COLS, prepareQ8K } from '../shaders/quantize_q8_k.ts';
import { normWords } from './i2_s.ts';
import type { Multiplier } from './multiply.ts';

/** Batches of rows by TQ2_0: prepared once, then tiles of them by tiles of W. */
export const tq20: Multiplier = {
  prepare(g, _type, { rows, cols, x, index, norms, scratch, name }) {
    if (index !== undefined) throw new Error('webgpu: a TQ2_0 head');
    if (cols > MOST_TQ_COLS) {
      throw new RangeError(`webgpu: a TQ2_0 matrix with ${cols} columns, expected at most ${MOST_TQ_COLS}`);
    }
    const { weights, eps } = normWords({ norms });
    const q = g.part(scratch, `${name} q`, rows * cols);
    const info = g.part(scratch, `${name} info`, (rows * cols) / 32);
    g.dispatch(prepareQ8K(g.variant, norms.length as 0 | 1 | 2), [x, q, info, ...weights], [cols, ...eps], [rows]);
    return { rows, buffers: [q, info] };
  },
  multiply(g, w, { rows, buffers }, add, y) {
    g.dispatch(
      bitLinearTqBatch(g.variant, add),
      [w.tensor, ...buffers, y],
      [w.cols / 256, w.rows, rows],
      [Math.ceil(w.rows / TILE_ROWS), Math.ceil(rows / TILE_TOKENS)],
    );
  },
};
