// A thread of the pool: instantiates the kernels over the shared memory and then runs only wasm. Thread 0 reports each
// finished run.
import { instantiate } from './abi.ts';

export interface WorkerStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly index: number;
}

/** -1: ready; otherwise the number of a finished run. */
export type WorkerReport = number;

function work({ module, memory, index }: WorkerStart, report: (message: WorkerReport) => void): void {
  const kernels = instantiate(module, memory, index);
  report(-1);
  let run = 0;
  while (true) {
    run = kernels.serve(index, run);
    if (run === -1) return;
    if (index === 0) report(run);
  }
}

if (typeof process === 'object' && process.versions.node !== undefined) {
  const { parentPort } = await import('node:worker_threads');
  if (parentPort === null) throw new Error('worker.js is started by the pool, not by hand');
  // Once: a port without listeners does not keep the thread, which so ends when `work` returns.
  parentPort.once('message', (start: WorkerStart) => work(start, (message) => parentPort.postMessage(message)));
} else {
  // A web worker; its scope's type is not in lib "dom", which the rest of src/ uses.
  const scope = globalThis as unknown as { postMessage(message: WorkerReport): void; close(): void };
  addEventListener('message', ({ data }: MessageEvent<WorkerStart>) => {
    work(data, (message) => scope.postMessage(message));
    scope.close();
  });
}
