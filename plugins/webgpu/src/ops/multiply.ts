import type { Matrix, Norm, WeightType } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import type { Recorder } from '../recorder.ts';
import { isDense } from '../shaders/decode_row.ts';
import { dense } from './dense.ts';
import { i2s } from './i2_s.ts';
import { tq20 } from './tq2_0.ts';

/** Rows of x on their way to matrices. */
export interface Rows {
  readonly rows: number;
  readonly cols: number;
  readonly x: GpuTensor | GPUBuffer;
  /** i32 [rows]: which rows of x; all in order where there is none. */
  readonly index: GpuTensor | undefined;
  /** RMSNorms that they go through, none to two. */
  readonly norms: readonly Norm<GpuTensor>[];
  readonly scratch: GpuTensor;
  /** Of what is prepared: several may be in use at once. */
  readonly name: string;
}

/** Rows as a type of matrix wants them, in buffers of its own choice. */
export interface Prepared {
  readonly rows: number;
  readonly buffers: readonly GPUBuffer[];
}

/** How matrices of some types are multiplied. */
export interface Multiplier {
  /** Norms, and what becomes of x before it meets a matrix of `type`. */
  prepare(g: Recorder, type: WeightType, rows: Rows): Prepared;
  /** y [rows][w.rows] = W prepared, or with `add` y += W prepared. */
  multiply(g: Recorder, w: Matrix<GpuTensor>, prepared: Prepared, add: boolean, y: GpuTensor | GPUBuffer): void;
}

/** @throws RangeError for a type that has to be repacked first */
export function multiplierOf(type: WeightType): Multiplier {
  if (type === 'i2_s') return i2s;
  if (type === 'tq2_0') return tq20;
  if (isDense(type)) return dense(type);
  throw new RangeError(`webgpu: matrices of ${type} are not computed with, they are repacked when they are loaded`);
}
