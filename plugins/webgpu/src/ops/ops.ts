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
  const todo = (): never => {
    throw new Error('todo');
  };
  return {
    ...linearOps(recorder),
    ...repackOps(recorder),
    ...attentionOps(recorder),
    ...sampleOps(recorder),
    embed: embedOp(recorder),
    buildScreen: todo,
    head: headOp(recorder),
  };
}
