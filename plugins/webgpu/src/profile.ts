import type { GpuMemory } from './memory.ts';
import type { Dispatch } from './recorder.ts';

/** Time that the dispatches of one stem took since the backend was opened. */
export interface StemTime {
  readonly stem: string;
  readonly dispatches: number;
  readonly ms: number;
}

/** Timestamps of every dispatch, each in a pass of its own, as a device stamps passes only. */
export interface Profiler {
  /** Encodes runs of dispatches; call the result when they are done. `encode` puts one dispatch into a pass. */
  run(
    encoder: GPUCommandEncoder,
    dispatches: readonly Dispatch[],
    encode: (pass: GPUComputePassEncoder, dispatch: Dispatch) => void,
  ): () => Promise<void>;
  times(): readonly StemTime[];
}

const { QUERY_RESOLVE, MAP_READ, COPY_SRC, COPY_DST } = {
  ...{ QUERY_RESOLVE: 0x0200, MAP_READ: 0x01, COPY_SRC: 0x04, COPY_DST: 0x08 },
};

export function createProfiler(device: GPUDevice, memory: GpuMemory): Profiler {
  const stems = new Map<string, { dispatches: number; ms: number }>();
  return {
    run(encoder, dispatches, encode) {
      const count = 2 * dispatches.length;
      const querySet = device.createQuerySet({ type: 'timestamp', count });
      const resolved = memory.create(8 * count, QUERY_RESOLVE | COPY_SRC);
      const copy = memory.create(8 * count, MAP_READ | COPY_DST);
      for (const [i, dispatch] of dispatches.entries()) {
        const timestampWrites = { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
        const pass = encoder.beginComputePass({ timestampWrites });
        encode(pass, dispatch);
        pass.end();
      }
      encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, copy, 0, 8 * count);
      return async () => {
        await copy.mapAsync(MAP_READ);
        const stamps = new BigUint64Array(copy.getMappedRange());
        for (const [i, { stem }] of dispatches.entries()) {
          const known = stems.get(stem) ?? { dispatches: 0, ms: 0 };
          // Nanoseconds. A device whose clock was reset in between gives nothing.
          const spent = stamps[2 * i + 1] > stamps[2 * i] ? Number(stamps[2 * i + 1] - stamps[2 * i]) / 1e6 : 0;
          stems.set(stem, { dispatches: known.dispatches + 1, ms: known.ms + spent });
        }
        copy.unmap();
        querySet.destroy();
        memory.destroy(resolved);
        memory.destroy(copy);
      };
    },
    times: () => [...stems].map(([stem, time]) => ({ stem, ...time })).sort((a, b) => b.ms - a.ms),
  };
}
