import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  BackendLostError,
  demoModel,
  GgufError,
  HubError,
  type LoadModelOptions,
  loadModel,
  type Model,
  type ModelInput,
  type Token,
} from '../dist/index.js';
import { type Connection, type Events, remoteModel } from '../dist/remote/client.js';
import { type Answer, errorOf, type Method, plainError, type Question } from '../dist/remote/protocol.js';
import { type Port, serve } from '../dist/remote/server.js';
import './dot_add.js';

// A model behind messages against the same model here. The engine is the real one; between the two lies a MessageChannel, or a
// thread of Node where one has to die.

const GREEDY = { temperature: 0, maxTokens: 30, seed: 1 };
const TEXT = 'Once upon a time there was a king who had a daughter, and she was so beautiful that the sun wondered. ';

function overChannel({ onAnswer }: Events): Connection {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }: MessageEvent<Answer>) => onAnswer(data);
  serve(port2 as Port);
  return { post: (question, memory) => port1.postMessage(question, memory), end: () => port1.close() };
}

const remote = (input: ModelInput, options: LoadModelOptions = {}) =>
  remoteModel(overChannel, input, { threads: 1, ...options });

async function read(tokens: AsyncIterable<Token>): Promise<Token[]> {
  const all: Token[] = [];
  for await (const token of tokens) all.push(token);
  return all;
}

/** What a promise fails with. */
const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => Promise.reject(new Error(`got ${String(value)}, expected a failure`)),
    (error: unknown) => error,
  );

let here: Model;
let there: Model;
beforeAll(async () => {
  here = await loadModel(demoModel, { threads: 1 });
  there = await remote(demoModel);
});
afterAll(async () => {
  await here.dispose();
  await there.dispose();
});

describe('a model in a worker', () => {
  it('says the same of itself', () => {
    expect(there.info).toEqual(here.info);
    expect(there.info).toBe(there.info);
  });

  it('says what has changed, as when the CPU takes over from a GPU', async () => {
    const infos = [there.info, { ...there.info, backend: 'another' }];
    const model = await remoteModel(
      ({ onAnswer }) => ({
        post: ({ id }) =>
          queueMicrotask(() => onAnswer({ kind: 'done', id, value: undefined, info: id < 2 ? infos[id] : undefined })),
        end() {},
      }),
      demoModel,
      {},
    );
    expect(model.info).toBe(infos[0]);
    for (let i = 0; i < 2; i++) {
      await model.tokenize('a');
      expect(model.info).toBe(infos[1]);
    }
  });

  it('writes the same, token by token, and returns the same', async () => {
    const expected = await read(here.generate(TEXT, GREEDY));
    expect(expected.length).toBe(30);
    expect(await read(there.generate(TEXT, GREEDY))).toEqual(expected);
    const told: Token[] = [];
    const { timings, ...completion } = await there.complete(TEXT, { ...GREEDY, onToken: (token) => told.push(token) });
    const { timings: _, ...same } = await here.complete(TEXT, GREEDY);
    expect(told).toEqual(expected);
    expect(completion).toEqual(same);
    expect(timings.generatedTokens).toBe(30);
    const { timings: __, ...silent } = await there.complete(TEXT, GREEDY);
    expect(silent).toEqual(same);
  });

  it('takes chats, tokens and every option', async () => {
    const options = { seed: 5, maxTokens: 12, stop: ['.', ','], logitBias: new Map([[7, -3]]), repeatPenalty: 1.3 };
    const ids = Int32Array.from(await here.tokenize(TEXT));
    for (const prompt of [TEXT, [{ role: 'user', content: 'Tell me a tale.' }] as const, ids]) {
      expect((await there.complete(prompt, options)).text).toBe((await here.complete(prompt, options)).text);
    }
    expect(ids.length).toBeGreaterThan(0); // not handed over
  });

  it('gives what else a model gives', async () => {
    const ids = await here.tokenize(TEXT, { addSpecial: false });
    expect(await there.tokenize(TEXT, { addSpecial: false })).toEqual(ids);
    expect(await there.detokenize(ids)).toBe(await here.detokenize(ids));
    expect(await there.logits(ids, { batch: 4 })).toEqual(await here.logits(ids, { batch: 4 }));
    expect(await there.embed(TEXT)).toEqual(await here.embed(TEXT));
    const texts = [TEXT, 'a cat', [5, 6, 7]];
    expect(await there.embed(texts, { dimensions: 8 })).toEqual(await here.embed(texts, { dimensions: 8 }));
    expect(await there.activations(TEXT)).toEqual(await here.activations(TEXT));
    const [ours, theirs]: [unknown[], unknown[]] = [[], []];
    const options = { contextSize: 8 };
    const expected = await here.perplexity(TEXT, { ...options, onProgress: (progress) => ours.push(progress) });
    const got = await there.perplexity(TEXT, { ...options, onProgress: (progress) => theirs.push(progress) });
    expect(got).toEqual(expected);
    expect(theirs).toEqual(ours);
    expect(theirs.length).toBeGreaterThan(1);
  });

  it('hands results over, which costs no copy', async () => {
    const sent: [Answer, Transferable[]][] = [];
    const port: Port = { onmessage: null, postMessage: (answer, memory) => sent.push([answer, memory]) };
    serve(port);
    const handedOver = async (method: Method, subject: unknown): Promise<number> => {
      const question: Question = {
        ...{ kind: 'ask', id: sent.length, method, subject },
        ...{ options: { threads: 1 }, progress: false },
      };
      const before = sent.length;
      port.onmessage?.({ data: question } as MessageEvent<Question>);
      while (sent.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
      expect(sent[before][0].kind).toBe('done');
      return sent[before][1].length;
    };
    expect(await handedOver('load', demoModel.href)).toBe(0);
    expect(await handedOver('logits', [1, 2, 3])).toBe(1);
    expect(await handedOver('embed', 'a cat')).toBe(1);
    expect(await handedOver('embed', ['a cat', 'a kitten'])).toBe(2);
    expect(await handedOver('activations', TEXT)).toBe(7 * here.info.layers);
    expect(await handedOver('dispose', undefined)).toBe(0);
  });
});

describe('a reader', () => {
  it('that pauses holds only itself', async () => {
    const paused = there.generate(TEXT, GREEDY);
    const first = await paused.next();
    const [other, expected] = [await read(there.generate('The king', GREEDY)), await read(here.generate(TEXT, GREEDY))];
    expect(other.length).toBe(30);
    expect([first.value, ...(await read(paused))]).toEqual(expected);
  });

  it('is asked for by the engine: what nobody reads is not computed', async () => {
    const asked: Question[] = [];
    const told: Answer[] = [];
    const model = await remoteModel(
      ({ onAnswer, onDeath }) => {
        const inner = overChannel({ onDeath, onAnswer: (answer) => [told.push(answer), onAnswer(answer)] });
        return { ...inner, post: (question, memory) => [asked.push(question), inner.post(question, memory)] };
      },
      demoModel,
      { threads: 1 },
    );
    const tokens = model.generate(TEXT, { ...GREEDY, maxTokens: 200 });
    await tokens.next();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(told.filter(({ kind }) => kind === 'token').length).toBe(8);
    // And once it has left, nobody computes for it.
    for (let i = 0; i < 6; i++) await tokens.next();
    await tokens.return({} as never);
    expect(asked.filter(({ kind }) => kind === 'end').length).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const count = told.length;
    expect(told.at(-1)?.kind).toBe('failed');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(told.length).toBe(count);
    await model.dispose();
  });

  it('leaves by break, by an error of its own, and before it began', async () => {
    // Four may run at once: leaving has to give the place back.
    for (let i = 0; i < 6; i++) {
      for await (const { id } of there.generate(TEXT, { ...GREEDY, maxTokens: 500 })) if (id >= 0) break;
      await there.generate(TEXT).return({} as never);
      const onToken = () => {
        throw new TypeError('of the reader');
      };
      for (const model of [here, there]) {
        expect(await failure(model.complete(TEXT, { ...GREEDY, onToken }))).toEqual(new TypeError('of the reader'));
      }
    }
    expect((await read(there.generate(TEXT, GREEDY))).length).toBe(30);
  });

  it("ends by its signal, with the signal's own reason", async () => {
    const reason = { why: 'enough' };
    const control = new AbortController();
    let count = 0;
    const reading = (async () => {
      for await (const _ of there.generate(TEXT, { ...GREEDY, maxTokens: 500, signal: control.signal })) {
        if (++count === 3) control.abort(reason);
      }
    })();
    expect(await failure(reading)).toBe(reason);
    expect(count).toBe(3);
    const { signal } = control;
    expect(await failure(there.generate(TEXT, { signal }).next())).toBe(reason);
    const calls = [there.complete(TEXT, { signal }), there.embed(TEXT, { signal }), there.perplexity(TEXT, { signal })];
    for (const call of calls) expect(await failure(call)).toBe(reason);
    const late = new AbortController();
    const long = there.perplexity(TEXT.repeat(60), { contextSize: 16, signal: late.signal });
    setTimeout(() => late.abort(reason), 30);
    expect(await failure(long)).toBe(reason);
    expect(await there.tokenize('a')).toEqual(await here.tokenize('a'));
  });

  it('whose signal ends a call is not computed for any more', async () => {
    const told: Answer[] = [];
    const model = await remoteModel(
      ({ onAnswer, onDeath }) => overChannel({ onDeath, onAnswer: (answer) => [told.push(answer), onAnswer(answer)] }),
      demoModel,
      { threads: 1 },
    );
    const reason = new Error('enough');
    const control = new AbortController();
    const options = { contextSize: 16, signal: control.signal, onProgress: () => control.abort(reason) };
    expect(await failure(model.perplexity(TEXT.repeat(60), options))).toBe(reason);
    while (told.at(-1)?.kind === 'progress') await new Promise((resolve) => setTimeout(resolve, 10));
    expect(told.at(-1)).toMatchObject({ kind: 'failed', error: { name: 'AbortError' } });
    await model.dispose();
  });
});

describe('loading', () => {
  it('reads bytes without taking them, and Blobs', async () => {
    const file = readFileSync(demoModel);
    const padded = new Uint8Array(file.length + 10);
    padded.set(file, 5);
    const view = padded.subarray(5, 5 + file.length);
    const expected = (await here.complete(TEXT, GREEDY)).text;
    for (const input of [view, view.slice().buffer, new Blob([view])]) {
      const model = await remote(input);
      expect((await model.complete(TEXT, GREEDY)).text).toBe(expected);
      await model.dispose();
    }
    expect(view.length).toBe(file.length);
  });

  it('tells how far it is, now and then', async () => {
    const seen: { loadedBytes: number; totalBytes?: number }[] = [];
    const model = await remote(demoModel, { onProgress: (progress) => seen.push(progress) });
    await model.dispose();
    const bytes = seen.map(({ loadedBytes }) => loadedBytes);
    expect(bytes).toEqual([...bytes].sort((a, b) => a - b));
    expect(seen.at(-1)?.loadedBytes).toBe(seen.at(-1)?.totalBytes);
  });

  it('ends with what the caller throws or aborts with, and takes the worker along', async () => {
    const ended: string[] = [];
    const connect = (events: Events): Connection => {
      const inner = overChannel(events);
      return { ...inner, end: () => [ended.push('end'), inner.end()] };
    };
    const reason = new Error('not wanted any more');
    const control = new AbortController();
    const load = (options: LoadModelOptions) => failure(remoteModel(connect, demoModel, { threads: 1, ...options }));
    expect(await load({ signal: control.signal, onProgress: () => control.abort(reason) })).toBe(reason);
    expect(ended.length).toBe(1);
    const onProgress = () => {
      throw reason;
    };
    expect(await load({ onProgress })).toBe(reason);
    expect(ended.length).toBe(2);
    expect(await load({ signal: AbortSignal.abort(reason) })).toBe(reason);
  });
});

describe('errors', () => {
  it('are of the class and say what they say here, and where it was asked', async () => {
    const broken = readFileSync(demoModel).subarray(0, 5000);
    const cases: [Promise<unknown>, Promise<unknown>][] = [
      [loadModel(broken, { threads: 1 }), remote(broken)],
      [loadModel(demoModel, { threads: 0 }), remote(demoModel, { threads: 0 })],
      [here.complete(TEXT, { topP: 7 }), there.complete(TEXT, { topP: 7 })],
      [here.complete(TEXT, { stop: '' }), there.complete(TEXT, { stop: '' })],
      [here.embed([[-1]]), there.embed([[-1]])],
      [here.perplexity(7 as never), there.perplexity(7 as never)],
    ];
    const seen = await Promise.all(
      cases.map(async ([a, b]) => {
        const [expected, got] = [(await failure(a)) as Error, (await failure(b)) as Error];
        expect([got.constructor, got.message]).toEqual([expected.constructor, expected.message]);
        expect(got.stack).toMatch(/remote\.test\.ts[\s\S]+ {2}in the worker:\n +at /);
        return got;
      }),
    );
    expect(seen.map((error) => error.constructor)).toEqual([
      ...[GgufError, RangeError, RangeError, TypeError, RangeError, TypeError],
    ]);
    expect((seen[0] as GgufError).offset).toBe(((await failure(loadModel(broken))) as GgufError).offset);
  });

  it('of all kinds come through', () => {
    const cause = new RangeError('too far');
    const all = [
      new GgufError('x.gguf: broken', 77, { cause }),
      new BackendLostError('gone'),
      new DOMException('was ended', 'AbortError'),
      new SyntaxError('template'),
      new WebAssembly.RuntimeError('unreachable'),
      new HubError('status', 'http://hub/x: HTTP 503', { status: 503, retryAfterMs: 2000 }),
      new Error('plain', { cause: 'a word' }),
    ];
    for (const error of all) {
      const got = errorOf(structuredClone(plainError(error)));
      const { name, message } = error;
      expect(got).toMatchObject({ name, message });
      expect(got.constructor).toBe(error instanceof WebAssembly.RuntimeError ? Error : error.constructor);
    }
    expect(errorOf(plainError(all[0]))).toMatchObject({ offset: 77, cause });
    expect(errorOf(plainError(all[5]))).toMatchObject({ code: 'status', status: 503, retryAfterMs: 2000 });
    expect(errorOf(plainError('a word')).message).toBe('a word');
  });

  it('name an option that cannot be copied to a worker', async () => {
    const options = { layout: (() => {}) as never };
    expect(await failure(remote(demoModel, options))).toMatchObject({
      name: 'RangeError',
      message: expect.stringMatching(/^layout: cannot be copied to the worker that runs the model/),
    });
    expect(await failure(there.complete(TEXT, { logitBias: { 7: (() => {}) as never } }))).toMatchObject({
      name: 'RangeError',
      message: expect.stringMatching(/^logitBias: cannot be copied/),
    });
    expect(await failure(there.complete([{ role: 'user', content: (() => {}) as never }]))).toMatchObject({
      message: expect.stringMatching(/^what complete was given: cannot be copied/),
    });
  });
});

describe('the end', () => {
  it('of a model ends its worker', async () => {
    let ended = 0;
    const model = await remoteModel(
      (events) => {
        const inner = overChannel(events);
        return { ...inner, end: () => [ended++, inner.end()] };
      },
      demoModel,
      { threads: 1 },
    );
    expect(ended).toBe(0);
    await model.dispose();
    expect(ended).toBe(1);
  });

  it('of a model ends what runs, as here', async () => {
    for (const open of [() => loadModel(demoModel, { threads: 1 }), () => remote(demoModel)]) {
      const model = await open();
      const tokens = model.generate(TEXT, { ...GREEDY, maxTokens: 500 });
      await tokens.next();
      const running = failure(model.perplexity(TEXT.repeat(60), { contextSize: 16 }));
      const paused = failure(read(tokens));
      await Promise.all([model.dispose(), model.dispose()]);
      for (const error of [await running, await paused]) {
        expect(error).toMatchObject({ message: 'the model was disposed' });
      }
      expect(() => model.generate(TEXT)).toThrow('the model was disposed');
      expect(await failure(model.embed(TEXT))).toMatchObject({ message: 'the model was disposed' });
      await model[Symbol.asyncDispose]();
    }
  });

  it('of a worker fails what runs and what comes', async () => {
    const server = new URL('../dist/remote/server.js', import.meta.url).href;
    const code = `import { parentPort } from 'node:worker_threads'; import { serve } from '${server}'; serve(parentPort);`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
    const model = await remoteModel(
      ({ onAnswer, onDeath }) => {
        worker.on('message', onAnswer);
        worker.on('exit', () => onDeath(new Error('the worker is gone')));
        return {
          post: (question, memory) => worker.postMessage(question, memory as []),
          end: () => worker.terminate(),
        };
      },
      demoModel,
      { threads: 1 },
    );
    const tokens = model.generate(TEXT, { ...GREEDY, maxTokens: 500 });
    await tokens.next();
    const running = [failure(read(tokens)), failure(model.perplexity(TEXT.repeat(60), { contextSize: 16 }))];
    await worker.terminate();
    for (const error of await Promise.all(running)) expect(error).toMatchObject({ message: 'the worker is gone' });
    expect(() => model.generate(TEXT)).toThrow('the worker is gone');
    expect(await failure(model.tokenize(TEXT))).toMatchObject({ message: 'the worker is gone' });
    await model.dispose();
  });
});
