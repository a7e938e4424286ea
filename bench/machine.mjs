import { availableParallelism, cpus, loadavg } from 'node:os';
import { Worker } from 'node:worker_threads';

/** One-minute load average. */
export const load = () => loadavg()[0];

/** Where and how busy: every benchmark prints it, since both cores of a shared machine are rarely its own. */
export function machine() {
  return `${hardware()}, load ${load().toFixed(1)}`;
}

export function hardware() {
  const { node, v8 } = process.versions;
  return `${cpus()[0].model.trim()}, ${availableParallelism()} cores, Node ${node} (V8 ${v8})`;
}

/** Median of numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** What is told of samples. */
export function summary(samples) {
  return { n: samples.length, median: median(samples), min: Math.min(...samples), max: Math.max(...samples), samples };
}

/** Median of the ratios of pairs measured one after the other: what a busy moment does to both cancels. */
export const pairedRatio = (a, b) => median(a.map((x, i) => x / b[i]));

const READ = `
export function read(at: usize, bytes: usize): i64 {
  const part = bytes >> 2;
  const end = at + part;
  let a = i64x2.splat(0), b = a, c = a, d = a;
  for (; at < end; at += 64) {
    a = v128.xor(a, line(at));
    b = v128.xor(b, line(at + part));
    c = v128.xor(c, line(at + 2 * part));
    d = v128.xor(d, line(at + 3 * part));
  }
  a = v128.xor(v128.xor(a, b), v128.xor(c, d));
  return i64x2.extract_lane(a, 0) ^ i64x2.extract_lane(a, 1);
}
// @ts-ignore: decorator
@inline function line(at: usize): v128 {
  return v128.xor(v128.xor(v128.load(at), v128.load(at, 16)), v128.xor(v128.load(at, 32), v128.load(at, 48)));
}`;

/** One thread of a probe: on a message it waits until all have come, reads its part, and says when it began and ended. */
const READER = `
const { parentPort, workerData } = require('node:worker_threads');
const { module, memory, at, bytes, threads } = workerData;
const { read } = new WebAssembly.Instance(module, { env: { memory, abort() {} } }).exports;
const now = () => Number(process.hrtime.bigint()); // ns, one clock for all threads
for (let i = 0; i < 50; i++) read(at, 65536); // tier-up
const arrived = new Int32Array(memory.buffer, 0, 1); // the first page holds nothing else
parentPort.on('message', (round) => {
  const all = threads * round;
  if (Atomics.add(arrived, 0, 1) + 1 === all) Atomics.notify(arrived, 0);
  for (let seen; (seen = Atomics.load(arrived, 0)) < all; ) Atomics.wait(arrived, 0, seen, 1);
  const start = now();
  read(at, bytes);
  parentPort.postMessage([start, now()]);
});
parentPort.postMessage([]);`;

const PAGE = 65536;
const PROBE_BYTES = 1 << 30; // as much as a token of a 2B model reads, and more than any cache

/**
 * Threads that read one shared memory of 1 GiB with 128-bit loads in wasm, each a part of its own in four streams, as one
 * stream is prefetched at two thirds of that rate: the limit of whatever streams weights on as many threads. `read` gives GB/s, the best of three passes, and can take turns with what it limits.
 */
export async function openBandwidthProbe(threads = 1) {
  const { default: asc } = await import('assemblyscript/asc');
  const pages = PROBE_BYTES / PAGE + 1;
  const { binary, error, stderr } = await asc.compileString(READ, {
    ...{ runtime: 'stub', importMemory: true, sharedMemory: true, initialMemory: pages, maximumMemory: pages },
    ...{ enable: ['simd', 'threads'], optimizeLevel: 3 },
  });
  if (error) throw new Error(stderr.toString());
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  new Uint8Array(memory.buffer, PAGE).fill(1); // pages that exist
  const module = await WebAssembly.compile(binary);
  const bytes = Math.floor(PROBE_BYTES / threads / 256) * 256;
  const workers = Array.from({ length: threads }, (_, i) => {
    const workerData = { module, memory, at: PAGE + i * bytes, bytes, threads };
    return new Worker(READER, { eval: true, workerData });
  });
  const answers = () =>
    workers.map(
      (worker) =>
        new Promise((resolve, reject) => {
          worker.once('error', reject);
          worker.once('message', (answer) => {
            worker.off('error', reject);
            resolve(answer);
          });
        }),
    );
  await Promise.all(answers());
  let round = 0;
  const pass = async () => {
    const coming = answers();
    round++;
    for (const worker of workers) worker.postMessage(round);
    const times = await Promise.all(coming);
    return (threads * bytes) / (Math.max(...times.map(([, end]) => end)) - Math.min(...times.map(([start]) => start)));
  };
  return {
    // A pass takes some 20 to 50 ms: on a shared machine one alone may fall into a pause.
    read: async () => Math.max(await pass(), await pass(), await pass()),
    dispose: () => Promise.all(workers.map((worker) => worker.terminate())),
  };
}
