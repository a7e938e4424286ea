import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Backend, Tensor } from '../dist/backend/backend.js';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { readHeader } from '../dist/gguf/header.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import { openSource } from '../dist/gguf/source.js';
import { readConfig } from '../dist/model/config.js';
import { createKvCache, type KvSequence } from '../dist/model/kv_cache.js';
import { createStepper, type Stepper } from '../dist/model/step.js';
import { loadWeights } from '../dist/model/weights.js';
import { type ReferenceTensor, referenceBackend } from '../dist/reference/backend.js';
import { PICK_BYTES, paramsBytes, resolveSampler, writeParams } from '../dist/sampler.js';
import { rewrite } from './rewrite.js';

const golden = (name: string) => new Uint8Array(readFileSync(new URL(`golden/models/${name}.gguf`, import.meta.url)));
const [VOCAB, DIM, CONTEXT] = [512, 256, 64];

/** A head of its own: the rows of the embedding in reverse order. */
const untied = () =>
  rewrite(golden('tiny-bitnet-i2_s'), (tensor) => {
    if (tensor.name !== 'token_embd.weight') return [tensor];
    const values = f16.decode(tensor.packed);
    const rows = Array.from({ length: VOCAB }, (_, i) => [...values.subarray(i * DIM, (i + 1) * DIM)]);
    return [tensor, { ...tensor, name: 'output.weight', packed: f16.encode(Float32Array.from(rows.reverse().flat())) }];
  });

async function open<T extends Tensor>(backend: Backend<T>, file: Uint8Array) {
  const source = await openSource(file);
  const header = await readHeader(source);
  const config = readConfig(header, 'model');
  const weights = await loadWeights(backend, source, header, config);
  const kv = createKvCache(backend, config, 'f32', CONTEXT, 2);
  const places = [kv.open(), kv.open()] as KvSequence[];
  for (const place of places) place.reserve(CONTEXT);
  const limits = { maxRows: 8, maxOuts: 2, paramsStride: paramsBytes(CONTEXT) };
  return { weights, places, stepper: createStepper(backend, config, weights, kv, limits) };
}

const PROMPTS = [
  [509, 1, 5],
  [509, 40, 7],
];
/** The first penalises few tokens, which go round, the second all of a text. */
const SAMPLERS = [
  resolveSampler({ seed: 3, repeatPenalty: 1.5, frequencyPenalty: 0.5, repeatLastN: 5, temperature: 1.5 }, VOCAB),
  resolveSampler({ seed: 4, presencePenalty: 1, repeatLastN: -1, logitBias: { 5: -1 }, temperature: 1.5 }, VOCAB),
];

/** Tokens of both prompts: `runs` says how many are drawn in each start, the second of a pair by `again` while the first is under way. */
async function drawn(stepper: Stepper, places: readonly KvSequence[], runs: readonly (readonly number[])[]) {
  const texts = PROMPTS.map((prompt) => [...prompt]);
  const take = (repeats: number) => (error: Error | undefined, picks: DataView) => {
    if (error !== undefined) throw error;
    for (let i = 0; i < repeats; i++) {
      texts.forEach((text, out) => void text.push(picks.getInt32((2 * i + out) * PICK_BYTES, true)));
    }
  };
  const told = (start: (done: ReturnType<typeof take>) => void, repeats: number) =>
    new Promise<void>((resolve, reject) => {
      start((error, picks) => {
        try {
          resolve(take(repeats)(error, picks));
        } catch (cause) {
          reject(cause);
        }
      });
    });
  let computed = 0;
  for (const [repeats, more = 0] of runs) {
    let rows = 0;
    texts.forEach((text, out) => {
      for (let pos = computed; pos < text.length; pos++, rows++) {
        stepper.tokens[rows] = text[pos];
        stepper.pos[rows] = pos;
        stepper.sequence[rows] = places[out].row;
      }
      stepper.index[out] = rows - 1;
      const step = text.length - PROMPTS[out].length;
      writeParams(stepper.params[out], SAMPLERS[out], step, text, text.length);
    });
    computed = texts[0].length + repeats + more - 1;
    const first = told((done) => stepper.start(rows, 2, true, repeats, done), repeats);
    if (more > 0) await told((done) => stepper.again(more, done), more);
    await first;
  }
  return texts;
}

describe('a step', () => {
  it('drawn several times in a start goes on as from one start to the next', async () => {
    for (const file of [golden('tiny-bitnet-b1.58-i2_s'), await untied()]) {
      const one = await open(referenceBackend(), file);
      expect(one.stepper.maxRepeats).toBe(1);
      const expected = await drawn(one.stepper, one.places, Array(12).fill([1]));
      const repeating: Backend<ReferenceTensor> = { ...referenceBackend(), maxRepeats: 4 };
      const many = await open(repeating, file);
      expect(await drawn(many.stepper, many.places, [[1], [1, 2], [4, 4]])).toEqual(expected);
      expect(new Set(expected[0]).size).toBeGreaterThan(8);
    }
  });

  it.each([1, 4])(
    'has the embedding in memory where it is the head, or may be repeated: up to %i times',
    async (maxRepeats) => {
      const backend = { ...(await wasmBackend({ threads: 1 })), maxRepeats };
      const tied = await open(backend, golden('tiny-bitnet-b1.58-i2_s'));
      expect(tied.weights.embedding).toMatchObject({ tensor: tied.weights.head?.tensor, readRow: undefined });
      const apart = await open(backend, await untied());
      const { tensor } = apart.weights.embedding;
      expect(tensor === undefined).toBe(maxRepeats === 1);
      expect(tensor).not.toBe(apart.weights.head?.tensor);
      await backend.dispose();
    },
  );
});

describe('weights', () => {
  it('in a layout that a backend does not compute with are refused, repacked or not', async () => {
    const source = await openSource(golden('tiny-bitnet-tq1_0'));
    const header = await readHeader(source);
    const config = readConfig(header, 'm.gguf');
    const backend: Backend<ReferenceTensor> = { ...referenceBackend(), name: 'some', computes: ['i2_s', 'tq2_0'] };
    const load = (repacks: Backend['repacks'], repack: 'auto' | 'none') =>
      loadWeights({ ...backend, repacks }, { ...source, name: 'm.gguf' }, header, config, { repack });
    const only = 'some computes only with I2_S, TQ2_0; m.gguf has TQ1_0';
    await expect(load({ tq1_0: 'tq2_0' }, 'none')).rejects.toThrow(new RangeError(`repack: 'none', but ${only}`));
    await expect(load({}, 'auto')).rejects.toThrow(new RangeError(only));
    const { storage } = await load({ tq1_0: 'tq2_0' }, 'auto');
    expect(storage).toMatchObject({ file: 'TQ1_0', memory: 'tq2_0' });
  });
});
