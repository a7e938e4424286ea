// What a barrier between threads costs, and how long a thread spins before it sleeps (SPINS in assembly/barrier.ts).
//
// usage: npm run bench -- barrier [--threads N]
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import asc from 'assemblyscript/asc';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { machine, median } from './machine.mjs';

const { values } = parseArgs({ options: { threads: { type: 'string', default: '2' } } });
const threads = Number(values.threads);
const source = readFileSync(new URL('../assembly/barrier.ts', import.meta.url), 'utf8');
const spins = Number(/const SPINS: i32 = (\d+)/.exec(source)?.[1]);
const RUNS = 51;

/** us of one barrier with next to nothing between: 2000 ops of one row of 8 numbers each. */
async function barrier(count) {
  const OPS = 2000;
  const backend = await wasmBackend({ threads: count });
  const [table, x, tokens] = [backend.alloc(32), backend.alloc(32), backend.alloc(4)];
  const program = backend.record(() => {
    for (let i = 0; i < OPS; i++) backend.ops.embed({ rows: 1, dim: 8, type: 'f32', tokens, table, x });
  });
  const times = [];
  for (let i = 0; i < RUNS; i++) {
    const start = performance.now();
    await backend.run(program);
    times.push(((performance.now() - start) * 1e3) / OPS);
  }
  await backend.dispose();
  return median(times);
}

/** us of the spins alone: the loop of waitWhile over a value that does not change. */
async function spinning() {
  const { binary } = await asc.compileString(
    'export function spin(at: usize, n: i32): i32 { while (n > 0) { if (atomic.load<i32>(at) != 0) return 1; n--; } return 0; }',
    {
      runtime: 'stub',
      importMemory: true,
      sharedMemory: true,
      initialMemory: 1,
      maximumMemory: 1,
      enable: ['threads'],
      optimizeLevel: 3,
    },
  );
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const { instance } = await WebAssembly.instantiate(binary, { env: { memory, abort() {} } });
  const times = [];
  for (let i = 0; i < 500; i++) {
    const start = performance.now();
    instance.exports.spin(64, spins);
    times.push((performance.now() - start) * 1e3);
  }
  return median(times.slice(100));
}

const [one, many] = [await barrier(1), await barrier(threads)];
console.log(machine());
console.log(
  `a tiny op and its barrier: ${one.toFixed(2)} us on 1 thread, ${many.toFixed(2)} us on ${threads} (medians of ${RUNS})`,
);
console.log(`${spins} spins: ${(await spinning()).toFixed(0)} us`);
