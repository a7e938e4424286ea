import type { Done, Results } from '../backend.ts';
import type { Kernels } from './abi.ts';
import type { WasmTensor } from './memory.ts';
import type { WorkerReport, WorkerStart } from './worker.ts';

/** Threads that run programs over one memory. */
export interface Pool {
  readonly threads: number;
  /**
   * Runs the program at address `list` after those before it, and copies its results before any other runs; `done` is called in
   * a later turn of the event loop.
   */
  run(list: number, results: Results<WasmTensor> | undefined, done: Done): void;
  /** Settles when every thread has ended. */
  close(): Promise<void>;
}

/** Copies to the host what a run left. */
type Copy = (results: Results<WasmTensor>) => void;

/** The part of a node or web worker that the pool uses. */
interface Thread {
  post(start: WorkerStart): void;
  /** `keep` decides whether an unfinished run keeps the process alive. */
  keep(alive: boolean): void;
  terminate(): void;
  readonly ended: Promise<void>;
}

interface ThreadEvents {
  onReport(message: WorkerReport): void;
  onError(error: Error): void;
}

const DISPOSED = 'the backend was disposed';

const isNode = typeof process === 'object' && process.versions.node !== undefined;

async function startThread(events: ThreadEvents): Promise<Thread> {
  const url = new URL('./worker.js', import.meta.url);
  if (isNode) {
    const { Worker } = await import('node:worker_threads');
    // The host's own arguments are not for it: with --input-type or -e it would not start.
    const worker = new Worker(url, { execArgv: [] });
    worker.on('message', events.onReport);
    worker.on('error', events.onError);
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    return {
      post: (start) => worker.postMessage(start),
      keep: (alive) => (alive ? worker.ref() : worker.unref()),
      terminate: () => void worker.terminate(),
      ended,
    };
  }
  const worker = new Worker(url, { type: 'module' });
  worker.onmessage = ({ data }: MessageEvent<WorkerReport>) => events.onReport(data);
  worker.onerror = (event) => events.onError(new Error(event.message));
  return {
    post: (start) => worker.postMessage(start),
    keep: () => {},
    terminate: () => worker.terminate(),
    ended: Promise.resolve(), // a web worker closes itself and does not tell
  };
}

/**
 * One thread a physical core, where the system tells, since the two threads of a core share its vector units. At least 2 where
 * two can run, as 1 would compute on the caller's thread; at most 16, since decoding waits for memory, which fewer cores
 * already saturate, and each thread more lengthens every barrier (not measured beyond 2).
 */
export async function defaultThreads(): Promise<number> {
  if (!isNode) return Math.max(1, Math.min(16, navigator.hardwareConcurrency));
  const [{ availableParallelism }, { readFileSync }] = await Promise.all([import('node:os'), import('node:fs')]);
  const most = Math.min(16, availableParallelism());
  const cores = linuxCores((path) => {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  });
  return Math.min(most, Math.max(2, cores ?? most));
}

/**
 * Physical cores that this process may use: those of the CPUs it is bound to, and no more than its cgroup's quota. Undefined
 * where the system is no Linux or does not tell.
 *
 * @param read the text of a file, or undefined
 */
export function linuxCores(read: (path: string) => string | undefined): number | undefined {
  const bound = /^Cpus_allowed_list:\s*(\S+)$/m.exec(read('/proc/self/status') ?? '');
  if (bound === null) return undefined;
  const cores = new Set<string>();
  for (const range of bound[1].split(',')) {
    const [first, last = first] = range.split('-').map(Number);
    for (let cpu = first; cpu <= last; cpu++) {
      const siblings = read(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`);
      if (siblings !== undefined) cores.add(siblings);
    }
  }
  if (cores.size === 0) return undefined;
  // "quota period", or "max period" without a quota
  const [quota, period] = (read('/sys/fs/cgroup/cpu.max') ?? 'max').split(' ').map(Number);
  return quota > 0 ? Math.max(1, Math.min(cores.size, Math.floor(quota / period))) : cores.size;
}

/** One thread: programs run inline, in the caller's turn, and settle in the next one. */
export function inlinePool(kernels: Kernels, copy: Copy): Pool {
  const channel = isNode ? undefined : new MessageChannel();
  /** Of the runs that were not told of, oldest first. */
  const dones: Done[] = [];
  if (channel !== undefined) channel.port1.onmessage = () => dones.shift()?.();
  let closed = false;
  return {
    threads: 1,
    run(list, results, done) {
      if (closed) throw new Error(DISPOSED);
      kernels.runProgram(list, 0, 1);
      if (results !== undefined) copy(results);
      if (channel === undefined) setImmediate(done);
      else {
        dones.push(done);
        channel.port2.postMessage(0);
      }
    },
    async close() {
      closed = true;
      while (dones.length > 0) await new Promise((resolve) => setTimeout(resolve, 1));
      channel?.port1.close();
    },
  };
}

/** Workers that wait inside wasm for the next program; the host never computes and never blocks. */
export async function workerPool(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  kernels: Kernels,
  threads: number,
  copy: Copy,
): Promise<Pool> {
  /** What the run under way leaves for whom, and the runs that wait. Every token comes by here: what runs alone makes no object. */
  let current: Done | undefined;
  let wanted: Results<WasmTensor> | undefined;
  const waiting: { readonly list: number; readonly results: Results<WasmTensor> | undefined; readonly done: Done }[] =
    [];
  let alive = true;
  let pool: Thread[] = [];
  let failed: Error | undefined;
  let ready = 0;
  let onReady = () => {};
  let onFailed = (_error: Error) => {};
  const allReady = new Promise<void>((resolve, reject) => {
    onReady = resolve;
    onFailed = reject;
  });

  /** An unfinished run keeps the process alive. Decided once a turn, as most runs are followed by the next. */
  function keep(busy: boolean): void {
    if (busy !== alive) pool[0].keep(busy);
    alive = busy;
  }

  const events: ThreadEvents = {
    onReport(message) {
      if (message === -1) {
        if (++ready === threads) onReady();
        return;
      }
      if (wanted !== undefined) copy(wanted);
      const done = current;
      const next = waiting.shift();
      current = next?.done;
      wanted = next?.results;
      if (next !== undefined) kernels.start(next.list, threads);
      done?.();
      keep(current !== undefined);
    },
    onError(error) {
      // The other threads would wait in a barrier for ever.
      failed = new Error(`a worker thread failed: ${error.message}`, { cause: error });
      for (const thread of pool) thread.terminate();
      onFailed(failed);
      const dones = [current, ...waiting.splice(0).map((run) => run.done)];
      current = undefined;
      for (const done of dones) done?.(failed);
    },
  };
  pool = await Promise.all(Array.from({ length: threads }, () => startThread(events)));
  pool.forEach((thread, index) => {
    thread.post({ module, memory, index });
  });
  await allReady;
  for (const thread of pool) thread.keep(false);
  alive = false;

  return {
    threads,
    run(list, results, done) {
      if (failed !== undefined) throw failed;
      if (current !== undefined) {
        waiting.push({ list, results, done });
        return;
      }
      current = done;
      wanted = results;
      keep(true);
      kernels.start(list, threads);
    },
    async close() {
      failed ??= new Error(DISPOSED);
      while (current !== undefined) await new Promise((resolve) => setTimeout(resolve, 1));
      kernels.stop();
      for (const thread of pool) thread.keep(true);
      await Promise.all(pool.map((thread) => thread.ended));
    },
  };
}
