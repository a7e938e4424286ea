import type { DenseType } from 'ternlm/backend';
import { rowBytes } from '../shaders/decode_row.ts';
import { denseLinear, tileOf } from '../shaders/dense_linear.ts';
import { prepareDense, roundingOf } from '../shaders/prepare_dense.ts';
import { normWords } from './i2_s.ts';
import type { Multiplier } from './multiply.ts';
import { windowsOf } from './windows.ts';

/** Rows by a matrix of numbers, in f32. */
export const dense = (type: DenseType): Multiplier => ({
  prepare(g, _type, rows) {
    const { weights, eps } = normWords(rows);
    const seen = g.part(rows.scratch, `${rows.name} dense`, rows.rows * rows.cols * 4);
    g.dispatch(
      prepareDense(g.variant, rows.norms.length as 0 | 1 | 2, rows.index !== undefined),
      [rows.x, seen, ...weights, ...(rows.index === undefined ? [] : [rows.index])],
      [rows.cols, ...eps, roundingOf(type)],
      [rows.rows],
    );
    return { rows: rows.rows, buffers: [seen] };
  },
  multiply(g, w, { rows, buffers: [seen] }, add, y) {
    const bytes = rowBytes(type, w.cols);
    const tile = tileOf(rows);
    for (const { first, rows: wRows, bound } of windowsOf(g, w.tensor, w.rows, bytes).windows) {
      g.dispatch(
        denseLinear(g.variant, type, tile.single),
        [bound, seen, y],
        [w.cols, bytes, wRows, first, w.rows, rows, tile.tiles, add ? 1 : 0],
        // Groups that share rows of W stand next to each other, for the sake of caches.
        [Math.ceil(rows / tile.xRows), Math.ceil(wRows / tile.wRows)],
      );
    }
  },
});
