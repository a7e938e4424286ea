import { availableParallelism, cpus, loadavg } from 'node:os';

/** Where and how busy: every benchmark prints it, since both cores of a shared machine are rarely its own. */
export function machine() {
  const [one] = loadavg();
  return `${cpus()[0].model}, ${availableParallelism()} cores, Node ${process.versions.node} (V8 ${process.versions.v8}), load ${one.toFixed(1)}`;
}

/** Median of numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const READ = `
export function read(at: usize, bytes: usize): i64 {
  const end = at + bytes;
  let a = i64x2.splat(0), b = a, c = a, d = a;
  for (; at < end; at += 64) {
    a = v128.xor(a, v128.load(at));
    b = v128.xor(b, v128.load(at, 16));
    c = v128.xor(c, v128.load(at, 32));
    d = v128.xor(d, v128.load(at, 48));
  }
  a = v128.xor(v128.xor(a, b), v128.xor(c, d));
  return i64x2.extract_lane(a, 0) ^ i64x2.extract_lane(a, 1);
}`;

/** GB/s at which one thread reads 256 MiB with 128-bit loads in wasm: the limit of whatever streams weights. Best of 7. */
export async function readBandwidth() {
  const { default: asc } = await import('assemblyscript/asc');
  const { binary, error, stderr } = await asc.compileString(READ, {
    ...{ runtime: 'stub', importMemory: true, enable: ['simd'], optimizeLevel: 3 },
  });
  if (error) throw new Error(stderr.toString());
  const bytes = 256 << 20;
  const memory = new WebAssembly.Memory({ initial: (bytes >> 16) + 1 });
  new Uint8Array(memory.buffer).fill(1); // pages that exist
  const { instance } = await WebAssembly.instantiate(binary, { env: { memory, abort() {} } });
  for (let i = 0; i < 50; i++) instance.exports.read(65536, 65536); // tier-up
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 7; i++) {
    const start = performance.now();
    instance.exports.read(65536, bytes);
    best = Math.min(best, performance.now() - start);
  }
  return bytes / best / 1e6;
}
