import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import type { Recorder } from '../recorder.ts';
import { ADVANCE_ROWS, advance } from '../shaders/advance.ts';
import { sample } from '../shaders/sample.ts';
import { SLICE, sampleSlice } from '../shaders/sample_slice.ts';

/** Tokens out of logits. A vocabulary has at most 2^18 of them: sums of their weights have 62 bits. */
const MOST_VOCAB = 2 ** 18;

export function sampleOps(g: Recorder): Pick<Ops<GpuTensor>, 'sample' | 'advance'> {
  return {
    sample({ outs, vocab, logits, params, stride, picks, scratch }) {
      if (vocab > MOST_VOCAB) {
        throw new RangeError(`webgpu: sample: a vocabulary of ${vocab}, expected at most ${MOST_VOCAB}`);
      }
      const count = Math.ceil(vocab / SLICE);
      const slices = g.part(scratch, 'sample slices', outs * count * 16);
      const entries = g.part(scratch, 'sample entries', outs * count * SLICE * 4);
      g.dispatch(sampleSlice(g.variant), [logits, params, slices, entries], [vocab, stride / 4], [count, outs]);
      g.dispatch(sample(g.variant), [logits, params, slices, entries, picks], [vocab, stride / 4, count], [outs]);
    },
    advance({ outs, picks, tokens, pos, params, stride }) {
      g.dispatch(
        advance(g.variant),
        [picks, tokens, pos, params],
        [outs, stride / 4],
        [Math.ceil(outs / ADVANCE_ROWS)],
      );
    },
  };
}
