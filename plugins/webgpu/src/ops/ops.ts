import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import type { Recorder } from '../recorder.ts';
import { attentionOps } from './attention.ts';
import { embedOp } from './embed.ts';
import { headOp } from './head.ts';
import { linearOps } from './linear.ts';
import { repackOps } from './repack.ts';
import { sampleOps } from './sample.ts';

/** The blocks of a transformer as dispatches. */
export function createOps(recorder: Recorder): Ops<GpuTensor> {
  return {
    embed: embedOp(recorder),
    ...linearOps(recorder),
    ...attentionOps(recorder),
    head: headOp(recorder),
    ...sampleOps(recorder),
    ...repackOps(recorder),
    buildScreen() {
      throw new Error('webgpu: heads are not screened, they are read whole');
    },
  };
}
