import { readFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import type { Backend, Tensor } from '../dist/backend/backend.js';
import { type WasmOptions, wasmBackend, wasmSizing } from '../dist/backend/wasm/backend.js';
import { convert } from '../dist/convert/convert.js';
import { openSource } from '../dist/gguf/source.js';
import { demoModel, type EstimateOptions, estimate, loadModel, type MemoryEstimate } from '../dist/index.js';
import { fitOf, systemWarnings } from '../dist/model/fit.js';
import { BLOCK_SIZE } from '../dist/model/kv_cache.js';
import { referenceBackend } from '../dist/reference/backend.js';
import './dot_add.js';
import { rewrite } from './rewrite.js';

const golden = (name: string) =>
  new Uint8Array(readFileSync(new URL(`./golden/models/tiny-bitnet-${name}.gguf`, import.meta.url)));
const TINY = golden('b1.58-i2_s');
const MODELS = {
  ...Object.fromEntries(['i2_s', 'b1.58-i2_s', 'b1.58-tl2', 'tq1_0', 'tq2_0'].map((name) => [name, golden(name)])),
  'demo model': new Uint8Array(readFileSync(demoModel)),
};
const OPTIONS: EstimateOptions[] = [
  {},
  { parallel: 1, threads: 1 },
  { parallel: 4, threads: 2, kv: 'f32' },
  { parallel: 1, threads: 1, kv: 'f32', head: 'exact', contextSize: 100 },
  { parallel: 3, threads: 2, repack: 'none', contextSize: 1000 },
  { parallel: 16, threads: 1, tier: 'simd', contextSize: 33 },
];

/** The CPU with a limit that holds, and the most that was allocated. */
async function limited(limitBytes: number, options: WasmOptions = { threads: 1 }) {
  const backend = await wasmBackend(options);
  const log = { peakBytes: 0, heldBytes: () => backend.memoryUsed().held };
  const strict: Backend<Tensor> = {
    ...(backend as Backend<Tensor>),
    limitBytes,
    alloc(bytes) {
      const tensor = backend.alloc(bytes);
      const { allocated } = backend.memoryUsed();
      if (allocated > limitBytes) {
        backend.free(tensor);
        throw new RangeError(`${allocated} bytes, more than ${limitBytes}`);
      }
      log.peakBytes = Math.max(log.peakBytes, allocated);
      return tensor;
    },
  };
  return { backend: strict, log };
}

/** A model with F16 embedding of an own head, from a golden one whose head is its embedding. */
async function withOwnHead(): Promise<Uint8Array> {
  return rewrite(golden('i2_s'), (tensor) =>
    tensor.name === 'token_embd.weight' ? [tensor, { ...tensor, name: 'output.weight' }] : [tensor],
  );
}

async function inQ6k(file: Uint8Array): Promise<Uint8Array> {
  const pieces: [number, Uint8Array][] = [];
  const sink = { write: (at: number, bytes: Uint8Array) => void pieces.push([at, bytes.slice()]) };
  const { bytes } = await convert(await openSource(file), sink, { type: 'I2_S', embedding: 'Q6_K' });
  const written = new Uint8Array(bytes);
  for (const [at, piece] of pieces) written.set(piece, at);
  return written;
}

describe('estimate', () => {
  it.each(Object.entries(MODELS))('is what loading takes, to the byte: %s', async (_, file) => {
    for (const options of OPTIONS) {
      const told = await estimate(file, options);
      const { info, dispose } = await loadModel(file, options);
      expect([told.totalBytes, told.kvBytes], JSON.stringify(options)).toEqual([info.memoryBytes, info.kvBytes]);
      expect([told.fits, told.warnings, told.advice]).toEqual(['yes', [], []]);
      expect([told.contextSize, told.positions]).toEqual([
        info.contextSize,
        32 * Math.ceil(info.contextSize / 32) * info.parallel,
      ]);
      await dispose();
    }
  });

  it('is what a head of its own takes, whose embedding stays outside', async () => {
    const file = await withOwnHead();
    const { totalBytes, hostBytes, embeddingBytes } = await estimate(file);
    const model = await loadModel(file);
    expect([totalBytes, embeddingBytes]).toEqual([model.info.memoryBytes, 0]);
    await model.dispose();
    // A Blob cannot be read at once: the table is copied.
    expect((await estimate(new Blob([file as BlobPart]))).hostBytes - hostBytes).toBe(512 * 256 * 2);
  });

  it('adds up, and its limit is that of the backend', async () => {
    const told = await estimate(TINY, { threads: 1 });
    const { weightsBytes, headBytes, embeddingBytes, screenBytes, kvBytes, workingBytes, totalBytes } = told;
    const parts = [weightsBytes, headBytes, embeddingBytes, screenBytes, kvBytes, workingBytes];
    expect(parts.reduce((a, b) => a + b)).toBe(totalBytes);
    expect(told.kvPer1kBytes).toBe((kvBytes * 1024) / told.positions);
    const backend = await wasmBackend({ threads: 1 });
    expect(told.limitBytes).toBe(backend.limitBytes);
    expect(await estimate(TINY, { backend })).toMatchObject({ totalBytes, peakBytes: told.peakBytes });
    await backend.dispose();
  });

  it.each([
    [golden('b1.58-tl2'), { threads: 2 }],
    [golden('tq1_0'), { threads: 1 }],
    [MODELS['demo model'], { threads: 1 }],
  ])('knows the most that is ever allocated (%#)', async (file, cpu) => {
    const { backend, log } = await limited(Number.POSITIVE_INFINITY, cpu);
    const told = await estimate(file, cpu);
    const model = await loadModel(file, { backend });
    for (let prompt = 1; prompt < 40; prompt++) {
      await Promise.all(
        Array.from({ length: 1 + (prompt % 4) }, () =>
          model.complete(Array(prompt).fill(5), { maxTokens: 2, ignoreEos: true }),
        ),
      );
    }
    expect(log.peakBytes).toBeLessThanOrEqual(told.peakBytes);
    // Programs are rounded up.
    expect(told.peakBytes).toBeLessThan(1.06 * log.peakBytes);
    // Whole pages, of 64 KiB; the first five are not allocated.
    expect(log.heldBytes() - 5 * 65_536).toBeLessThan(told.peakBytes + 65_536);
    await model.dispose();
  });

  it('of an embedding table where steps are repeated, and of a backend without a screen', async () => {
    const file = await withOwnHead();
    const backend = { ...referenceBackend(), maxRepeats: 8 };
    const { embeddingBytes, headBytes, screenBytes, fits, limitBytes } = await estimate(file, { backend });
    expect({ embeddingBytes, screenBytes, fits }).toEqual({ embeddingBytes: headBytes, screenBytes: 0, fits: 'yes' });
    expect(limitBytes).toBe(Number.POSITIVE_INFINITY);
  });

  it('knows the sizes of a backend that is not open', async () => {
    for (const options of [{ threads: 1 }, { threads: 3 }, { threads: 2, tier: 'simd' }] as const) {
      const [told, backend] = [await wasmSizing(options), await wasmBackend(options)];
      for (const [rows, cols, headDim, vocab] of [
        [64, 256, 64, 512],
        [64, 6912, 128, 128_256],
        [1, 2560, 1, 1],
      ]) {
        expect(told.scratchBytes(rows, cols, headDim, vocab)).toBe(backend.scratchBytes(rows, cols, headDim, vocab));
        expect(told.screenBytes(vocab, cols)).toBe(backend.screenBytes(vocab, cols));
      }
      expect([told.repacks, told.computes, told.threads]).toEqual([backend.repacks, backend.computes, backend.threads]);
      // Beyond 32 bits the kernels' own number wraps around.
      expect(told.screenBytes(1 << 24, 4096)).toBeGreaterThan(2 ** 32);
      await backend.dispose();
    }
  });

  it.each([
    [{ parallel: 17 }, 'parallel: got 17'],
    [{ contextSize: 0 }, 'contextSize: got 0'],
    [{ kv: 'q8' }, "kv: got 'q8'"],
    [{ threads: 0 }, 'threads: got 0'],
    [{ limitBytes: Number.NaN }, 'limitBytes: got NaN'],
    [{ limitBytes: -1 }, 'limitBytes: got -1'],
    [{ threads: 1, backend: referenceBackend() }, 'threads: of the CPU, expected only'],
  ])('refuses wrong options: %j', async (options, message) => {
    await expect(estimate(TINY, options as EstimateOptions)).rejects.toThrow(message);
  });

  it('refuses what loadModel does', async () => {
    await expect(estimate(TINY.subarray(0, 3000))).rejects.toThrow(/^bytes: /);
    await expect(estimate('nowhere.gguf')).rejects.toThrow('nowhere.gguf');
  });
});

describe('where memory is short', () => {
  const OPTIONS = { parallel: 4, contextSize: 512, kv: 'f32' } as const;

  async function tryOut(file: Uint8Array, limitBytes: number, options: EstimateOptions): Promise<MemoryEstimate> {
    const cpu = { threads: 1 };
    const told = await estimate(file, { ...cpu, ...options, limitBytes });
    const { backend } = await limited(limitBytes);
    const loading = loadModel(file, { backend, ...options });
    if (told.fits === 'no') {
      const how = told.advice.map(({ text }) => text).join(', or with ');
      await expect(loading).rejects.toThrow(RangeError);
      await expect(loading).rejects.toThrow(/^bytes: does not fit: layers \d.* MB: .* MB of at most .* MB/);
      await expect(loading).rejects.toThrow(how === '' ? / of at most [^;]*$/ : `; it fits with ${how}`);
      return told;
    }
    const model = await loading;
    const { memoryBytes, kvBytes } = model.info;
    const warnings = model.info.warnings.filter((warning) => !/more than the 256 positions of the tr/.test(warning));
    expect([memoryBytes, kvBytes, warnings]).toEqual([told.totalBytes, told.kvBytes, told.warnings]);
    expect(warnings.length > 0).toBe(told.fits === 'reduced');
    await model.complete([1, 2, 3], { maxTokens: 3 });
    await model.dispose();
    return told;
  }

  it.each(['b1.58-i2_s', 'b1.58-tl2', 'tq1_0'])('loading does as told, and what is advised loads: %s', async (name) => {
    const file = golden(name);
    const { peakBytes } = await estimate(file, { threads: 1, ...OPTIONS });
    const seen = new Set<string>();
    for (let share = 1; share > 0.05; share -= 0.05) {
      const limitBytes = Math.round(share * peakBytes);
      const told = await tryOut(file, limitBytes, OPTIONS);
      seen.add(told.fits);
      for (const { options, converts } of told.advice) {
        const changed = { ...OPTIONS, ...options };
        const then = await tryOut(converts ? await inQ6k(file) : file, limitBytes, changed);
        expect(then.fits, JSON.stringify([share, options])).toMatch(told.fits === 'no' ? /yes|reduced/ : /yes/);
        for (const option of Object.keys(options)) seen.add(option);
      }
      if (told.maxContextSize > 0) {
        const longest = await tryOut(file, limitBytes, { ...OPTIONS, contextSize: told.maxContextSize });
        expect(longest.fits).not.toBe('no');
      }
      if (told.maxContextSize < 1 << 24) {
        // It is told in whole blocks of the cache; a little more than that may fit where another block does.
        const contextSize = told.maxContextSize + BLOCK_SIZE;
        expect((await estimate(file, { threads: 1, ...OPTIONS, limitBytes, contextSize })).fits).toBe('no');
      }
    }
    const { repacks } = await wasmSizing({ threads: 1 });
    const repacked = name === 'tq1_0' || (name === 'b1.58-tl2' && repacks.tl2 !== undefined) ? ['repack'] : [];
    expect([...seen].sort()).toEqual(['contextSize', 'head', 'kv', 'no', 'parallel', 'reduced', ...repacked, 'yes']);
  });

  it('advises a smaller head where that is enough, and no option where none is', async () => {
    const wishes = { parallel: 1, contextSize: 128 };
    const { weightsBytes, workingBytes, totalBytes, screenBytes } = await estimate(TINY, { threads: 1, ...wishes });
    const least = await estimate(TINY, { threads: 1, ...wishes, head: 'exact' });
    const limitBytes = least.peakBytes - 100_000;
    const told = await estimate(TINY, { threads: 1, ...wishes, limitBytes });
    expect(totalBytes - screenBytes).toBe(least.totalBytes);
    expect(told.fits).toBe('no');
    expect(told.totalBytes).toBe(least.totalBytes);
    const [converted] = told.advice.filter(({ converts }) => converts);
    expect(converted.text).toMatch(/^a head in Q6_K \(ternlm convert --embedding q6_k\)/);
    const small = await inQ6k(TINY);
    expect((await tryOut(small, limitBytes, { ...wishes, ...converted.options })).fits).not.toBe('no');
    expect(
      (await estimate(TINY, { threads: 1, ...wishes, limitBytes: (weightsBytes + workingBytes) / 2 })).advice,
    ).toEqual([]);
  });

  it('leaves the copy of the head out, which costs no tokens', async () => {
    const wishes = { parallel: 1, contextSize: 128 };
    const whole = await estimate(TINY, { threads: 1, ...wishes });
    const limitBytes = whole.peakBytes - 1000;
    const told = await tryOut(TINY, limitBytes, wishes);
    expect(told).toMatchObject({ fits: 'reduced', screenBytes: 0, positions: 128 });
    expect(told.warnings).toEqual([expect.stringMatching(/^head: exact: memory does not hold the copy of 0\.\d+ MB/)]);
  });

  it('refuses a context of millions before anything is read', async () => {
    const loading = loadModel(TINY, { threads: 1, contextSize: 1 << 24 });
    await expect(loading).rejects.toThrow(
      /^bytes: does not fit: layers 0\.\d+ MB, head 0\.26 MB, cache of 16777216 positions .* GB, working memory .*; it fits with contextSize \d+/,
    );
  });

  it('counts what loading takes beside the weights, where that is the most', () => {
    const none = { head: 0, embedding: 0, screen: 0, running: 0 };
    const needs = { ...none, layers: 6400, loading: 1280, blocks: 1, block: 64, working: 64 };
    expect(fitOf(needs, 7680, 1)).toEqual({ screened: false, blocks: 1, totalBytes: 6528, peakBytes: 7680 });
    expect(fitOf(needs, 7679, 1)).toBeUndefined();
  });

  it('warns, and does not refuse, where the system has less left', () => {
    expect(systemWarnings(3e9, 1e9, undefined)).toEqual([]);
    expect(systemWarnings(3e9, 1e9, 3e9)).toEqual([]);
    expect(systemWarnings(3e9, 1e9, 2.5e9)).toEqual([
      'memory: the system has 2.50 GB left; the model takes 2.00 GB, and 1.00 GB more as its cache fills',
    ]);
  });

  it('asks the system for that', async () => {
    const available = vi.spyOn(process, 'availableMemory').mockReturnValue(1_000_000);
    const told = await estimate(TINY, { threads: 1 });
    const model = await loadModel(TINY, { threads: 1 });
    available.mockRestore();
    expect(told).toMatchObject({ availableBytes: 1_000_000, fits: 'yes', warnings: model.info.warnings });
    expect(told.warnings).toEqual([
      expect.stringMatching(/^memory: the system has 1\.00 MB left; the model takes 2\./),
    ]);
    await model.dispose();
  });
});
