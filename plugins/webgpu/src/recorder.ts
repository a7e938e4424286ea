import type { DeviceErrors } from './errors.ts';
import type { GpuMemory, GpuTensor } from './memory.ts';
import type { Kernel, Variant } from './shaders/declare.ts';

/** A tensor, a buffer, or a piece of one. */
export type Bound =
  | GpuTensor
  | GPUBuffer
  | { readonly buffer: GPUBuffer; readonly offset: number; readonly size: number };

/** What ops enqueue with. */
export interface Recorder {
  readonly variant: Variant;
  readonly limits: GPUSupportedLimits;
  /**
   * Enqueues one dispatch of `groups` workgroups.
   *
   * @param buffers as the kernel declares them, from binding 0 on
   * @param words of the uniform block behind them, without its first; a float through `bitsOf`
   */
  dispatch(
    kernel: Kernel,
    buffers: readonly Bound[],
    words: readonly number[],
    groups: readonly [x: number, y?: number, z?: number],
  ): void;
  /** The buffer `name` of a scratch tensor, at least so long; what is in it lasts until another op uses that name. */
  part(scratch: GpuTensor, name: string, bytes: number): GPUBuffer;
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/** A float as a word of the uniform block. */
export function bitsOf(x: number): number {
  float[0] = x;
  return floatBits[0];
}

export interface Dispatch {
  readonly stem: string;
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly groups: readonly [x: number, y: number, z: number];
}

/** Dispatches in order, with the one buffer that holds all their uniform blocks. */
export interface Recording {
  /** Not before the shaders are compiled, which goes on for all of them at once, off the host's thread where the device can. */
  readonly dispatches: readonly Dispatch[] | undefined;
  /** Rejects when a shader is refused. */
  readonly ready: Promise<readonly Dispatch[]>;
  readonly uniforms: GPUBuffer;
}

export interface RecordingDevice {
  readonly recorder: Recorder;
  /** All that `build` dispatches. */
  record(build: () => void): Recording;
}

const { UNIFORM, COPY_DST } = { UNIFORM: 0x40, COPY_DST: 0x08 };

export function createRecorder(
  device: GPUDevice,
  memory: GpuMemory,
  variant: Variant,
  errors: DeviceErrors,
): RecordingDevice {
  /** By their code; the device's answer until it is there. */
  const pipelines = new Map<string, GPUComputePipeline | Promise<GPUComputePipeline>>();
  const { limits } = device;
  const stride = limits.minUniformBufferOffsetAlignment;
  let steps: Parameters<Recorder['dispatch']>[] | undefined;

  async function compiled({ stem, code }: Kernel): Promise<GPUComputePipeline> {
    const refused = (message: string) => new Error(`webgpu: ${stem}: ${message}`);
    const module = errors.watch('validation', () => device.createShaderModule({ label: stem, code }), refused);
    try {
      const compute = { module, entryPoint: 'main' };
      const pipeline = await device.createComputePipelineAsync({ label: stem, layout: 'auto', compute });
      pipelines.set(code, pipeline);
      return pipeline;
    } catch (error) {
      pipelines.delete(code);
      // What is wrong with the text says more than that it has no pipeline.
      await errors.check();
      throw refused((error as Error).message);
    }
  }
  function pipelineOf(kernel: Kernel): GPUComputePipeline | Promise<GPUComputePipeline> {
    const known = pipelines.get(kernel.code);
    if (known !== undefined) return known;
    const coming = compiled(kernel);
    pipelines.set(kernel.code, coming);
    return coming;
  }

  const resourceOf = (bound: Bound): Required<GPUBufferBinding> => {
    const resource = 'buffer' in bound ? bound : { buffer: bound };
    const { buffer, offset = 0, size = buffer.size } = resource as GPUBufferBinding & { buffer: GPUBuffer };
    return { buffer, offset, size };
  };
  const blockBytes = (words: readonly number[]) => Math.ceil((4 + 4 * words.length) / 16) * 16;

  const recorder: Recorder = {
    variant,
    limits,
    dispatch(...step) {
      if (steps === undefined) throw new Error('ops are called inside record()');
      const [{ stem }, buffers] = step;
      const most = limits.maxStorageBufferBindingSize;
      for (const { size } of buffers.map(resourceOf)) {
        if (size <= most) continue;
        throw new RangeError(`webgpu: ${stem} reads ${size} bytes at once; this device binds ${most} at most`);
      }
      steps.push(step);
    },
    part: memory.part,
  };

  return {
    recorder,
    record(build) {
      if (steps !== undefined) throw new Error('record() inside record()');
      steps = [];
      const recorded = steps;
      try {
        build();
      } finally {
        steps = undefined;
      }
      const step = Math.max(stride, ...recorded.map(([, , words]) => Math.ceil(blockBytes(words) / stride) * stride));
      const blocks = new Uint32Array((recorded.length * step) / 4);
      for (const [i, [, , words]] of recorded.entries()) blocks.set(words, (i * step) / 4 + 1);
      const uniforms = memory.create(blocks.byteLength, UNIFORM | COPY_DST);
      device.queue.writeBuffer(uniforms, 0, blocks);

      const dispatchesOf = (all: readonly GPUComputePipeline[]): readonly Dispatch[] =>
        recorded.map(([{ stem }, buffers, words, [x, y = 1, z = 1]], i) => {
          const uniform = { buffer: uniforms, offset: i * step, size: blockBytes(words) };
          const group = device.createBindGroup({
            layout: all[i].getBindGroupLayout(0),
            entries: [...buffers.map(resourceOf), uniform].map((resource, binding) => ({ binding, resource })),
          });
          return { stem, pipeline: all[i], group, groups: [x, y, z] };
        });
      const made = recorded.map(([kernel]) => pipelineOf(kernel));
      const known = made.filter((pipeline): pipeline is GPUComputePipeline => !(pipeline instanceof Promise));
      if (known.length === made.length) {
        const dispatches = dispatchesOf(known);
        return { dispatches, ready: Promise.resolve(dispatches), uniforms };
      }
      const recording: { -readonly [K in keyof Recording]: Recording[K] } = {
        dispatches: undefined,
        ready: Promise.all(made).then((all) => {
          recording.dispatches = dispatchesOf(all);
          return recording.dispatches;
        }),
        uniforms,
      };
      recording.ready.catch(() => {}); // told by the run
      return recording;
    },
  };
}
