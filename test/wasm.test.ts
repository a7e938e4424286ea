import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { backendOver, type WasmBackend, wasmBackend } from '../dist/backend/wasm/backend.js';
import type { WasmTensor } from '../dist/backend/wasm/memory.js';
import { createMemory } from '../dist/backend/wasm/memory.js';
import { kernelsNamed, type TierChoice, wrongAnswer } from '../dist/backend/wasm/tier.js';
import { host } from '../dist/host/node.js';
import './dot_add.js';

// What the contract cannot see: the choice of a tier, the threads and the memory behind them.

type KernelsName = Parameters<typeof kernelsNamed>[0];

const MAJOR = Number.parseInt(process.versions.node, 10);
/** Behind a flag in Node 20. */
const RELAXED = MAJOR < 22 ? ['--experimental-wasm-relaxed-simd'] : [];

const open = (candidate: TierChoice) => backendOver(candidate, 1);

describe('self-test', () => {
  it.each(['simd', 'relaxed_i16', 'relaxed', 'revec'] as const)('%s passes in memory of either kind', async (name) => {
    expect(await wrongAnswer(await kernelsNamed(name, true), open)).toBeUndefined();
    expect(await wrongAnswer(await kernelsNamed(name, false), open)).toBeUndefined();
  });

  /** Instructions as bytes, and one of the bytes changed wherever they stand: what a compiler's bug could come to. */
  const BROKEN: [name: KernelsName, code: string, bytes: number[], at: number, to: number, caught: RegExp][] = [
    ['simd', 'i32.const 6, i32x4.shr_s', [0x41, 6, 0xfd, 0xac, 1], 1, 5, /^qkv, 1 row: number \d+ is .+, expected .+$/],
    ['simd', 'i32.const 14, i32x4.shr_s', [0x41, 14, 0xfd, 0xac, 1], 1, 13, /^attn_out, 5 rows: number /],
    ['simd', 'i32.const 3, i32x4.shr_s', [0x41, 3, 0xfd, 0xac, 1], 1, 2, /^embed f16: number /],
    ['simd', 'f32x4.sub', [0xfd, 0xe5, 1], 1, 0xe4, /^gate_up silu: number /],
    ['simd', 'i64.const 11, i64.shr_u', [0x42, 11, 0x88], 1, 12, /^sample: number 3 is \d+, expected \d+$/],
    ['simd', 'i8x16.gt_s', [0xfd, 0x27], 1, 0x28, /^qkv tq1_0, 1 row: number /],
    ['relaxed_i16', 'i32.const 2, i32x4.shr_s', [0x41, 2, 0xfd, 0xac, 1], 1, 3, /^qkv, 1 row: /],
    ['relaxed', 'i32.const 6, i16x8.shr_u', [0x41, 6, 0xfd, 0x8d, 1], 1, 5, /^qkv, 1 row: /],
    ['relaxed', 'f32x4.pmax', [0xfd, 0xeb, 1], 1, 0xea, /^qkv, 1 row: /],
    ['revec', 'i32.const 6, i16x8.shr_u', [0x41, 6, 0xfd, 0x8d, 1], 1, 5, /^qkv, 1 row: /],
    // i32x4.shuffle 2, 6, 3, 7 -> 2, 6, 3, 6: the lanes in which dots are summed.
    ['revec', 'shuffle', [0xfd, 0x0d, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28], 14, 24, /^qkv, 1 row: /],
    ['simd', 'i8x16.swizzle', [0xfd, 0x0e], 1, 0x23, /^repack tl1: number /],
    ['relaxed', 'i8x16.relaxed_swizzle', [0xfd, 0x80, 2], 1, 0x92, /^repack tl1: number /],
    ['relaxed', 'i16x8.extmul_low_i8x16_s', [0xfd, 0x9c, 1], 1, 0x9d, /^down tl1, 1 row: number /],
    ['revec', 'f32x4.mul', [0xfd, 0xe6, 1], 1, 0xe4, /^embed (f16|q8_0): /],
  ];

  it.each(BROKEN)('%s with another %s is refused', async (name, _code, pattern, at, to, caught) => {
    const bytes = host.kernels(name, true) as Uint8Array<ArrayBuffer>;
    let found = 0;
    for (let i = 0; i + pattern.length <= bytes.length; i++) {
      if (!pattern.every((byte, k) => bytes[i + k] === byte)) continue;
      bytes[i + at] = to;
      found++;
    }
    expect(found).toBeGreaterThan(0);
    const module = await WebAssembly.compile(bytes);
    expect(await wrongAnswer({ ...(await kernelsNamed(name, true)), module }, open)).toMatch(caught);
  });
});

describe('tier', () => {
  it('is the best that works, and says why', async () => {
    const { tier, dot, why } = await wasmBackend({ threads: 1 });
    expect(tier).toBe('relaxed'); // vitest.config.ts sees to it on Node 20
    expect(dot).toMatch(/^relaxed (i16|add)$/);
    expect(why).toEqual([
      expect.stringMatching(/^relaxed: accepted, known answers right; the dot.*, so (dot_add|the i16 dot)$/),
    ]);
  });

  it('can be any that works', async () => {
    const [simd, revec] = await Promise.all(
      (['simd', 'revec'] as const).map((tier) => wasmBackend({ tier, threads: 1 })),
    );
    expect(simd).toMatchObject({ tier: 'simd', dot: 'i16x8', why: ['simd: accepted, known answers right'] });
    expect(revec).toMatchObject({ tier: 'revec', dot: 'relaxed add' });
    expect(revec.why).toEqual([expect.stringMatching(/^revec: accepted, known answers right/)]);
  });

  it('is chosen once in a process', async () => {
    await wasmBackend({ threads: 1 });
    const started = performance.now();
    await wasmBackend({ threads: 1 });
    expect(performance.now() - started).toBeLessThan(20);
  });

  /** Runs the demo model in a process of its own: what is compiled there is compiled for the first time. */
  function inProcess(options: object, flags: string[] = []) {
    const dist = new URL('../dist/', import.meta.url);
    const script = `
      const { demoModel, loadModel } = await import('${new URL('index.js', dist)}');
      const { wasmBackend } = await import('${new URL('backend/wasm/backend.js', dist)}');
      const options = ${JSON.stringify(options)};
      try {
        const { why, dot } = await wasmBackend({ ...options, threads: 1 });
        const model = await loadModel(demoModel, { ...options, threads: 2 });
        const { tokens } = await model.complete('Once upon a time', { temperature: 0, maxTokens: 40 });
        console.log(JSON.stringify({ tier: model.info.tier, dot, why, tokens }));
        await model.dispose();
      } catch (error) {
        console.log(JSON.stringify({ message: error.message }));
      }`;
    const { stdout, stderr } = spawnSync(process.execPath, [...flags, '--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    return JSON.parse(stdout) as { tier: string; dot: string; why: string[]; tokens: number[]; message?: string };
  }

  // Whether pairs are fused hangs on the processor, too: without AVX2 there are no 256-bit operations.
  it.skipIf(MAJOR < 24)('takes revec where V8 fuses pairs (Node 24 and newer), with the same tokens', () => {
    const revec = inProcess({ revectorize: true });
    expect(revec.why[0]).toMatch(
      /^revec: (accepted, known answers right; \d\.\dx as fast as relaxed|right, but not faster)/,
    );
    expect(revec.tier).toBe(revec.why[0].startsWith('revec: accepted') ? 'revec' : 'relaxed');
    expect(revec.tokens).toHaveLength(40);
    expect(revec.tokens).toEqual(inProcess({ tier: 'simd' }).tokens);
  });

  it.skipIf(MAJOR >= 24)('asks no older V8 for it (Node 20 and 22), and prints nothing', () => {
    const { tier, why } = inProcess({ revectorize: true }, RELAXED);
    expect(tier).toBe('relaxed');
    expect(why[0]).toMatch(/^revec: no gain with V8 1[12]\./);
  });

  it.skipIf(MAJOR !== 20)('sees that V8 11.3 (Node 20) doubles dot_add', () => {
    expect(inProcess({ tier: 'revec' }, RELAXED).message).toMatch(
      /^no kernels run here: revec: wrong .*: qkv, 1 row: /,
    );
    expect(inProcess({ tier: 'relaxed' }, RELAXED)).toMatchObject({ tier: 'relaxed', dot: 'relaxed i16' });
  });
});

describe.each([1, 2])('%d threads', (threads) => {
  /** A program that reads beyond the memory, as no op of ours does. */
  function trap(backend: WasmBackend) {
    const [x, tokens] = [backend.alloc(256), backend.alloc(4)];
    const table: WasmTensor = { at: 0xffff_f000, bytes: 256 };
    return backend.record(() => backend.ops.embed({ rows: 1, dim: 64, type: 'f32', tokens, table, x }));
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
    const [x, table, tokens] = [backend.alloc(256), backend.alloc(256), backend.alloc(4)];
    const program = backend.record(() => backend.ops.embed({ rows: 1, dim: 64, type: 'f32', tokens, table, x }));
    const order: number[] = [];
    await Promise.all([0, 1, 2].map((i) => backend.run(program).then(() => order.push(i))));
    expect(order).toEqual([0, 1, 2]);
    await backend.dispose();
    await expect(backend.run(program)).rejects.toThrow('the backend was disposed');
  });
});

describe.each([true, false])('linear memory, shared: %s', (shared) => {
  it('is of that kind', () => {
    const { buffer } = createMemory(shared).memory;
    expect(buffer.constructor).toBe(shared ? SharedArrayBuffer : ArrayBuffer);
  });

  it('gives freed pieces out again, joined and zeroed, and never the same twice', () => {
    const memory = createMemory(shared);
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

  it('has no hole where the last piece was freed, and zeroes what follows', () => {
    const memory = createMemory(shared);
    const [first, last] = [memory.alloc(100), memory.alloc(1000)];
    memory.view(last, 0, 1000).fill(7);
    memory.free(last);
    const larger = memory.alloc(200_000);
    expect(larger.at).toBe(last.at);
    expect(memory.view(larger, 0, 200_000).every((x) => x === 0)).toBe(true);
    memory.free(first);
    memory.free(larger);
    expect(memory.alloc(300_000).at).toBe(first.at);
  });

  it('refuses more than 4 GiB with numbers, and stays usable', () => {
    const memory = createMemory(shared);
    expect(() => memory.alloc(5e9)).toThrow(/50000\d{5} bytes wanted in all, 0 in use; the limit is 4294967296 bytes/);
    expect(memory.alloc(64).at % 64).toBe(0);
  });

  it('refuses what lies outside of a tensor', () => {
    const memory = createMemory(shared);
    const tensor = memory.alloc(64);
    expect(() => memory.view(tensor, 60, 5)).toThrow('bytes 60 … 65 of a tensor of 64');
    expect(() => memory.write(tensor, 0, new Uint8Array(65))).toThrow('bytes 0 … 65 of a tensor of 64');
  });
});
