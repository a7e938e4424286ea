import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { demoModel, estimate, type GenerateOptions, loadModel, type Model } from '../../../dist/index.js';
import { openDevice } from '../dist/device.js';
import { webgpu } from '../dist/index.js';

// Whole models against the CPU: the same bits up to the head, whose float sums are added up in another order; so the same
// tokens, drawn ones too, however rows are batched and starts are cut.

/** Of the largest logit; measured, 2.2e-7 at most (demo model, lavapipe, November 2026). */
const CLOSE = 1e-6;

const greedy: GenerateOptions = { temperature: 0, ignoreEos: true };
const drawn: GenerateOptions = { seed: 7, ignoreEos: true };
const penalised: GenerateOptions = {
  ...{ seed: 11, ignoreEos: true, temperature: 1.2, topK: 0, topP: 0.9, logitBias: { 5: 2, 9: -4 } },
  ...{ repeatPenalty: 1.2, repeatLastN: 32, frequencyPenalty: 0.1, presencePenalty: 0.1 },
};
const WAYS: Readonly<Record<string, GenerateOptions>> = { greedy, drawn, 'with penalties and bias': penalised };
/** Tokens: of greedy texts, and of those that are drawn, whose every token says more. */
const LENGTH = { greedy: 200, drawn: 60 };
const PROMPTS = ['Once upon a time', 'A', 'The king said to his daughter that', 'In the forest '.repeat(12), 'And'];

const golden = (name: string) => new URL(`../../../test/golden/models/tiny-${name}.gguf`, import.meta.url);
const MODELS: Readonly<Record<string, string | URL>> = {
  demo: demoModel,
  'tiny bitnet-b1.58, I2_S': golden('bitnet-b1.58-i2_s'),
  'tiny bitnet-b1.58, TL2': golden('bitnet-b1.58-tl2'),
  'tiny bitnet, I2_S': golden('bitnet-i2_s'),
  'tiny bitnet, TQ1_0': golden('bitnet-tq1_0'),
  'tiny bitnet, TQ2_0': golden('bitnet-tq2_0'),
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

describe.each(Object.entries(MODELS))('%s', (_name, file) => {
  let cpu: Model;
  let gpu: Model;
  beforeAll(async () => {
    cpu = await loadModel(file, { threads: 1 });
    gpu = await loadModel(file, { backend: () => webgpu({ device, selfTest: false }) });
    expect(gpu.info.backend).toMatch(/^webgpu /);
  });
  afterAll(() => Promise.all([cpu?.dispose(), gpu?.dispose()]));

  it.each(Object.entries(WAYS))('writes what the CPU writes: %s', async (_way, way) => {
    const maxTokens = way === greedy ? LENGTH.greedy : LENGTH.drawn;
    const options = { ...way, maxTokens };
    const expected = await cpu.complete(PROMPTS[0], options);
    expect(expected.tokens.length).toBe(maxTokens);
    expect((await gpu.complete(PROMPTS[0], options)).tokens).toEqual(expected.tokens);
  });

  it('takes the memory that was estimated', async () => {
    const backend = await webgpu({ device, selfTest: false });
    const { totalBytes, fits } = await estimate(file, { backend });
    await backend.dispose();
    expect(fits).toBe('yes');
    // Buffers are allocated in pieces of 16 bytes, not 64.
    expect(totalBytes).toBeGreaterThanOrEqual(gpu.info.memoryBytes);
    expect(totalBytes).toBeLessThan(1.001 * gpu.info.memoryBytes);
  });

  it('has its logits', async () => {
    const tokens = await gpu.tokenize(PROMPTS[3]);
    expect(furthest(await cpu.logits(tokens), await gpu.logits(tokens), gpu.info.vocab)).toBeLessThan(CLOSE);
  });

  it('writes the same in company', async () => {
    const ways = Object.values(WAYS);
    const all = (model: Model) =>
      PROMPTS.map((prompt, i) => model.complete(prompt, { ...ways[i % 3], maxTokens: 20 + 3 * i }));
    const expected = (await Promise.all(all(cpu))).map(({ tokens }) => tokens);
    expect((await Promise.all(all(gpu))).map(({ tokens }) => tokens)).toEqual(expected);
  });
});

describe.each([1, 3, 16])('starts of at most %i tokens', (maxRepeats) => {
  it('give the same tokens', async () => {
    const cpu = await loadModel(demoModel, { threads: 1 });
    const gpu = await loadModel(demoModel, { backend: () => webgpu({ device, selfTest: false, maxRepeats }) });
    for (const way of [greedy, penalised]) {
      const options = { ...way, maxTokens: 40 };
      const { tokens } = await cpu.complete(PROMPTS[0], options);
      expect((await gpu.complete(PROMPTS[0], options)).tokens).toEqual(tokens);
    }
    await cpu.dispose();
    await gpu.dispose();
  });
});
