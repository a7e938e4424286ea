import { host } from '#host';
import type { Thread, ThreadEvents } from '../../host/host.ts';
import type { Done, Results } from '../backend.ts';
import type { Kernels } from './abi.ts';
import type { WasmTensor } from './memory.ts';

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

const DISPOSED = 'the backend was disposed';

/** One thread: programs run inline, in the caller's turn, and settle in the next one. */
export function inlinePool(kernels: Kernels, copy: Copy): Pool {
  const turns = host.turns();
  let closed = false;
  return {
    threads: 1,
    run(list, results, done) {
      if (closed) throw new Error(DISPOSED);
      kernels.runProgram(list, 0, 1);
      if (results !== undefined) copy(results);
      turns.next(done);
    },
    async close() {
      closed = true;
      await turns.close();
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
  pool = await Promise.all(
    Array.from({ length: threads }, (_, index) => host.startThread({ module, memory, index }, events)),
  );
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
