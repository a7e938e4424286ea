import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { type GgufHeader, readHeader } from '../dist/gguf/header.js';
import { openSource } from '../dist/gguf/source.js';
import { loadModel } from '../dist/index.js';
import { type Config, readConfig } from '../dist/model/config.js';
import { fitOf, type Needs, needsOf, type Wishes } from '../dist/model/fit.js';

const golden = (name: string) =>
  new Uint8Array(readFileSync(new URL(`./golden/models/tiny-bitnet-${name}.gguf`, import.meta.url)));
const WISHES: Wishes = { head: 'auto', repack: 'auto', kv: 'f16', contextSize: 256, rows: 64, outs: 1 };
const LIMIT = 2 ** 32;
const GB = 1e9;

let header: GgufHeader;
let config: Config;
beforeAll(async () => {
  header = await readHeader(await openSource(golden('b1.58-i2_s')));
  config = readConfig(header, 'm.gguf');
});

describe('fit', () => {
  const needs = (change: Partial<Needs>): Needs => ({
    layers: 2 * GB,
    head: 0,
    embedding: 0,
    screen: 0,
    cache: 0,
    working: 0,
    ...change,
  });
  const fitted = (change: Partial<Needs>) => fitOf('m.gguf', config, needs(change), LIMIT, 4096);

  it('takes all, or leaves the screen out', () => {
    expect(fitted({ head: GB, screen: GB })).toBe('all');
    expect(fitted({ head: 1.8 * GB, screen: GB })).toBe('without screen');
    expect(fitted({ screen: LIMIT - 2 * GB })).toBe('all');
    expect(fitted({ screen: LIMIT - 2 * GB + 1 })).toBe('without screen');
  });

  it('refuses what does not, with every number and what would fit', () => {
    expect(() => fitted({ head: GB, cache: 2 * GB, working: 0.1 * GB })).toThrow(
      'm.gguf: does not fit: layers 2.00 GB, head 1.00 GB, cache of 4096 positions 2.00 GB, working memory 0.10 GB: ' +
        '5.10 GB of at most 4.29 GB; a contextSize of 2432 fits; a head in Q6_K takes 1.00 GB less',
    );
    expect(() => fitted({ layers: 5 * GB })).toThrow(
      /^m\.gguf: does not fit: layers 5\.00 GB, .* of at most 4\.29 GB$/,
    );
  });

  it('foretells what a model takes', async () => {
    for (const name of ['b1.58-i2_s', 'b1.58-tl2', 'tq1_0']) {
      const file = golden(name);
      const { tensors, ...rest } = await readHeader(await openSource(file));
      const backend = await wasmBackend({ threads: 1 });
      const c = readConfig({ tensors, ...rest }, name);
      const { layers, head, screen, cache, working } = needsOf({ tensors, ...rest }, c, backend, WISHES);
      const model = await loadModel(file, { threads: 1, parallel: 1, contextSize: 256 });
      const { memoryBytes, kvBytes } = model.info;
      expect(cache, name).toBe(kvBytes + 4 * 256 * 64);
      expect(layers + head + screen + cache, name).toBeLessThan(memoryBytes);
      expect(layers + head + screen + cache + working, name).toBeGreaterThan(0.8 * memoryBytes);
      await model.dispose();
      await backend.dispose();
    }
  });

  it('counts an embedding of its own where steps are repeated', () => {
    const info = header.tensors.get('token_embd.weight');
    const embeddingOf = (headTensor: Config['headTensor'], maxRepeats: number) =>
      needsOf(header, { ...config, headTensor }, { repacks: {}, screenBytes: () => 0, maxRepeats }, WISHES).embedding;
    expect(embeddingOf('token_embd.weight', 8)).toBe(0);
    expect(embeddingOf(undefined, 8)).toBe(info?.bytes);
    expect(embeddingOf(undefined, 1)).toBe(0);
    expect(() => fitted({ head: GB, embedding: 0.5 * GB, cache: 2 * GB })).toThrow(
      'head 1.00 GB, embedding 0.50 GB, cache of 4096 positions 2.00 GB, working memory 0.00 GB: 5.50 GB of at most 4.29 GB',
    );
  });

  it('is asked before anything is read', async () => {
    const loading = loadModel(golden('b1.58-i2_s'), { threads: 1, contextSize: 1 << 24 });
    await expect(loading).rejects.toThrow(/does not fit: .*cache of 16777216 positions .* a contextSize of \d+ fits$/);
  });
});
