import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { demoModel, GgufError, loadModel, type Model, type Token } from '../dist/index.js';
import './dot_add.js';

const tiny = new URL('./golden/models/tiny-bitnet-b1.58-i2_s.gguf', import.meta.url);
const GREEDY = { temperature: 0, maxTokens: 40 };

async function collect(tokens: AsyncIterable<Token>): Promise<Token[]> {
  const all: Token[] = [];
  for await (const token of tokens) all.push(token);
  return all;
}

describe('every tier and thread count', () => {
  it.each([
    ['tiny', tiny],
    ['demo', demoModel],
  ])('gives the same tokens: %s', async (_name, file) => {
    const seen: (readonly number[])[][] = [];
    for (const tier of ['simd', 'relaxed', 'revec'] as const) {
      for (const threads of [1, 2, 3]) {
        const model = await loadModel(file, { tier, threads });
        const greedy = await model.complete('Once upon a time', GREEDY);
        const drawn = await model.complete('Once upon a time', { seed: 7, maxTokens: 40 });
        seen.push([greedy.tokens, drawn.tokens]);
        expect(seen.at(-1), `${tier}, ${threads} threads, against simd, 1 thread`).toEqual(seen[0]);
        await model.dispose();
      }
    }
    expect(seen.length).toBe(9);
  });

  it('refuses a tier that is none', async () => {
    await expect(loadModel(tiny, { tier: 'fast' as 'simd' })).rejects.toThrow(
      "tier: got 'fast', expected auto, revec, relaxed or simd",
    );
  });
});

describe('generation', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(demoModel, { threads: 2 });
  });
  afterAll(() => model.dispose());

  it('yields tokens whose texts make the whole, and returns the summary', async () => {
    const tokens = model.generate('Once upon a time', { seed: 3, maxTokens: 30 });
    const texts: string[] = [];
    let next = await tokens.next();
    while (!next.done) {
      const { id, text, probability, logit, isEos } = next.value;
      expect(Number.isInteger(id) && Number.isFinite(logit) && typeof isEos === 'boolean').toBe(true);
      expect(probability).toBeGreaterThan(0);
      expect(probability).toBeLessThanOrEqual(1);
      texts.push(text);
      next = await tokens.next();
    }
    const { text, tokens: ids, finishReason, seed, timings } = next.value;
    expect(texts.join('')).toBe(text);
    expect(await model.detokenize(ids, { skipSpecial: true })).toBe(text);
    expect([finishReason, seed, timings.generatedTokens]).toEqual([ids.length < 30 ? 'stop' : 'length', 3, ids.length]);
    expect(timings.promptTokens).toBe((await model.tokenize('Once upon a time')).length);
  });

  it('calls back with each token', async () => {
    const seen: number[] = [];
    const { tokens } = await model.complete('The king', { ...GREEDY, onToken: ({ id }) => seen.push(id) });
    expect(seen).toEqual(tokens);
  });

  it('is the same alone and in company', async () => {
    const prompts = [
      'Once upon a time',
      'The king said to his daughter that',
      'A',
      'In the forest '.repeat(12),
      'And',
      'So',
    ];
    const options = (i: number) => ({ maxTokens: 30, seed: i });
    const alone: (readonly number[])[] = [];
    for (const [i, prompt] of prompts.entries()) alone.push((await model.complete(prompt, options(i))).tokens);
    const together = await Promise.all(prompts.map((prompt, i) => model.complete(prompt, options(i))));
    expect(together.map(({ tokens }) => tokens)).toEqual(alone);
  });

  it('continues tokens as it continues their text', async () => {
    const text = await model.complete('Once upon a time', GREEDY);
    const tokens = await model.complete(await model.tokenize('Once upon a time'), GREEDY);
    expect(tokens.tokens).toEqual(text.tokens);
  });

  it('ends at a stop text and leaves it out, wherever tokens are cut', async () => {
    const { text } = await model.complete('Once upon a time', GREEDY);
    for (const length of [1, 2, 5]) {
      const at = Math.floor(text.length / 2);
      const stop = text.slice(at, at + length);
      const tokens = await collect(model.generate('Once upon a time', { ...GREEDY, stop: ['never there', stop] }));
      expect(tokens.map((t) => t.text).join('')).toBe(text.slice(0, text.indexOf(stop)));
      const whole = await model.complete('Once upon a time', { ...GREEDY, stop });
      expect([whole.text, whole.finishReason]).toEqual([text.slice(0, text.indexOf(stop)), 'stop']);
    }
  });

  it('keeps the beginning of a stop text that never comes', async () => {
    const { text } = await model.complete('Once upon a time', GREEDY);
    const stop = `${text.slice(-3)}\u0000`;
    const whole = await model.complete('Once upon a time', { ...GREEDY, stop });
    expect(whole.text).toBe(text);
  });

  it('ends at the end of the context', async () => {
    const short = await loadModel(tiny, { contextSize: 40, threads: 1 });
    const prompt = await short.tokenize('Once upon a time');
    const bias = Object.fromEntries([509, 510, 511].map((id) => [id, -Infinity]));
    const { tokens, finishReason } = await short.complete(prompt, { temperature: 0, logitBias: bias });
    expect([prompt.length + tokens.length, finishReason]).toEqual([41, 'length']);
    expect(() => short.generate(new Array(41).fill(1))).toThrow(
      'prompt: 41 tokens, expected at most 40 (contextSize 40)',
    );
    await short.dispose();
  });

  it('stops when aborted, in the queue, in the prompt and while decoding, and goes on with others', async () => {
    const before = await model.complete('The king', GREEDY);
    for (const after of [0, 1, 5]) {
      const abort = new AbortController();
      const reason = new Error('enough');
      let seen = 0;
      const run = async () => {
        for await (const _ of model.generate('In the forest '.repeat(20), { maxTokens: 200, signal: abort.signal })) {
          if (++seen === after) abort.abort(reason);
        }
      };
      const running = run();
      if (after === 0) abort.abort(reason);
      await expect(running).rejects.toBe(reason);
      expect(seen).toBe(after);
    }
    expect((await model.complete('The king', GREEDY)).tokens).toEqual(before.tokens);
  });

  it('frees the sequence of a loop that is left', async () => {
    for (let i = 0; i < 12; i++) {
      for await (const _ of model.generate('Once', { maxTokens: 400 })) break;
    }
    expect((await model.complete('The king', { maxTokens: 5 })).tokens.length).toBeGreaterThan(0);
  });

  it('lets any number of loops take turns', async () => {
    const options = (i: number) => ({ maxTokens: 20, seed: i, ignoreEos: true });
    const seeds = Array.from({ length: 7 }, (_, i) => i);
    const alone: (readonly number[])[] = [];
    for (const i of seeds) alone.push((await model.complete('The king', options(i))).tokens);
    const loops = seeds.map((i) => model.generate('The king', options(i)));
    const seen: number[][] = seeds.map(() => []);
    for (let n = 0; n < 20; n++) {
      const round = await Promise.all(loops.map((loop) => loop.next()));
      round.forEach((next, i) => {
        if (!next.done) seen[i].push(next.value.id);
      });
    }
    expect(seen).toEqual(alone);
    for (const loop of loops) await loop.return({} as never);
  });

  it('gives the place of a loop that pauses to others, and takes it up again', async () => {
    const single = await loadModel(demoModel, { threads: 1, parallel: 1 });
    const options = { seed: 1, maxTokens: 40, ignoreEos: true };
    const whole = await single.complete('Once', options);
    const slow = single.generate('Once', options);
    const ids = [((await slow.next()).value as Token).id];
    expect((await single.complete('The king', GREEDY)).tokens.length).toBe(40);
    await new Promise((resolve) => setTimeout(resolve, 400));
    let next = await slow.next();
    for (; !next.done; next = await slow.next()) ids.push(next.value.id);
    expect(ids).toEqual(whole.tokens);
    // It waited for its reader: it did not run ahead to its end.
    expect(next.value.timings.generatedMs).toBeGreaterThan(400);
    await single.dispose();
  });

  it('draws anew for each token', async () => {
    const wild = { seed: 5, temperature: 1e6, topK: 0, topP: 1, minP: 0, maxTokens: 30, ignoreEos: true };
    const { tokens } = await model.complete('Once', wild);
    // With all tokens as likely, equal numbers would draw equal tokens.
    expect(new Set(tokens).size).toBeGreaterThan(20);
  });

  it('is the same for prompts of any length, more lengths than programs are kept', async () => {
    const prompt = (await model.tokenize('In the forest there was a little house, and in the house '.repeat(4))).slice(
      0,
      45,
    );
    const first: (readonly number[])[] = [];
    const lengths = Array.from({ length: 45 }, (_, i) => i + 1);
    const run = async (n: number) =>
      (await model.complete(prompt.slice(0, n), { temperature: 0, maxTokens: 2 })).tokens;
    for (const n of lengths) first.push(await run(n));
    for (const n of lengths) expect(await run(n)).toEqual(first[n - 1]);
  });

  it.each([
    [{ maxTokens: 0 }, 'maxTokens: got 0, expected a whole number from 1 up'],
    [{ temperature: Number.NaN }, 'temperature: expected a finite number, got NaN'],
    [{ stop: [''] }, 'stop: expected a text or up to 16 of them, none empty'],
    [{ ignoreEos: true, logitBias: { 1: Number.NaN } }, 'logitBias[1]: expected a number, got NaN'],
    [{ logitBias: { 99999: 1 } }, 'logitBias: expected token ids from 0 to 2047, got'],
  ])('refuses %j', (options, message) => {
    expect(() => model.generate('Once', options)).toThrow(message);
  });

  it('refuses tokens that are none', () => {
    expect(() => model.generate([1, 2, 2048])).toThrow(
      'prompt: token 2 is 2048, expected a whole number from 0 to 2047',
    );
    expect(() => model.generate([])).toThrow('prompt: no tokens');
    expect(() => model.generate(undefined as unknown as string)).toThrow('prompt: got undefined, expected a text');
  });

  it('gives logits whose softmax is the probability of a token', async () => {
    const prompt = await model.tokenize('Once upon a time');
    const { value } = await model.generate(prompt, GREEDY).next();
    const token = value as Token;
    const logits = (await model.logits(prompt)).subarray(-model.info.vocab);
    expect(logits[token.id]).toBe(token.logit);
    const total = logits.reduce((sum, x) => sum + Math.exp(x - token.logit), 0);
    // The logits that a screened head leaves out are off by up to some thousandths.
    expect(token.probability * total).toBeGreaterThan(0.99);
    expect(token.probability * total).toBeLessThan(1.01);
  });
});

describe('screened head', () => {
  it.each([
    ['tiny, ReLU^2', tiny],
    ['tiny, SiLU', new URL('./golden/models/tiny-bitnet-i2_s.gguf', import.meta.url)],
    ['demo', demoModel],
  ])('gives the tokens of the exact one: %s', async (_name, file) => {
    const settings = [
      { temperature: 0 },
      { seed: 5 },
      { seed: 6, topK: 3, repeatPenalty: 1.5, frequencyPenalty: 0.3, logitBias: { 5: 2, 9: Number.NEGATIVE_INFINITY } },
      { seed: 7, topK: 0, topP: 0.9 },
      { seed: 8, topK: 5000, temperature: 2 },
    ];
    const answers: unknown[] = [];
    for (const head of ['auto', 'exact'] as const) {
      const model = await loadModel(file, { threads: 1, head });
      const one = settings.map((options) =>
        model.complete('Once upon', { ...options, maxTokens: 60, ignoreEos: true }),
      );
      const all = await Promise.all(one);
      answers.push(all.map(({ tokens }) => tokens));
      if (head === 'exact') {
        const prompt = await model.tokenize('Once upon a time');
        const { value } = await model.generate(prompt, GREEDY).next();
        const token = value as Token;
        const logits = (await model.logits(prompt)).subarray(-model.info.vocab);
        expect(logits[token.id]).toBe(token.logit);
        expect(token.probability).toBeCloseTo(1 / logits.reduce((sum, x) => sum + Math.exp(x - token.logit), 0), 5);
      }
      await model.dispose();
    }
    expect(answers[0]).toEqual(answers[1]);
  });

  it('refuses a head that is none', async () => {
    await expect(loadModel(tiny, { head: 'half' as 'auto' })).rejects.toThrow(
      "head: got 'half', expected auto or exact",
    );
  });
});

describe('sources', () => {
  const bytes = readFileSync(tiny);

  it.each([
    ['a path', () => tiny.pathname],
    ['bytes', () => new Uint8Array(bytes)],
    ['an ArrayBuffer', () => new Uint8Array(bytes).buffer],
    ['a Blob', () => new Blob([new Uint8Array(bytes)])],
  ])('loads from %s', async (_name, input) => {
    const progress: number[] = [];
    const model = await loadModel(input(), {
      threads: 1,
      onProgress: (p) => progress.push(p.loadedBytes / p.totalBytes),
    });
    expect(progress.at(-1)).toBe(1);
    expect(progress.every((share, i) => i === 0 || share >= progress[i - 1])).toBe(true);
    const { tokens } = await model.complete([509, 1, 5], { temperature: 0, maxTokens: 3 });
    expect(tokens).toEqual(expected);
    await model.dispose();
  });

  let expected: readonly number[];
  beforeAll(async () => {
    const model = await loadModel(tiny, { threads: 1 });
    expected = (await model.complete([509, 1, 5], { temperature: 0, maxTokens: 3 })).tokens;
    await model.dispose();
  });

  it('stops loading when aborted, with the reason', async () => {
    const abort = new AbortController();
    const reason = new Error('no more');
    const loading = loadModel(tiny, { threads: 1, signal: abort.signal, onProgress: () => abort.abort(reason) });
    await expect(loading).rejects.toBe(reason);
  });
});

describe('broken files', () => {
  const bytes = new Uint8Array(readFileSync(tiny));
  /** Loads or throws a GgufError; anything else fails the test. */
  async function survives(file: Uint8Array, what: string): Promise<void> {
    try {
      const model = await loadModel(file, { threads: 1 });
      await model.dispose();
    } catch (error) {
      if (!(error instanceof GgufError)) throw new Error(`${what}: ${(error as Error).stack}`);
      expect(error.message.length, what).toBeGreaterThan(10);
    }
  }

  it('truncated anywhere', async () => {
    for (let i = 0; i < 120; i++) {
      const length = Math.floor((bytes.length * i) / 120);
      await survives(bytes.subarray(0, length), `first ${length} bytes`);
    }
    await expect(loadModel(bytes.subarray(0, bytes.length - 1), { threads: 1 })).rejects.toThrow(GgufError);
  });

  it('with a flipped byte in the header', async () => {
    for (let i = 0; i < 150; i++) {
      const at = (i * 97) % 14_000;
      const broken = bytes.slice();
      broken[at] ^= 1 << (i % 8);
      await survives(broken, `byte ${at}`);
    }
  });

  it('with a code 3 or a broken scale names tensor and byte', async () => {
    const { readHeader } = await import('../dist/gguf/header.js');
    const { openSource } = await import('../dist/gguf/source.js');
    const header = await readHeader(await openSource(bytes));
    const info = header.tensors.get('blk.2.ffn_up.weight');
    if (info === undefined) throw new Error('no such tensor');
    const code = bytes.slice();
    code[info.at + 77] = 0xff;
    await expect(loadModel(code, { threads: 1 })).rejects.toThrow("tensor 'blk.2.ffn_up.weight'");
    await expect(loadModel(code, { threads: 1 })).rejects.toMatchObject({ offset: info.at + 77 });
    const scale = bytes.slice();
    new DataView(scale.buffer).setFloat32(info.at + info.bytes - 32, Number.NaN, true);
    await expect(loadModel(scale, { threads: 1 })).rejects.toThrow("tensor 'blk.2.ffn_up.weight'");
  });
});

it.each(['auto', 'none'] as const)('a TQ1_0 byte that encodes no trits is told, repack %s', async (repack) => {
  const file = readFileSync(new URL('golden/models/tiny-bitnet-tq1_0.gguf', import.meta.url));
  const { readHeader } = await import('../dist/gguf/header.js');
  const { openSource } = await import('../dist/gguf/source.js');
  const info = (await readHeader(await openSource(file))).tensors.get('blk.2.ffn_up.weight');
  if (info === undefined) throw new Error('no such tensor');
  const odd = Uint8Array.from(file);
  odd[info.at + 54 * 7 + 3] = 217;
  await using good = await loadModel(file, { threads: 1, repack });
  expect(good.info.warnings).toEqual([]);
  await using model = await loadModel(odd, { threads: 1, repack });
  expect(model.info.warnings).toEqual([
    expect.stringContaining(
      `tensor 'blk.2.ffn_up.weight': byte ${info.at + 54 * 7 + 3}: 217 encodes no five trits (TQ1_0), read as llama.cpp`,
    ),
  ]);
});

it('a TQ2_0 scale below 0 is told', async () => {
  const file = readFileSync(new URL('golden/models/tiny-bitnet-tq2_0.gguf', import.meta.url));
  const { readHeader } = await import('../dist/gguf/header.js');
  const { openSource } = await import('../dist/gguf/source.js');
  const info = (await readHeader(await openSource(file))).tensors.get('blk.3.attn_k.weight');
  if (info === undefined) throw new Error('no such tensor');
  const negative = Uint8Array.from(file);
  const at = info.at + 66 * 5 + 64;
  negative[at + 1] |= 0x80;
  await using model = await loadModel(negative, { threads: 1 });
  expect(model.info.warnings).toEqual([
    expect.stringContaining(`tensor 'blk.3.attn_k.weight': byte ${at}: a scale below 0 (TQ2_0)`),
  ]);
});

describe('weights in tiles', () => {
  const tl2 = readFileSync(new URL('golden/models/tiny-bitnet-b1.58-tl2.gguf', import.meta.url));
  const name = 'blk.2.ffn_up.weight';

  it.each([
    { tier: 'simd', repack: 'auto' },
    { tier: 'simd', repack: 'none' },
    { tier: 'relaxed', repack: 'auto' },
  ] as const)('that code nothing are told with tensor and byte, $tier, repack $repack', async (options) => {
    const { readHeader } = await import('../dist/gguf/header.js');
    const { openSource } = await import('../dist/gguf/source.js');
    const info = (await readHeader(await openSource(tl2))).tensors.get(name);
    if (info === undefined) throw new Error('no such tensor');
    const broken = Uint8Array.from(tl2);
    broken[info.at + 77] = 0x2f;
    const loaded = loadModel(broken, { threads: 1, ...options });
    await expect(loaded).rejects.toMatchObject({ name: 'GgufError', offset: info.at + 77 });
    await expect(loaded).rejects.toThrow(
      `tensor '${name}': a byte that codes no weights: the tile parameters do not fit the file, or its data is broken ` +
        '(TL2, M 512, K 256, BM 256, BK 96, bm 32)',
    );
    const scale = Uint8Array.from(tl2);
    new DataView(scale.buffer).setFloat32(info.at + info.bytes - 32, -1, true);
    await expect(loadModel(scale, { threads: 1, ...options })).rejects.toMatchObject({
      message: expect.stringContaining(`tensor '${name}': scale -1, expected a finite number above 0 (TL2)`),
      offset: info.at + info.bytes - 32,
    });
  });

  it('with the tiles of an option, and with none that fit', async () => {
    const tables = { '512x256': { rows: 256, cols: 96, sub: 32 } };
    await expect(loadModel(tl2, { threads: 1, layout: 'Llama3-8B' })).rejects.toThrow(
      "preset 'Llama3-8B' has no TL2 256x256",
    );
    await expect(loadModel(tl2, { threads: 1, layout: tables })).rejects.toThrow('no tile parameters for 256x256');
    await using model = await loadModel(tl2, { threads: 1, layout: 'tiny' });
    expect(model.info.weights).toMatchObject({ file: 'TL2', tiles: 'option' });
    // Other rows first: it loads, and is another model.
    await using wrong = await loadModel(tl2, { threads: 1, layout: { rows: 32, cols: 96, sub: 32 } });
    expect(await wrong.logits([1, 2])).not.toEqual(await model.logits([1, 2]));
  });

  it('refuses an unknown way to repack', async () => {
    const options = { repack: 'all' } as unknown as { repack: 'none' };
    await expect(loadModel(tl2, options)).rejects.toThrow("repack: got 'all', expected auto or none");
  });
});

describe('dispose', () => {
  it('leaves no worker and no handle, ends what runs, and can be called twice', async () => {
    const resources = () =>
      process.getActiveResourcesInfo().filter((name) => /Worker|MessagePort|FSReq/.test(name)).length;
    const before = resources();
    const model = await loadModel(tiny, { threads: 2 });
    const running = collect(model.generate('Once upon a time', { maxTokens: 200 }));
    const ended = expect(running).rejects.toThrow('the model was disposed');
    const evaluated = expect(model.logits(new Array(200).fill(1), { batch: 1 })).rejects.toThrow('disposed');
    await new Promise((resolve) => setTimeout(resolve, 20));
    await Promise.all([model.dispose(), model.dispose()]);
    await ended;
    await evaluated;
    expect(resources()).toBe(before);
    expect(() => model.generate('x')).toThrow('the model was disposed');
  });
});
