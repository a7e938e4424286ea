/** What a device was asked for since `counting` began, or since `reset`. */
export interface Counts {
  /** Not destroyed, and their bytes; `reset` leaves them. */
  buffers: number;
  bytes: number;
  dispatches: number;
  submits: number;
  /** Looked at by the host. */
  readBytes: number;
  reset(): void;
}

/** Counts what a device does, the real one, which goes on doing it: its methods are stood in for by ones that count. */
export function counting(device: GPUDevice): Counts {
  const counts: Counts = {
    ...{ buffers: 0, bytes: 0, dispatches: 0, submits: 0, readBytes: 0 },
    reset: () => Object.assign(counts, { dispatches: 0, submits: 0, readBytes: 0 }),
  };
  wrap(device, 'createBuffer', (buffer) => {
    counts.buffers++;
    counts.bytes += buffer.size;
    let live = true;
    wrap(buffer, 'destroy', () => {
      if (!live) return;
      live = false;
      counts.buffers--;
      counts.bytes -= buffer.size;
    });
    wrap(buffer, 'getMappedRange', (range) => {
      counts.readBytes += range.byteLength;
    });
  });
  wrap(device, 'createCommandEncoder', (encoder) => {
    wrap(encoder, 'beginComputePass', (pass) => {
      wrap(pass, 'dispatchWorkgroups', () => {
        counts.dispatches++;
      });
    });
  });
  wrap(device.queue, 'submit', () => {
    counts.submits++;
  });
  return counts;
}

type Method = (...args: never[]) => unknown;
type Methods<X> = { [K in keyof X]: X[K] extends Method ? K : never }[keyof X];

/** Calls `look` with what the method gave, each time that it is called. */
function wrap<X extends object, K extends Methods<X>>(
  object: X,
  method: K,
  look: (result: X[K] extends (...args: never[]) => infer R ? R : never) => void,
): void {
  const own = object[method] as (...args: unknown[]) => never;
  const counted = (...args: unknown[]) => {
    const result = own.apply(object, args);
    look(result);
    return result;
  };
  Object.defineProperty(object, method, { value: counted });
}

/**
 * A device with memory for everything, of which nothing is taken, and whose programs do nothing: what is encoded for it, and
 * thus counted, is what is encoded for a real one of these limits, as nothing of that hangs on what a program computes.
 */
export function emptyDevice({
  maxBufferSize,
  maxStorageBufferBindingSize,
}: Pick<GPUSupportedLimits, 'maxBufferSize' | 'maxStorageBufferBindingSize'>): GPUDevice {
  const nothing = () => {};
  const pass = { setPipeline: nothing, setBindGroup: nothing, dispatchWorkgroups: nothing, end: nothing };
  const info = {
    vendor: 'none',
    architecture: '',
    device: '',
    description: '',
    subgroupMinSize: 8,
    subgroupMaxSize: 8,
  };
  const device = {
    limits: {
      minUniformBufferOffsetAlignment: 256,
      minStorageBufferOffsetAlignment: 256,
      maxBufferSize,
      maxStorageBufferBindingSize,
    },
    features: new Set(['subgroups']),
    adapterInfo: info,
    lost: new Promise(nothing),
    queue: { submit: nothing, writeBuffer: nothing, onSubmittedWorkDone: async () => {} },
    addEventListener: nothing,
    removeEventListener: nothing,
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    createShaderModule: () => ({}),
    createComputePipelineAsync: async () => ({ getBindGroupLayout: () => ({}) }),
    createBuffer: ({ size }: GPUBufferDescriptor) => ({
      size,
      destroy: nothing,
      unmap: nothing,
      mapAsync: async () => {},
      getMappedRange: (_: number, bytes: number) => new ArrayBuffer(bytes),
    }),
    createBindGroup({ entries }: { entries: readonly { resource: GPUBufferBinding }[] }) {
      for (const { resource } of entries) checkBinding(resource, maxStorageBufferBindingSize);
      return {};
    },
    createCommandEncoder: () => ({
      beginComputePass: () => ({ ...pass }),
      copyBufferToBuffer: nothing,
      finish: () => ({}),
    }),
    destroy: nothing,
  };
  return device as unknown as GPUDevice;
}

/** What a real device would refuse, late. */
function checkBinding({ buffer, offset = 0, size = buffer.size - offset }: GPUBufferBinding, most: number): void {
  if (offset % 256 !== 0 || offset + size > buffer.size || size > most) {
    throw new Error(`bound: ${size} bytes at ${offset} of a buffer of ${buffer.size}, of at most ${most}`);
  }
}
