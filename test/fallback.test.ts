import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import {
  type Backend,
  BackendLostError,
  demoModel,
  type GenerateOptions,
  type LoadModelOptions,
  loadModel,
  type Model,
} from '../dist/index.js';
import './dot_add.js';
import { random } from './random.js';
import { type Log, type Repeating, repeating } from './repeating.js';

// A backend that is given: whose it is, what becomes of it when it fails, and that generations go on when it is lost.

const PROMPTS = ['Once upon a time', 'The king said to his daughter that', 'A', 'In the forest '.repeat(40), 'And'];
const WRITE: GenerateOptions = { maxTokens: 60, seed: 3, ignoreEos: true };
const tiny = new URL('./golden/models/tiny-bitnet-b1.58-i2_s.gguf', import.meta.url);

const given = async (how: Repeating = {}) => repeating(await wasmBackend({ threads: 1 }), how);

async function open(how: Repeating, options: LoadModelOptions = {}): Promise<{ model: Model; log: Log }> {
  const { backend, log } = await given(how);
  return { model: await loadModel(demoModel, { backend, fallback: true, ...options }), log };
}

let plain: Model;
let texts: readonly (readonly number[])[];
beforeAll(async () => {
  plain = await loadModel(demoModel, { threads: 1 });
  texts = await Promise.all(PROMPTS.map(async (prompt) => (await plain.complete(prompt, WRITE)).tokens));
});
afterAll(() => plain.dispose());

async function read(model: Model, prompt: string): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of model.generate(prompt, WRITE)) ids.push(id);
  return ids;
}

describe('a backend that is lost', () => {
  describe.each(['at once', 'when done'] as const)('and tells so %s', (tells) => {
    // The first start is the prompt's, the next draw a token each, later ones many.
    it.each([1, 2, 3, 6, 8])('at start %i: a text goes on as if nothing had been', async (lostFrom) => {
      const { model, log } = await open({ lostFrom, tells });
      expect(model.info).toMatchObject({ backend: 'repeating', tier: undefined, threads: undefined, warnings: [] });
      expect(await read(model, PROMPTS[0])).toEqual(texts[0]);
      expect(model.info.backend).toMatch(/^wasm /);
      expect(model.info.threads).toBeGreaterThan(0);
      expect(model.info.memoryBytes).toBeGreaterThan(0);
      expect(model.info.warnings).toEqual(['the CPU took over from repeating: the device is gone']);
      expect(model.info).toBe(model.info);
      expect(log.disposed).toBe(1);
      expect(await read(model, PROMPTS[1])).toEqual(texts[1]);
      await model.dispose();
      expect(log.disposed).toBe(1);
    });

    it.each([1, 2, 5, 9])('at start %i: so do many, and those that wait', async (lostFrom) => {
      const { model, log } = await open({ lostFrom, tells }, { parallel: 3 });
      expect(await Promise.all(PROMPTS.map((prompt) => read(model, prompt)))).toEqual(texts);
      expect([model.info.parallel, log.disposed]).toEqual([3, 1]);
      await model.dispose();
    });

    it('in the middle of a prompt', async () => {
      const { model, log } = await open({ lostFrom: 2, tells });
      expect((await plain.tokenize(PROMPTS[3])).length).toBeGreaterThan(64);
      expect(await read(model, PROMPTS[3])).toEqual(texts[3]);
      expect(log.repeats).toEqual([1, 1]);
      await model.dispose();
    });

    it('fails what runs and what comes where there is no fallback', async () => {
      const { model, log } = await open({ lostFrom: 5, tells }, { fallback: false, parallel: 1 });
      const all = await Promise.allSettled([read(model, PROMPTS[0]), read(model, PROMPTS[1])]);
      for (const result of all) {
        expect(result).toMatchObject({ status: 'rejected', reason: { name: 'BackendLostError' } });
      }
      const starts = log.repeats.length;
      await expect(read(model, 'A')).rejects.toThrow(BackendLostError);
      expect(log.repeats.length).toBe(starts);
      await expect(model.embed('A')).rejects.toThrow(BackendLostError);
      expect([model.info.backend, log.disposed]).toEqual(['repeating', 0]);
      await model.dispose();
      expect(log.disposed).toBe(1);
    });
  });

  it('as several find out at once: it is replaced once', async () => {
    const { model, log } = await open({ lostFrom: 8, shared: true });
    const vector = await plain.embed('The king');
    const reading = PROMPTS.map((prompt) => read(model, prompt));
    const calls = await Promise.allSettled(Array.from({ length: 5 }, () => model.embed('The king')));
    expect(calls.every((call) => call.status === 'fulfilled' || call.reason.name === 'BackendLostError')).toBe(true);
    expect(await Promise.all(reading)).toEqual(texts);
    expect(await model.embed('The king')).toEqual(vector);
    expect(log.disposed).toBe(1);
    await model.dispose();
  });

  it('as no text is written: the call fails, and the next one waits for the CPU', async () => {
    const { model, log } = await open({ lostFrom: 1 });
    await expect(model.embed('The king')).rejects.toThrow(BackendLostError);
    expect(await model.embed('The king')).toEqual(await plain.embed('The king'));
    expect(await read(model, PROMPTS[0])).toEqual(texts[0]);
    expect(log.disposed).toBe(1);
    await model.dispose();
  });

  it('of a model that is disposed of meanwhile', async () => {
    let dispose: Promise<void> | undefined;
    const { backend, log } = await given({ lostFrom: 4 });
    const model = await loadModel(demoModel, {
      fallback: true,
      backend: {
        ...backend,
        async dispose() {
          dispose = model.dispose(); // as the weights are about to be read again
          await backend.dispose();
        },
      },
    });
    await expect(read(model, PROMPTS[0])).rejects.toThrow('the model was disposed');
    await dispose;
    expect(log.disposed).toBe(1);
    expect(() => model.generate('A')).toThrow('the model was disposed');
  });

  it('after the signal of loading was aborted', async () => {
    const abort = new AbortController();
    const { model } = await open({ lostFrom: 4 }, { signal: abort.signal });
    abort.abort();
    expect(await read(model, PROMPTS[0])).toEqual(texts[0]);
    await model.dispose();
  });

  it('where the CPU cannot take over either: tells why, then and later', async () => {
    const bytes = new Uint8Array(readFileSync(demoModel));
    const { backend, log } = await given({ lostFrom: 4 });
    const model = await loadModel(bytes, { backend, fallback: true });
    bytes.fill(0xff, bytes.length >> 1);
    await expect(read(model, PROMPTS[0])).rejects.toThrow(/^bytes: /);
    await expect(read(model, PROMPTS[0])).rejects.toThrow(/^bytes: /);
    await expect(model.embed('A')).rejects.toThrow(/^bytes: /);
    await model.dispose();
    expect(log.disposed).toBe(1);
  });
});

it.each([1, 2, 3, 4, 5, 6])('readers that come, wait and leave by chance read what they would: %i', async (seed) => {
  const { below } = random(seed);
  const lostFrom = seed % 3 === 0 ? Number.POSITIVE_INFINITY : 1 + below(30);
  const tells = seed % 2 === 0 ? 'at once' : 'when done';
  const { model, log } = await open({ lostFrom, tells, maxRepeats: 1 << (1 + below(6)) }, { parallel: 1 + below(4) });
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const readers = Array.from({ length: 10 }, async () => {
    const prompt = PROMPTS[below(PROMPTS.length)];
    const options = { seed: below(4), maxTokens: 1 + below(120), repeatPenalty: 1 + below(2), logitBias: { 0: 4 } };
    const [comes, every, leaves] = [below(60), 1 + below(10), below(3) === 0 ? below(50) : Number.POSITIVE_INFINITY];
    await sleep(comes);
    const ids: number[] = [];
    for await (const { id } of model.generate(prompt, options)) {
      if (ids.push(id) > leaves) break;
      if (every < 4 && ids.length % (10 * every) === 0) await sleep(30);
    }
    const { tokens } = await plain.complete(prompt, options);
    expect(ids).toEqual(tokens.slice(0, leaves + 1));
  });
  await Promise.all(readers);
  await model.dispose();
  expect(log.disposed).toBe(1);
});

describe('a backend that is given', () => {
  it('ends what runs beside the engine when it is disposed of', async () => {
    const { backend } = await given({ shared: true });
    const model = await loadModel(demoModel, { backend, fallback: true });
    const logits = expect(model.logits(new Array(300).fill(1), { batch: 1 })).rejects.toThrow('the model was disposed');
    await new Promise((resolve) => setTimeout(resolve, 20));
    await model.dispose();
    await logits;
  });

  it('is opened by a function, and computes', async () => {
    const { backend, log } = await given();
    const model = await loadModel(demoModel, { backend: async () => backend });
    expect(await read(model, PROMPTS[0])).toEqual(texts[0]);
    expect(log.repeats.length).toBeGreaterThan(0);
    await model.dispose();
    expect(log.disposed).toBe(1);
  });

  it.each([
    [{ threads: 2 }, 'threads: of the CPU, expected only where no backend is given'],
    [{ tier: 'simd', revectorize: false }, 'tier, revectorize: of the CPU, expected only'],
    [{ parallel: 0 }, 'parallel: got 0, expected'],
    [{ contextSize: 1 << 24 }, 'does not fit'],
  ] as const)('is disposed of where options are wrong: %j', async (options, message) => {
    const { backend, log } = await given();
    const small = { ...backend, limitBytes: 2 ** 32 };
    const loading = loadModel(demoModel, { backend: small, ...options });
    await expect(loading).rejects.toThrow(RangeError);
    await expect(loading).rejects.toThrow(message);
    expect(log.disposed).toBe(1);
  });

  it('is disposed of where the file is broken or not there, or loading is aborted, and no fallback helps', async () => {
    const bytes = new Uint8Array(readFileSync(tiny));
    for (const [input, message] of [
      ['nowhere.gguf', 'nowhere.gguf'],
      [bytes.subarray(0, 3000), /^bytes: /],
      [bytes.map((x, i) => (i > bytes.length / 2 ? 0xff : x)), /tensor/],
    ] as const) {
      const { backend, log } = await given();
      await expect(loadModel(input, { backend, fallback: true })).rejects.toThrow(message);
      expect(log.disposed).toBe(1);
    }
    const abort = new AbortController();
    const { backend, log } = await given();
    const options = { backend, fallback: true, signal: abort.signal, onProgress: () => abort.abort(new Error('no')) };
    await expect(loadModel(tiny, options)).rejects.toThrow('no');
    expect(log.disposed).toBe(1);
  });

  it('is no text', async () => {
    for (const backend of ['webgpu', null, async () => 'webgpu']) {
      const loading = loadModel(demoModel, { backend } as unknown as LoadModelOptions);
      await expect(loading).rejects.toThrow(/backend: got (webgpu|null), expected a Backend or a function/);
    }
  });

  const alloc = () => {
    throw new RangeError('wanted 1 byte; there is none');
  };
  const refusals: [string, (backend: Backend) => Backend | (() => Promise<Backend>), RegExp, number][] = [
    ['cannot be opened', () => () => Promise.reject(new Error('no adapter')), /no adapter/, 0],
    ['is too small', (backend) => ({ ...backend, limitBytes: 1000 }), /does not fit: .* of at most 0.00 MB/, 1],
    ['has no memory', (backend) => ({ ...backend, alloc }), /wanted 1 byte/, 1],
    ['is lost', (backend) => ({ ...backend, run: () => Promise.reject(new BackendLostError('reset')) }), /reset/, 1],
    ['computes with nothing here', (backend) => ({ ...backend, computes: ['tl1'], repacks: {} }), /only with TL1/, 1],
  ];
  it.each(refusals)('and %s: fails, or the CPU takes over and says why', async (_name, spoil, why, disposed) => {
    const [first, second] = [await given(), await given()];
    await expect(loadModel(demoModel, { backend: spoil(first.backend) })).rejects.toThrow(why);
    const model = await loadModel(demoModel, { backend: spoil(second.backend), fallback: true });
    expect(model.info.backend).toMatch(/^wasm /);
    expect(model.info.warnings).toEqual([expect.stringMatching(new RegExp(`^the CPU computes: .*${why.source}`))]);
    expect(await read(model, PROMPTS[0])).toEqual(texts[0]);
    expect([first.log.disposed, second.log.disposed]).toEqual([disposed, disposed]);
    await model.dispose();
    expect(second.log.disposed).toBe(disposed);
  });
});
