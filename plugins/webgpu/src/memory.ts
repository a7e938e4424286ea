import type { Tensor } from 'ternlm/backend';
import type { DeviceErrors } from './errors.ts';

/** A buffer of its own. */
export interface GpuTensor extends Tensor {
  readonly buffer: GPUBuffer;
  /** Of a scratch tensor: the buffers that ops made of it, by name, the largest last. */
  readonly parts: Map<string, GPUBuffer[]>;
}

export interface GpuMemory {
  alloc(bytes: number): GpuTensor;
  /** A buffer of at least so many bytes that goes with the tensor. */
  part(tensor: GpuTensor, name: string, bytes: number): GPUBuffer;
  /** A buffer that goes with its user. */
  create(bytes: number, usage: GPUBufferUsageFlags): GPUBuffer;
  destroy(buffer: GPUBuffer): void;
  free(tensor: GpuTensor): void;
  used(): number;
  dispose(): void;
}

const { STORAGE, COPY_SRC, COPY_DST } = { STORAGE: 0x80, COPY_SRC: 0x04, COPY_DST: 0x08 };

/** Buffers of a device, each counted. Running out of memory is told by the next `check` of the errors. */
export function createGpuMemory(device: GPUDevice, errors: DeviceErrors): GpuMemory {
  const live = new Map<GPUBuffer, number>();
  let used = 0;

  function create(bytes: number, usage: GPUBufferUsageFlags): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const { maxBufferSize } = device.limits;
    if (!(size <= maxBufferSize)) {
      throw new RangeError(`webgpu: ${bytes} bytes wanted in one buffer; this device has ${maxBufferSize} at most`);
    }
    const inUse = used;
    const buffer = errors.watch(
      'out-of-memory',
      () => device.createBuffer({ size, usage }),
      (message) => new RangeError(`webgpu: ${size} bytes wanted, ${inUse} in use: ${message}`),
    );
    live.set(buffer, size);
    used += size;
    return buffer;
  }
  function destroy(buffer: GPUBuffer): void {
    const size = live.get(buffer);
    if (size === undefined) throw new Error('webgpu: a buffer was freed that is not allocated');
    live.delete(buffer);
    used -= size;
    buffer.destroy();
  }

  return {
    create,
    destroy,
    alloc: (bytes) => ({ bytes, buffer: create(bytes, STORAGE | COPY_SRC | COPY_DST), parts: new Map() }),
    part(tensor, name, bytes) {
      const buffers = tensor.parts.get(name) ?? [];
      tensor.parts.set(name, buffers);
      const last = buffers.at(-1);
      if (last !== undefined && last.size >= bytes) return last;
      // Programs that were recorded with the smaller one keep it.
      const room = 2 ** Math.ceil(Math.log2(Math.max(16, bytes)));
      const size = room <= device.limits.maxStorageBufferBindingSize ? room : bytes;
      const buffer = create(size, STORAGE | COPY_SRC | COPY_DST);
      buffers.push(buffer);
      return buffer;
    },
    free(tensor) {
      destroy(tensor.buffer);
      for (const buffers of tensor.parts.values()) for (const buffer of buffers) destroy(buffer);
    },
    used: () => used,
    dispose() {
      for (const buffer of [...live.keys()]) destroy(buffer);
    },
  };
}
