import type { Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import type { Recorder } from '../recorder.ts';
import { embedOp } from './embed.ts';
import { headOp } from './head.ts';
import { linearOps } from './linear.ts';

/** The blocks of a transformer as dispatches. */
export function createOps(recorder: Recorder): Ops<GpuTensor> {
  const todo = (): never => {
    throw new Error('todo');
  };
  return {
    ...linearOps(recorder),
    embed: embedOp(recorder),
    attention: todo,
    sample: todo,
    advance: todo,
    checkTernary: todo,
    repack: todo,
    buildScreen: todo,
    head: headOp(recorder),
  };
}
