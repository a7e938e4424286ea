// A thread of the pool in Node, Deno and Bun: instantiates the kernels over the shared memory and then runs only wasm. Thread 0
// reports each finished run. Pages have the same in src/host/web.ts.
import { parentPort } from 'node:worker_threads';
import type { ThreadReport, ThreadStart } from '../../host/host.ts';
import { instantiate } from './abi.ts';

function serve({ module, memory, index }: ThreadStart, report: (message: ThreadReport) => void): void {
  const kernels = instantiate(module, memory, index);
  report(-1);
  let run = 0;
  while (true) {
    run = kernels.serve(index, run);
    if (run === -1) return;
    if (index === 0) report(run);
  }
}

if (parentPort === null) throw new Error('worker.js is started by the pool, not by hand');
const port = parentPort;
// Once: a port without listeners does not keep the thread, which so ends when `serve` returns.
port.once('message', (start: ThreadStart) => serve(start, (message) => port.postMessage(message)));
