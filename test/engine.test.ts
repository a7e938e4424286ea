import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { demoModel, type GenerateOptions, type LoadModelOptions, loadModel, type Model } from '../dist/index.js';
import './dot_add.js';
import { type Log, type Repeating, repeating } from './repeating.js';

// The engine over a backend that draws several tokens at a start, against the same engine over one that does not.

const PROMPTS = ['Once upon a time', 'The king said to his daughter that', 'A', 'In the forest '.repeat(12), 'And'];
/** Of the demo model. */
const EOS = 0;
const LONG: GenerateOptions = { maxTokens: 90, temperature: 0, ignoreEos: true };

async function open(how: Repeating = {}, options: LoadModelOptions = {}): Promise<{ model: Model; log: Log }> {
  const { backend, log } = repeating(await wasmBackend({ threads: 1 }), how);
  return { model: await loadModel(demoModel, { backend, ...options }), log };
}

let plain: Model;
beforeAll(async () => {
  plain = await loadModel(demoModel, { threads: 1 });
});
afterAll(() => plain.dispose());

const idsOf = async (model: Model, prompt: string, options: GenerateOptions) =>
  (await model.complete(prompt, options)).tokens;

describe('a backend that repeats', () => {
  it('draws many tokens at a start, two starts under way, and the same ones', async () => {
    const { model, log } = await open();
    expect(await idsOf(model, PROMPTS[0], LONG)).toEqual(await idsOf(plain, PROMPTS[0], LONG));
    expect(log.mostUnderWay).toBe(2);
    expect(log.repeats.slice(0, 3)).toEqual([1, 1, 1]); // the prompt, and the first two
    expect(Math.max(...log.repeats)).toBeGreaterThan(1);
    expect(log.repeats.every((n) => n <= 16)).toBe(true);
    // Each token after the first once: no start is made whose tokens nobody can take.
    expect(log.repeats.reduce((sum, n) => sum + n, 0)).toBe(90);
    await model.dispose();
    expect(log.disposed).toBe(1);
  });

  it.each([2, 3, 16, 64])('draws the same with up to %i, with every sampler', async (maxRepeats) => {
    const { model, log } = await open({ maxRepeats });
    const settings: GenerateOptions[] = [
      { seed: 5 },
      { seed: 6, topK: 3, repeatPenalty: 1.5, frequencyPenalty: 0.3, logitBias: { 5: 2, 9: Number.NEGATIVE_INFINITY } },
      { seed: 7, repeatPenalty: 1.2, repeatLastN: -1, temperature: 2 },
    ];
    for (const setting of settings) {
      const options = { ...setting, maxTokens: 70 };
      expect(await idsOf(model, PROMPTS[1], options)).toEqual(await idsOf(plain, PROMPTS[1], options));
    }
    expect(Math.max(...log.repeats)).toBeGreaterThan(1);
    expect(Math.max(...log.repeats)).toBeLessThanOrEqual(maxRepeats);
    await model.dispose();
  });

  it('serves several sequences that end at different times', async () => {
    const { model, log } = await open({}, { parallel: 3 });
    const options = (i: number) => ({ seed: i, maxTokens: 20 + 17 * i, ignoreEos: i % 2 === 0 });
    const all = await Promise.all(PROMPTS.map((prompt, i) => idsOf(model, prompt, options(i))));
    for (const [i, prompt] of PROMPTS.entries()) expect(all[i]).toEqual(await idsOf(plain, prompt, options(i)));
    expect(log.mostUnderWay).toBe(2);
    await model.dispose();
  });

  it('drops what is drawn behind the end of the text', async () => {
    const { model, log } = await open();
    let ended = 0;
    for (let seed = 0; seed < 6; seed++) {
      // This model seldom ends a tale by itself.
      const options = { seed, maxTokens: 250, temperature: 1.5, topK: 0, topP: 1, minP: 0, logitBias: { [EOS]: 5 } };
      const [one, other] = [await model.complete('The king', options), await plain.complete('The king', options)];
      expect([one.tokens, one.text, one.finishReason]).toEqual([other.tokens, other.text, other.finishReason]);
      if (one.finishReason === 'stop') ended++;
    }
    const { text } = await plain.complete('Once upon a time', LONG);
    const stop = text.slice(61, 66);
    const stopped = await model.complete('Once upon a time', { ...LONG, stop });
    expect([stopped.text, stopped.finishReason]).toEqual([text.slice(0, text.indexOf(stop)), 'stop']);
    expect(ended).toBeGreaterThan(0);
    expect(Math.max(...log.repeats)).toBeGreaterThan(1);
    await model.dispose();
  });

  it('ends at the end of the context and writes no position behind it', async () => {
    const { model, log } = await open({}, { contextSize: 75, parallel: 1 });
    const short = await loadModel(demoModel, { threads: 1, contextSize: 75 });
    const options = { temperature: 0, ignoreEos: true };
    for (const prompt of [PROMPTS[0], 'In the forest ']) {
      const { tokens, finishReason } = await model.complete(prompt, options);
      expect(tokens).toEqual(await idsOf(short, prompt, options));
      expect([(await model.tokenize(prompt)).length + tokens.length, finishReason]).toEqual([76, 'length']);
    }
    expect(Math.max(...log.repeats)).toBeGreaterThan(1);
    await model.dispose();
    await short.dispose();
  });

  it('frees the place of an aborted sequence, and others go on as if it had not been', async () => {
    const abort = new AbortController();
    const reason = new Error('enough');
    const { model } = await open({ onStart: (n) => n === 9 && abort.abort(reason) }, { parallel: 2 });
    const gone = model.complete(PROMPTS[1], { ...LONG, maxTokens: 300, signal: abort.signal });
    const [aborted, ...others] = await Promise.allSettled([
      gone,
      ...[0, 2, 3].map((i) => idsOf(model, PROMPTS[i], LONG)),
    ]);
    expect(aborted).toEqual({ status: 'rejected', reason });
    for (const [n, i] of [0, 2, 3].entries()) {
      expect(others[n]).toEqual({ status: 'fulfilled', value: await idsOf(plain, PROMPTS[i], LONG) });
    }
    await model.dispose();
  });

  it('stops soon where its reader leaves', async () => {
    const { model, log } = await open();
    let seen = 0;
    for await (const _ of model.generate(PROMPTS[0], { ...LONG, maxTokens: 400 })) if (++seen === 20) break;
    const drawn = () => log.repeats.reduce((sum, n) => sum + n, 0);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(drawn()).toBeLessThanOrEqual(20 + 3 * 16);
    expect(await idsOf(model, 'A', LONG)).toEqual(await idsOf(plain, 'A', LONG));
    await model.dispose();
  });

  it('takes in a request that comes in mid-burst', async () => {
    let at = 0;
    let doneAt = 0;
    let firstAt = 0;
    let coming: Promise<readonly number[]> | undefined;
    const { model, log } = await open({
      onStart(n) {
        if (n !== 10) return;
        const onToken = () => {
          if (firstAt === 0) firstAt = log.repeats.length;
        };
        coming = model.complete(PROMPTS[3], { ...LONG, onToken }).then(({ tokens }) => {
          doneAt = at;
          return tokens;
        });
      },
    });
    const first = model.complete(PROMPTS[0], { ...LONG, maxTokens: 400, onToken: () => at++ });
    expect(await idsOf(model, PROMPTS[1], { ...LONG, maxTokens: 200 })).toEqual(
      await idsOf(plain, PROMPTS[1], { ...LONG, maxTokens: 200 }),
    );
    expect(await coming).toEqual(await idsOf(plain, PROMPTS[3], LONG));
    // It came while the first was writing, and was done before it.
    // Its first token comes with start 11, when all that was under way was done; then a second may have begun, or two.
    expect(firstAt).toBeGreaterThan(10);
    expect(firstAt).toBeLessThan(14);
    expect(doneAt).toBeGreaterThan(0);
    expect(doneAt).toBeLessThan(400);
    expect((await first).tokens).toEqual(await idsOf(plain, PROMPTS[0], { ...LONG, maxTokens: 400 }));
    expect(log.mostUnderWay).toBe(2);
    await model.dispose();
  });

  it('computes nothing twice where a batch is put together anew', async () => {
    const { model, log } = await open({
      onStart(n) {
        if (n !== 12) return;
        const abort = new AbortController();
        model.complete('A', { signal: abort.signal }).catch(() => {});
        abort.abort(); // it came and left
      },
    });
    const options = { ...LONG, maxTokens: 250 };
    expect(await idsOf(model, PROMPTS[0], options)).toEqual(await idsOf(plain, PROMPTS[0], options));
    // A sequence that is behind its cache goes on with one token, as a prompt does.
    const [before, ...after] = log.repeats.slice(11, 15);
    expect(Math.min(...after)).toBeGreaterThanOrEqual(before / 4);
    expect(before).toBeGreaterThan(1);
    await model.dispose();
  });

  it('keeps going for a reader that takes each token as it comes, and waits for one that does not', async () => {
    const { model, log } = await open({}, { parallel: 1 });
    const options = { ...LONG, maxTokens: 300 };
    const whole = await idsOf(plain, PROMPTS[0], options);
    const ids: number[] = [];
    for await (const { id } of model.generate(PROMPTS[0], options)) ids.push(id);
    expect(ids).toEqual(whole);
    // Few starts: the first ones draw a token each, later ones 16, and 2 on a machine that is slow or has much to do.
    expect(log.repeats.length).toBeLessThan(160);

    const slow = model.generate(PROMPTS[0], options);
    const seen = [(await slow.next()).value as { id: number }];
    const before = log.repeats.reduce((sum, n) => sum + n, 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    // What is unread, and what two starts bring.
    expect(log.repeats.reduce((sum, n) => sum + n, 0) - before).toBeLessThan(8 + 32 + 32 + 1);
    // Its place goes to another; then it is computed again.
    expect(await idsOf(model, 'A', LONG)).toEqual(await idsOf(plain, 'A', LONG));
    let next = await slow.next();
    for (; !next.done; next = await slow.next()) {
      seen.push(next.value);
      if (seen.length % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(seen.map(({ id }) => id)).toEqual(whole);
    await model.dispose();
  });

  it('is disposed of in mid-burst', async () => {
    let dispose: Promise<void> | undefined;
    const { model, log } = await open({
      onStart(n) {
        if (n === 8) dispose = model.dispose();
      },
    });
    await expect(idsOf(model, PROMPTS[0], { ...LONG, maxTokens: 400 })).rejects.toThrow('the model was disposed');
    await dispose;
    expect([log.disposed, log.repeats.length <= 9]).toEqual([1, true]);
  });
});
