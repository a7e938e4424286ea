import type { Backend, Done, Program, Results } from 'ternlm/backend';
import type { DeviceInfo, OpenDevice } from './device.ts';
import { deviceErrors } from './errors.ts';
import { createGpuMemory, type GpuTensor } from './memory.ts';
import { createOps } from './ops/ops.ts';
import { createProfiler, type StemTime } from './profile.ts';
import { createRecorder, type Dispatch, type Recording } from './recorder.ts';

export interface WebGpuBackend extends Backend<GpuTensor> {
  readonly info: DeviceInfo;
  /** Settles with the reason when the device is gone, by `dispose` too. */
  readonly lost: Promise<Error>;
  /** Time by stem, where the backend was opened with `profile` and the device has timestamps; else nothing. */
  profile(): readonly StemTime[];
  /** Frees everything; the device too, unless it is the caller's own or is to be used again. */
  dispose(options?: { readonly keepDevice?: boolean }): Promise<void>;
}

export interface BackendOptions {
  /** Most tokens of a sequence that one submit computes, 1 to 16. */
  readonly maxRepeats?: number;
  /** Takes timestamps of every dispatch, where the device can; slows everything down. */
  readonly profile?: boolean;
}

interface GpuProgram extends Program {
  readonly recording: Recording;
}

/** Runs of one start: enough to hide a submit's round trip, few enough that tokens stream (not tuned on a GPU). */
const MAX_REPEATS = 16;
/** Pieces in which `fill` hands out memory: some milliseconds of reading; and what Dawn may hold of them at once (not tuned). */
const FILL_BYTES = 8 << 20;
const MAX_WAITING = 128 << 20;

const { MAP_READ, COPY_DST } = { MAP_READ: 0x01, COPY_DST: 0x08 };
const READ = 0x01;

const roundUp = (bytes: number, to: number) => Math.ceil(bytes / to) * to;

/** @throws RangeError for options that are out of range */
export function checkOptions({ maxRepeats = MAX_REPEATS }: BackendOptions): void {
  if (!Number.isInteger(maxRepeats) || maxRepeats < 1 || maxRepeats > MAX_REPEATS) {
    throw new RangeError(`maxRepeats: got ${maxRepeats}, expected a whole number from 1 to ${MAX_REPEATS}`);
  }
}

/** A backend over an open device, of checked options. It takes the device over: `dispose` destroys it, unless it is the caller's own. */
export function backendOver(
  { device, variant, info }: OpenDevice,
  own: boolean,
  { maxRepeats = MAX_REPEATS, profile = false }: BackendOptions = {},
): WebGpuBackend {
  const errors = deviceErrors(device);
  const memory = createGpuMemory(device, errors);
  const { recorder, record } = createRecorder(device, memory, variant, errors);
  const profiler = profile && device.features.has('timestamp-query') ? createProfiler(device, memory) : undefined;
  /** Why nothing can be done any more, from `dispose` on. */
  let end: Error | undefined;
  /** What starts leave for the host, by their size, while no one waits for them: sizes are few, two may be under way. */
  const staging = new Map<number, GPUBuffer[]>();

  const newStaging = (bytes: number): GPUBuffer => memory.create(bytes, MAP_READ | COPY_DST);
  function giveStaging(buffer: GPUBuffer): void {
    const idle = staging.get(buffer.size) ?? [];
    staging.set(buffer.size, idle);
    idle.push(buffer);
  }
  const takeStaging = (bytes: number): GPUBuffer => staging.get(roundUp(bytes, 16))?.pop() ?? newStaging(bytes);
  const gone = () => end ?? errors.lost;
  function checkLive(): void {
    const error = gone();
    if (error !== undefined) throw error;
  }
  /** Maps a staging buffer and hands it out; the error tells of a lost device where that is why. */
  async function mapped(buffer: GPUBuffer, bytes: number, take: (from: Uint8Array) => void): Promise<void> {
    try {
      await buffer.mapAsync(READ, 0, bytes);
      take(new Uint8Array(buffer.getMappedRange(0, bytes)));
      buffer.unmap();
    } catch (error) {
      // A lost device is told by its own promise, a turn later maybe.
      const reason = await Promise.race([
        errors.whenLost,
        new Promise<undefined>((resolve) => setTimeout(resolve, 100)),
      ]);
      if (end === undefined) memory.destroy(buffer);
      throw gone() ?? reason ?? error;
    }
  }

  function encode(pass: GPUComputePassEncoder, { pipeline, group, groups }: Dispatch): void {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...groups);
  }

  /** Submits runs of a program; the result settles when what they left is there. */
  function submit(
    dispatches: readonly Dispatch[],
    repeats: number,
    results: Results<GpuTensor> | undefined,
  ): () => Promise<void> {
    checkLive();
    const encoder = device.createCommandEncoder();
    const bytes = results === undefined ? 0 : roundUp(results.bytes, 4);
    const copies = results === undefined ? undefined : takeStaging(bytes * repeats);
    const timed: (() => Promise<void>)[] = [];
    for (let i = 0; i < repeats; i++) {
      if (profiler !== undefined) timed.push(profiler.run(encoder, dispatches, encode));
      else {
        const pass = encoder.beginComputePass();
        for (const dispatch of dispatches) encode(pass, dispatch);
        pass.end();
      }
      if (results !== undefined && copies !== undefined) {
        encoder.copyBufferToBuffer(results.from.buffer, 0, copies, i * bytes, bytes);
      }
    }
    device.queue.submit([encoder.finish()]);
    return async () => {
      if (results === undefined || copies === undefined) await device.queue.onSubmittedWorkDone();
      else {
        await mapped(copies, bytes * repeats, (from) => {
          for (let i = 0; i < repeats; i++) {
            results.into.set(from.subarray(i * bytes, i * bytes + results.bytes), i * results.bytes);
          }
        });
        if (end === undefined) giveStaging(copies);
      }
      for (const take of timed) await take();
      await errors.check();
    };
  }

  /** Starts whose shaders are not compiled yet, and those behind them. */
  let waiting: Promise<unknown> | undefined;
  function submitted({ dispatches, ready }: Recording, repeats: number, results?: Results<GpuTensor>): Promise<void> {
    // At once where it can be, as what is written next must not overtake it.
    if (dispatches !== undefined && waiting === undefined) return submit(dispatches, repeats, results)();
    const turn = Promise.all([ready, waiting]).then(([compiled]) => submit(compiled, repeats, results));
    const settled = turn.then(
      () => {},
      () => {},
    );
    waiting = settled;
    settled.then(() => {
      if (waiting === settled) waiting = undefined;
    });
    return turn.then((settle) => settle());
  }

  let last: Promise<unknown> = Promise.resolve();
  /** Settles after those that were started before: maps may do so in another order. */
  function start(program: Program, repeats: number, results?: Results<GpuTensor>): Promise<void> {
    const begin = async () => {
      checkLive();
      if (!(repeats >= 1 && repeats <= maxRepeats)) {
        throw new RangeError(`webgpu: ${repeats} runs at one start, expected 1 to ${maxRepeats}`);
      }
      await submitted((program as GpuProgram).recording, repeats, results);
    };
    const done = begin();
    const told = Promise.allSettled([last, done]);
    // Without a value, which would hold those of all starts before it.
    last = told.then(() => {});
    return told.then(() => done);
  }

  function checkRange(tensor: GpuTensor, at: number, count: number): void {
    if (at < 0 || count < 0 || at + count > tensor.bytes) {
      throw new RangeError(`webgpu: bytes ${at} … ${at + count} of a tensor of ${tensor.bytes}`);
    }
  }
  /** The device takes whole words: what a tensor has over at its end is filled up. */
  function write(tensor: GpuTensor, at: number, bytes: Uint8Array): void {
    checkRange(tensor, at, bytes.length);
    if (at % 4 !== 0 || (bytes.length % 4 !== 0 && at + bytes.length !== tensor.bytes)) {
      throw new RangeError(`webgpu: write of ${bytes.length} bytes at ${at}, expected whole words`);
    }
    if (bytes.length === 0) return;
    let source = bytes;
    if (bytes.length % 4 !== 0) {
      source = new Uint8Array(roundUp(bytes.length, 4));
      source.set(bytes);
    }
    device.queue.writeBuffer(tensor.buffer, at, source as Uint8Array<ArrayBuffer>);
  }

  return {
    name: `webgpu ${info.adapter}`,
    info,
    lost: errors.whenLost,
    computes: ['i2_s', 'tq2_0'],
    repacks: { tl1: 'i2_s', tl2: 'i2_s', tq1_0: 'tq2_0' },
    limitBytes: Number.POSITIVE_INFINITY,
    maxRepeats,
    alloc(bytes) {
      checkLive();
      return memory.alloc(bytes);
    },
    free: (tensor) => end !== undefined || memory.free(tensor),
    write,
    async fill(tensor, read) {
      const piece = new Uint8Array(Math.min(FILL_BYTES, tensor.bytes));
      let waiting = 0;
      for (let at = 0; at < tensor.bytes; at += piece.length) {
        checkLive();
        const part = piece.subarray(0, Math.min(piece.length, tensor.bytes - at));
        await read(at, part);
        write(tensor, at, part);
        waiting += part.length;
        if (waiting >= MAX_WAITING) {
          device.queue.submit([]);
          await device.queue.onSubmittedWorkDone();
          waiting = 0;
        }
      }
      await errors.check();
    },
    async read(tensor, at, into) {
      checkLive();
      checkRange(tensor, at, into.length);
      const first = at - (at % 4);
      const bytes = roundUp(at + into.length, 4) - first;
      const copy = newStaging(bytes);
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(tensor.buffer, first, copy, 0, bytes);
      device.queue.submit([encoder.finish()]);
      await mapped(copy, bytes, (from) => into.set(from.subarray(at - first, at - first + into.length)));
      if (end === undefined) memory.destroy(copy);
      await errors.check();
    },
    // Ops make what they need themselves, see `part` in recorder.ts.
    scratchBytes: () => 16,
    screenBytes: () => 0,
    ops: createOps(recorder),
    record(build) {
      checkLive();
      const recording = record(build);
      const program: GpuProgram = { recording, free: () => end !== undefined || memory.destroy(recording.uniforms) };
      return program;
    },
    run: (program) => start(program, 1),
    start(program: Program, repeats: number, results: Results<GpuTensor> | undefined, done: Done) {
      start(program, repeats, results).then(
        () => done(),
        (error: Error) => done(error),
      );
    },
    memoryUsed: () => ({ allocated: memory.used(), held: memory.used() }),
    profile: () => profiler?.times() ?? [],
    async dispose({ keepDevice = !own } = {}) {
      if (end !== undefined) return;
      // A device that is lost is disposed of soon: that it was lost says more.
      end = errors.lost ?? new Error('webgpu: the backend was disposed');
      memory.dispose();
      errors.dispose();
      if (!keepDevice) {
        device.destroy();
        await errors.whenLost;
      }
    },
  };
}
