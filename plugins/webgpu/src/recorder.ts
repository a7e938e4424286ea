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
  readonly dispatches: readonly Dispatch[];
  readonly uniforms: GPUBuffer;
}

export interface RecordingDevice {
  readonly recorder: Recorder;
  /** All that `build` dispatches. */
  record(build: () => void): Recording;
  /** Makes kernels' pipelines at once, off the host's thread where the device can. */
  compile(kernels: readonly Kernel[]): Promise<void>;
}

const { UNIFORM, COPY_DST } = { UNIFORM: 0x40, COPY_DST: 0x08 };

export function createRecorder(
  device: GPUDevice,
  memory: GpuMemory,
  variant: Variant,
  errors: DeviceErrors,
): RecordingDevice {
  const pipelines = new Map<string, GPUComputePipeline>();
  const { limits } = device;
  const stride = limits.minUniformBufferOffsetAlignment;
  let steps: Parameters<Recorder['dispatch']>[] | undefined;

  const descriptor = ({ stem, code }: Kernel): GPUComputePipelineDescriptor => ({
    label: stem,
    layout: 'auto',
    compute: { module: device.createShaderModule({ label: stem, code }), entryPoint: 'main' },
  });

  function pipelineOf(kernel: Kernel): GPUComputePipeline {
    const known = pipelines.get(kernel.code);
    if (known !== undefined) return known;
    const pipeline = errors.watch(
      'validation',
      () => device.createComputePipeline(descriptor(kernel)),
      (message) => {
        pipelines.delete(kernel.code);
        return new Error(`webgpu: ${kernel.stem}: ${message}`);
      },
    );
    pipelines.set(kernel.code, pipeline);
    return pipeline;
  }

  const recorder: Recorder = {
    variant,
    limits,
    dispatch(...step) {
      if (steps === undefined) throw new Error('ops are called inside record()');
      steps.push(step);
    },
    part: memory.part,
  };

  return {
    recorder,
    record(build) {
      if (steps !== undefined) throw new Error('record() inside record()');
      steps = [];
      try {
        build();
        const blockBytes = (words: readonly number[]) => Math.ceil((4 + 4 * words.length) / 16) * 16;
        const step = Math.max(stride, ...steps.map(([, , words]) => Math.ceil(blockBytes(words) / stride) * stride));
        const blocks = new Uint32Array((steps.length * step) / 4);
        const uniforms = memory.create(blocks.byteLength, UNIFORM | COPY_DST);
        const dispatches = steps.map(([kernel, buffers, words, [x, y = 1, z = 1]], i): Dispatch => {
          blocks.set(words, (i * step) / 4 + 1);
          const pipeline = pipelineOf(kernel);
          const entries = buffers.map((bound, binding): GPUBindGroupEntry => {
            const resource = 'buffer' in bound ? bound : { buffer: bound };
            const { buffer, offset = 0, size = buffer.size } = resource as GPUBufferBinding & { buffer: GPUBuffer };
            if (size > limits.maxStorageBufferBindingSize) {
              const most = limits.maxStorageBufferBindingSize;
              throw new RangeError(
                `webgpu: ${kernel.stem} reads ${size} bytes at once; this device binds ${most} at most`,
              );
            }
            return { binding, resource: { buffer, offset, size } };
          });
          const uniform = { buffer: uniforms, offset: i * step, size: blockBytes(words) };
          const group = device.createBindGroup({
            layout: pipeline.getBindGroupLayout(0),
            entries: [...entries, { binding: buffers.length, resource: uniform }],
          });
          return { stem: kernel.stem, pipeline, group, groups: [x, y, z] };
        });
        device.queue.writeBuffer(uniforms, 0, blocks);
        return { dispatches, uniforms };
      } finally {
        steps = undefined;
      }
    },
    async compile(kernels) {
      const missing = new Map(
        kernels.filter(({ code }) => !pipelines.has(code)).map((kernel) => [kernel.code, kernel]),
      );
      await Promise.all(
        [...missing.values()].map(async (kernel) => {
          pipelines.set(kernel.code, await device.createComputePipelineAsync(descriptor(kernel)));
        }),
      );
    },
  };
}
