import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import { bitsOf, type Recorder } from '../recorder.ts';
import { attention } from '../shaders/attention.ts';
import { attentionScores, groupsOfRow, KEYS, MOST_SPLITS, partsBytes } from '../shaders/attention_scores.ts';
import { MOST_HEAD_DIM, rope } from '../shaders/rope.ts';

/** Of the parts of rows that are attended to at once: 11 rows of 20 heads of 128 in a context of 4096. */
const PARTS_BYTES = 4 << 20;

/** One row takes two dispatches. More are first all appended to the cache, since they see each other. */
export function attentionOps(g: Recorder): Pick<Ops<GpuTensor>, 'attention'> {
  return {
    attention(op) {
      const { rows, heads, headNorms, places, kv, q, k, v, out, scratch } = op;
      const { type, kvHeads, headDim, blockSize, maxBlocks } = kv;
      if (headDim % 4 !== 0 || headDim > MOST_HEAD_DIM) {
        throw new RangeError(`webgpu: heads of ${headDim}, expected a multiple of 4 up to ${MOST_HEAD_DIM}`);
      }
      const data = kv.data[op.layer];
      const [qNorm, kNorm] = headNorms ?? [];
      const weightOf = (norm: typeof qNorm) => (norm === undefined ? [] : [norm.weight]);
      const normed = headNorms !== undefined;
      const splits = Math.min(MOST_SPLITS, Math.ceil((maxBlocks * blockSize) / KEYS));
      const interleaved = op.ropeStyle === 'norm' ? 1 : 0;
      const shape = (row: number) => [
        ...[row, heads, kvHeads, headDim / 4, op.ropeDim, interleaved, blockSize, maxBlocks, splits],
        ...[Math.fround(1 / Math.fround(Math.sqrt(headDim))), qNorm?.eps ?? 0, kNorm?.eps ?? 0].map(bitsOf),
      ];
      if (rows > 1) {
        const buffers = [k, v, op.rope, places.pos, places.sequence, kv.tables, data, ...weightOf(kNorm)];
        g.dispatch(rope(g.variant, type, normed), buffers, shape(0), [kvHeads, rows]);
      }
      const rowBytes = partsBytes(heads, headDim, maxBlocks * blockSize);
      const most = Math.min(rows, Math.max(1, Math.floor(PARTS_BYTES / rowBytes)));
      const parts = g.part(scratch, 'attention', most * rowBytes);
      for (let row = 0; row < rows; row += most) {
        const count = Math.min(most, rows - row);
        g.dispatch(
          attentionScores(g.variant, type, normed),
          [q, op.rope, places.pos, places.sequence, kv.tables, data, parts, ...weightOf(qNorm)],
          shape(row),
          [groupsOfRow(heads, kvHeads, splits), count],
        );
        g.dispatch(
          attention(g.variant, type, normed),
          [k, v, op.rope, parts, kv.tables, data, out, ...weightOf(kNorm)],
          shape(row),
          [heads, count],
        );
      }
    },
  };
}
