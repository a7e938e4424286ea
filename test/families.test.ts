import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { convert } from '../dist/convert/convert.js';
import { openSource } from '../dist/gguf/source.js';
import { estimate, loadModel, type MemoryEstimate, type Model } from '../dist/index.js';
import { agree } from './agree.js';
import './dot_add.js';
import { repeating } from './repeating.js';

// Checkpoints as Hugging Face publishes them, converted here, against what transformers computes for them:
// test/golden/transformers/README.md says which program and command made the goldens.

/**
 * Logits deviate by 3, hidden states by 1; both sides sum in f32 in their own order, and no activation lies so near to a
 * rounding boundary of int8 that this could tip it over (README of the goldens, "How exact"). One that tipped would cost up
 * to 0.3 of a logit and 0.003 of an embedding.
 */
const LOGITS_BOUND = 0.02;
const EMBEDDING_BOUND = 2e-4;

const golden = (name: string, file: string) =>
  join(fileURLToPath(new URL(`./golden/transformers/${name}`, import.meta.url)), file);

function floats(name: string, file: string): Float32Array {
  const bytes = readFileSync(golden(name, file));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

interface Expected {
  readonly seed: number;
  readonly sequences: readonly { tokens: number[]; output: string; greedy?: number[] }[];
  readonly texts: readonly { text: string; ids: number[]; with_special: number[] }[];
}

const expectedOf = (name: string) => JSON.parse(readFileSync(golden(name, 'expected.json'), 'utf8')) as Expected;

/** The checkpoint as a GGUF file in memory. */
async function converted(name: string, type: 'I2_S' | 'F16' | 'TL1'): Promise<Uint8Array> {
  const pieces: [number, Uint8Array][] = [];
  const folder = {
    name,
    async open(file: string) {
      try {
        return await openSource(new Uint8Array(readFileSync(golden(name, file))));
      } catch {
        return undefined;
      }
    },
  };
  await convert(folder, { write: (at, bytes) => void pieces.push([at, bytes.slice()]) }, { type });
  const bytes = new Uint8Array(Math.max(...pieces.map(([at, piece]) => at + piece.length)));
  for (const [at, piece] of pieces) bytes.set(piece, at);
  return bytes;
}

const RUNS = [
  { tier: 'simd', threads: 1 },
  { tier: 'relaxed', threads: 2 },
] as const;

describe.each(['bitnet', 'llama', 'bitnet-master'])('%s', (name) => {
  const { seed, sequences, texts } = expectedOf(name);
  describe.each(RUNS)('$tier, $threads threads', (options) => {
    let model: Model;
    beforeAll(async () => {
      model = await loadModel(await converted(name, 'I2_S'), { ...options, kv: 'f32' });
    });
    afterAll(() => model.dispose());

    it.each([1, 7, 16])('has the logits of transformers, %d rows at a time', async (batch) => {
      for (const { tokens, output } of sequences) {
        const [expected, actual] = [floats(name, output), await model.logits(tokens, { batch })];
        const bound = new Float64Array(expected.length).fill(LOGITS_BOUND);
        agree({ op: `${name}, ${output}, ${batch} rows`, seed, expected, actual, bound });
      }
    });

    it('writes on as transformers does', async () => {
      for (const { tokens, greedy = [] } of sequences) {
        const options = { temperature: 0, maxTokens: greedy.length, ignoreEos: true };
        expect((await model.complete(tokens, options)).tokens).toEqual(greedy);
      }
    });

    it('has the tokens of the checkpoint', async () => {
      for (const { text, ids, with_special } of texts) {
        expect(await model.tokenize(text, { addSpecial: false }), JSON.stringify(text)).toEqual(ids);
        expect(await model.tokenize(text), JSON.stringify(text)).toEqual(with_special);
      }
    });
  });
});

describe.each([
  ['qwen3', 'I2_S'],
  ['gemma3', 'I2_S'],
  ['gemma3', 'TL1'],
] as const)('%s in %s', (name, type) => {
  const { seed, sequences, texts } = expectedOf(name);
  describe.each(RUNS)('$tier, $threads threads', (options) => {
    let model: Model;
    let told: MemoryEstimate;
    beforeAll(async () => {
      const file = await converted(name, type);
      told = await estimate(file, options);
      model = await loadModel(file, { ...options, kv: 'f32' });
    });
    afterAll(() => model.dispose());

    it('has the vectors of transformers, alone and together', async () => {
      const tokens = sequences.map((sequence) => sequence.tokens);
      const together = await model.embed(tokens);
      for (const [i, { output }] of sequences.entries()) {
        const expected = floats(name, output);
        const bound = new Float64Array(expected.length).fill(EMBEDDING_BOUND);
        agree({ op: `${name}, ${output}`, seed, expected, actual: together[i], bound });
        expect(await model.embed(Int32Array.from(tokens[i]))).toEqual(together[i]);
      }
      const first = floats(name, 'embedding.0.64.f32');
      const [short] = await model.embed([tokens[0]], { dimensions: 64 });
      const bound = new Float64Array(64).fill(EMBEDDING_BOUND);
      agree({ op: `${name}, 64 dimensions`, seed, expected: first, actual: short, bound });
    });

    it('has the tokens of the checkpoint, those around the text included', async () => {
      for (const { text, ids, with_special } of texts) {
        expect(await model.tokenize(text, { addSpecial: false }), JSON.stringify(text)).toEqual(ids);
        expect(await model.tokenize(text), JSON.stringify(text)).toEqual(with_special);
      }
    });

    it('takes the memory that was estimated', () => {
      expect(told.totalBytes).toBe(model.info.memoryBytes);
      expect(told).toMatchObject({ fits: 'yes', headBytes: 0, screenBytes: 0, kvBytes: 0, workingBytes: 0 });
      // Later a text of the whole context has a cache, and a step.
      expect(told.peakBytes - told.totalBytes).toBeGreaterThan((told.kvPer1kBytes / 1024) * told.contextSize);
    });

    it('has no logits, and says so', async () => {
      const why = /is an embedding model \((qwen3|gemma3)\), without an output head for \w+: see embed/;
      await expect(model.complete('a')).rejects.toThrow(why);
      await expect(model.logits([1])).rejects.toThrow(why);
      await expect(model.perplexity('a text')).rejects.toThrow(why);
    });
  });
});

it('goes on with the CPU where its backend is lost', async () => {
  const bytes = await converted('qwen3', 'I2_S');
  const { backend, log } = repeating(await wasmBackend({ threads: 1 }), { lostFrom: 2, shared: true });
  const model = await loadModel(bytes, { backend, fallback: true });
  const plain = await loadModel(bytes, { threads: 1 });
  const vector = await plain.embed('a fox');
  expect(await model.embed('a fox')).toEqual(vector);
  const lost = await Promise.allSettled([model.embed('a fox'), model.embed('a wolf')]);
  for (const call of lost) expect(call).toMatchObject({ reason: { name: 'BackendLostError' } });
  expect(await model.embed('a fox')).toEqual(vector);
  expect(model.info.warnings).toEqual(['the CPU took over from repeating: the device is gone']);
  expect(log.disposed).toBe(1);
  await model.dispose();
  await plain.dispose();
});

it('a matrix of 160 columns, in F16, has the vectors of transformers within what int8 activations make of them', async () => {
  const { sequences } = expectedOf('gemma3-160');
  const model = await loadModel(await converted('gemma3-160', 'F16'), { threads: 1 });
  const vectors = await model.embed(sequences.map(({ tokens }) => tokens));
  for (const [i, { output }] of sequences.entries()) {
    const expected = floats('gemma3-160', output);
    expect(vectors[i].reduce((sum, x, j) => sum + x * expected[j], 0)).toBeGreaterThan(0.999);
  }
  await model.dispose();
});
