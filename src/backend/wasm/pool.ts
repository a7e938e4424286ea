import type { Kernels } from './abi.ts';
import type { WorkerReport, WorkerStart } from './worker.ts';

/** Threads that run programs over one memory. */
export interface Pool {
  readonly threads: number;
  /** Runs the program at address `list` after those before it. Settles in a later turn of the event loop. */
  run(list: number): Promise<void>;
  /** Settles when every thread has ended. */
  close(): Promise<void>;
}

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
 * As many threads as the system says can run at once; at most 16, since decoding waits for memory, which fewer cores already
 * saturate, and each thread more lengthens every barrier (not measured beyond 2).
 */
export async function defaultThreads(): Promise<number> {
  const cores = isNode ? (await import('node:os')).availableParallelism() : navigator.hardwareConcurrency;
  return Math.max(1, Math.min(16, cores));
}

/** One thread: programs run inline, in the caller's turn, and settle in the next one. */
export function inlinePool(kernels: Kernels): Pool {
  const channel = isNode ? undefined : new MessageChannel();
  /** Of the runs that have not settled, oldest first. */
  const settle: (() => void)[] = [];
  if (channel !== undefined) channel.port1.onmessage = () => settle.shift()?.();
  let closed = false;
  return {
    threads: 1,
    run(list) {
      if (closed) return Promise.reject(new Error(DISPOSED));
      return new Promise((resolve) => {
        kernels.runProgram(list, 0, 1);
        if (channel === undefined) setImmediate(resolve);
        else {
          settle.push(resolve);
          channel.port2.postMessage(0);
        }
      });
    },
    async close() {
      closed = true;
      while (settle.length > 0) await new Promise((resolve) => setTimeout(resolve, 1));
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
): Promise<Pool> {
  interface Run {
    readonly list: number;
    resolve(): void;
    reject(error: Error): void;
  }
  /** The one under way, and those that wait. No async functions and no chains of promises: every token comes by here. */
  let current: Run | undefined;
  const waiting: Run[] = [];
  let pool: Thread[] = [];
  let failed: Error | undefined;
  let ready = 0;
  let onReady = () => {};
  let onFailed = (_error: Error) => {};
  const allReady = new Promise<void>((resolve, reject) => {
    onReady = resolve;
    onFailed = reject;
  });

  const events: ThreadEvents = {
    onReport(message) {
      if (message === -1) {
        if (++ready === threads) onReady();
        return;
      }
      const done = current;
      current = waiting.shift();
      if (current === undefined) pool[0].keep(false);
      else kernels.start(current.list, threads);
      if (done !== undefined) done.resolve();
    },
    onError(error) {
      // The other threads would wait in a barrier for ever.
      failed = new Error(`a worker thread failed: ${error.message}`, { cause: error });
      for (const thread of pool) thread.terminate();
      onFailed(failed);
      if (current !== undefined) current.reject(failed);
      for (const run of waiting.splice(0)) run.reject(failed);
      current = undefined;
    },
  };
  pool = await Promise.all(Array.from({ length: threads }, () => startThread(events)));
  pool.forEach((thread, index) => {
    thread.post({ module, memory, index });
  });
  await allReady;
  for (const thread of pool) thread.keep(false);

  return {
    threads,
    run(list) {
      if (failed !== undefined) return Promise.reject(failed);
      return new Promise((resolve, reject) => {
        const run = { list, resolve, reject };
        if (current !== undefined) {
          waiting.push(run);
          return;
        }
        current = run;
        pool[0].keep(true);
        kernels.start(list, threads);
      });
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
