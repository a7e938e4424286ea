import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import { bitsOf, type Recorder } from '../recorder.ts';
import { THREADS } from '../shaders/declare.ts';
import { rowBytes } from '../shaders/decode_row.ts';
import { embed, MOST_WINDOWS } from '../shaders/embed.ts';
import { windowsOf } from './windows.ts';

/** A dispatch for every few windows of the table: for all but the largest one is enough. */
export function embedOp(g: Recorder): Ops<GpuTensor>['embed'] {
  return ({ rows, dim, type, scale = 1, tokens, table, x }) => {
    const bytes = rowBytes(type, dim);
    const { each, windows } = windowsOf(g, table, table.bytes / bytes, bytes);
    for (let i = 0; i < windows.length; i += MOST_WINDOWS) {
      const seen = windows.slice(i, i + MOST_WINDOWS);
      g.dispatch(
        embed(g.variant, type, seen.length),
        [tokens, x, ...seen.map(({ bound }) => bound)],
        [dim, bitsOf(scale), bytes, seen[0].first, each],
        [rows, Math.ceil(dim / 8 / THREADS)],
      );
    }
  };
}
