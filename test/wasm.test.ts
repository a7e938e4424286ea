import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type WasmBackend, wasmBackend } from '../dist/backend/wasm/backend.js';
import type { WasmTensor } from '../dist/backend/wasm/memory.js';
import { createMemory } from '../dist/backend/wasm/memory.js';
import { answersRight, chooseTier } from '../dist/backend/wasm/tier.js';

// What the contract cannot see: the choice of a tier, the threads and the memory behind them.

describe('tier', () => {
  it('is refused when its dot gives another answer, cold', async () => {
    const bytes = new Uint8Array(readFileSync(new URL('../dist/backend/wasm/simd.wasm', import.meta.url)));
    expect(answersRight(await WebAssembly.compile(bytes))).toBe(true);
    // `i32.const 6, i32.shr_s`: the shift that takes the factor 64 out of the sums. A shift by 5 gives twice the dot.
    let found = 0;
    for (let i = 0; i + 2 < bytes.length; i++) {
      if (bytes[i] !== 0x41 || bytes[i + 1] !== 6 || bytes[i + 2] !== 0x75) continue;
      bytes[i + 1] = 5;
      found++;
    }
    expect(found).toBeGreaterThan(0);
    expect(answersRight(await WebAssembly.compile(bytes))).toBe(false);
  });

  it('is the best that works, and says why', async () => {
    const { tier, why } = await chooseTier('auto');
    expect(tier).toBe('relaxed'); // vitest.config.ts sees to it on Node 20
    expect(why).toEqual(['relaxed: accepted, known answer right']);
  });
});

describe.each([1, 2])('%d threads', (threads) => {
  /** A program that reads beyond the memory, as no op of ours does. */
  function trap(backend: WasmBackend) {
    const x = backend.alloc(256);
    const staged: WasmTensor = { at: 0xffff_f000, bytes: 256 };
    return backend.record(() => backend.ops.embed({ rows: 1, dim: 64, type: 'f32', staged, x }));
  }

  it('a run that fails rejects, and so do those that wait; dispose still ends', async () => {
    const backend = await wasmBackend({ threads });
    const program = trap(backend);
    const runs = await Promise.allSettled([backend.run(program), backend.run(program)]);
    expect(runs.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    await expect(backend.run(program)).rejects.toThrow(/out of bounds/);
    await backend.dispose();
  });

  it('runs settle in order, and none after dispose', async () => {
    const backend = await wasmBackend({ threads });
    const x = backend.alloc(256);
    const staged = backend.alloc(256);
    const program = backend.record(() => backend.ops.embed({ rows: 1, dim: 64, type: 'f32', staged, x }));
    const order: number[] = [];
    await Promise.all([0, 1, 2].map((i) => backend.run(program).then(() => order.push(i))));
    expect(order).toEqual([0, 1, 2]);
    await backend.dispose();
    await expect(backend.run(program)).rejects.toThrow('the backend was disposed');
  });
});

describe('linear memory', () => {
  it('gives freed pieces out again, joined and zeroed, and never the same twice', () => {
    const memory = createMemory();
    const [a, b, c] = [100, 200, 300].map((bytes) => memory.alloc(bytes));
    memory.view(a, 0, 100).fill(7);
    const { held } = memory.used();
    memory.free(a);
    memory.free(b);
    const joined = memory.alloc(300);
    expect(joined.at).toBe(a.at);
    expect(memory.view(joined, 0, 300).every((x) => x === 0)).toBe(true);
    expect(memory.used().held).toBe(held);
    memory.free(joined);
    expect(() => memory.free(joined)).toThrow('is not allocated');
    memory.free(c);
    expect(memory.used().allocated).toBe(0);
  });

  it('refuses more than 4 GiB with numbers, and stays usable', () => {
    const memory = createMemory();
    expect(() => memory.alloc(5e9)).toThrow(/5000000000 bytes wanted in all, 0 in use; the limit is 4294967296 bytes/);
    expect(memory.alloc(64).at % 64).toBe(0);
  });

  it('refuses what lies outside of a tensor', () => {
    const memory = createMemory();
    const tensor = memory.alloc(64);
    expect(() => memory.view(tensor, 60, 5)).toThrow('bytes 60 … 65 of a tensor of 64');
    expect(() => memory.write(tensor, 0, new Uint8Array(65))).toThrow('bytes 0 … 65 of a tensor of 64');
  });
});
