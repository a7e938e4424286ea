import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { demoModel, type GenerateOptions, loadModel, type Model } from '../../../dist/index.js';
import { openDevice } from '../dist/device.js';
import { webgpu } from '../dist/index.js';

// Whole models against the CPU: the same bits up to the head, whose float sums are added up in another order; so the same
// tokens, drawn ones too, however rows are batched and starts are cut.

/** Of the largest logit; measured, 2.2e-7 at most (demo model, lavapipe, November 2026). */
const CLOSE = 1e-6;

const GREEDY: GenerateOptions = { temperature: 0, ignoreEos: true };
/** Tokens that end a text, of the demo model and of the others. */
const NO_END = Object.fromEntries([0, 509, 510, 511].map((id) => [id, Number.NEGATIVE_INFINITY]));
const WAYS: Readonly<Record<string, GenerateOptions>> = {
  greedy: GREEDY,
  drawn: { seed: 7, logitBias: NO_END },
  'drawn with penalties and bias': {
    ...{ seed: 11, temperature: 1.2, topK: 0, topP: 0.9, logitBias: { ...NO_END, 5: 2, 9: -4 } },
    ...{ repeatPenalty: 1.2, repeatLastN: 32, frequencyPenalty: 0.1, presencePenalty: 0.1 },
  },
};
const PROMPTS = ['Once upon a time', 'A', 'The king said to his daughter that', 'In the forest '.repeat(12), 'And'];

const golden = (name: string) => new URL(`../../../test/golden/models/tiny-${name}.gguf`, import.meta.url);
const MODELS: Readonly<Record<string, [file: string | URL, tokens: number]>> = {
  demo: [demoModel, 200],
  'tiny bitnet-b1.58, I2_S': [golden('bitnet-b1.58-i2_s'), 200],
  'tiny bitnet-b1.58, TL2': [golden('bitnet-b1.58-tl2'), 200],
  'tiny bitnet, I2_S': [golden('bitnet-i2_s'), 200],
  'tiny bitnet, TQ1_0': [golden('bitnet-tq1_0'), 200],
  'tiny bitnet, TQ2_0': [golden('bitnet-tq2_0'), 200],
};

let device: GPUDevice;
beforeAll(async () => {
  ({ device } = await openDevice({}));
});
afterAll(() => device.destroy());

/** The largest difference between rows of [rows][vocab], of the largest number of the row. */
function furthest(expected: Float32Array, actual: Float32Array, vocab: number): number {
  let most = 0;
  for (let row = 0; row < expected.length; row += vocab) {
    let [largest, difference] = [0, 0];
    for (let i = row; i < row + vocab; i++) {
      largest = Math.max(largest, Math.abs(expected[i]));
      difference = Math.max(difference, Math.abs(expected[i] - actual[i]));
    }
    most = Math.max(most, difference / largest);
  }
  return most;
}

describe.each(Object.entries(MODELS))('%s', (_name, [file, maxTokens]) => {
  let cpu: Model;
  let gpu: Model;
  beforeAll(async () => {
    cpu = await loadModel(file, { threads: 1 });
    gpu = await loadModel(file, { backend: () => webgpu({ device, selfTest: false }) });
    expect(gpu.info.backend).toMatch(/^webgpu /);
  });
  afterAll(() => Promise.all([cpu?.dispose(), gpu?.dispose()]));

  it.each(Object.entries(WAYS))('writes what the CPU writes: %s', async (_way, way) => {
    const options = { ...way, maxTokens };
    const expected = await cpu.complete(PROMPTS[0], options);
    expect(expected.tokens.length).toBe(maxTokens);
    expect((await gpu.complete(PROMPTS[0], options)).tokens).toEqual(expected.tokens);
  });

  it('has its logits', async () => {
    const tokens = gpu.tokenize(PROMPTS[3]);
    expect(furthest(await cpu.logits(tokens), await gpu.logits(tokens), gpu.info.vocab)).toBeLessThan(CLOSE);
  });

  it('writes the same in company', async () => {
    const ways = Object.values(WAYS);
    const options = (i: number) => ({ ...ways[i % 3], maxTokens: maxTokens / 4 + 3 * i });
    const alone: (readonly number[])[] = [];
    for (const [i, prompt] of PROMPTS.entries()) alone.push((await gpu.complete(prompt, options(i))).tokens);
    const together = await Promise.all(PROMPTS.map((prompt, i) => gpu.complete(prompt, options(i))));
    expect(together.map(({ tokens }) => tokens)).toEqual(alone);
    const expected: (readonly number[])[] = [];
    for (const [i, prompt] of PROMPTS.entries()) expected.push((await cpu.complete(prompt, options(i))).tokens);
    expect(alone).toEqual(expected);
  });
});

describe('starts of one token, and of many', () => {
  it('give the same tokens', async () => {
    const seen: (readonly number[])[][] = [];
    for (const maxRepeats of [1, 3, 16]) {
      const model = await loadModel(demoModel, { backend: () => webgpu({ device, selfTest: false, maxRepeats }) });
      const all: (readonly number[])[] = [];
      for (const way of Object.values(WAYS)) {
        all.push((await model.complete(PROMPTS[0], { ...way, maxTokens: 60 })).tokens);
      }
      seen.push(all);
      await model.dispose();
    }
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[2]).toEqual(seen[0]);
  });
});
