import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import { bitsOf, type Recorder } from '../recorder.ts';
import { isDense } from '../shaders/decode_row.ts';
import { rmsNorm } from '../shaders/rms_norm.ts';
import { multiplierOf } from './multiply.ts';

/** The rows whose logits are wanted, prepared, by the head. */
export function headOp(g: Recorder): Ops<GpuTensor>['head'] {
  return ({ outs, index, x, norm, w, screen, logits, scratch }) => {
    if (screen !== undefined) throw new Error('webgpu: a head with a screen, which has no bytes here');
    const { type, cols } = w;
    const multiplier = multiplierOf(type);
    const common = { rows: outs, cols, scratch, name: 'head' };
    if (isDense(type)) {
      multiplier.multiply(g, w, multiplier.prepare(g, type, { ...common, x, index, norms: [norm] }), false, logits);
      return;
    }
    // Rare: ternary products gather no rows themselves.
    const normed = g.part(scratch, 'head rows', outs * cols * 4);
    g.dispatch(rmsNorm(g.variant, 'store'), [x, norm.weight, normed, index], [cols, bitsOf(norm.eps)], [outs]);
    const prepared = multiplier.prepare(g, type, { ...common, x: normed, index: undefined, norms: [] });
    multiplier.multiply(g, w, prepared, false, logits);
  };
}
