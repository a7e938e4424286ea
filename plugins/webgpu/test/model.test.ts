import { afterAll, describe, expect, it } from 'vitest';
import { demoModel, type GenerateOptions, loadModel, type Model } from '../../../dist/index.js';
import { webgpu } from '../dist/index.js';

// Whole models: the same tokens as on the CPU. Each is loaded once with every way to start it.

const GREEDY: GenerateOptions = { temperature: 0, maxTokens: 200, ignoreEos: true };
const DRAWN: GenerateOptions = { seed: 7, maxTokens: 200, ignoreEos: true };
const PENALISED: GenerateOptions = {
  ...{ seed: 11, maxTokens: 200, ignoreEos: true, temperature: 1.2, topK: 0, topP: 0.9, logitBias: { 5: 2, 9: -4 } },
  ...{ repeatPenalty: 1.2, repeatLastN: 32, frequencyPenalty: 0.1, presencePenalty: 0.1 },
};
const WAYS = { greedy: GREEDY, drawn: DRAWN, 'drawn with penalties and bias': PENALISED };
const PROMPTS = ['Once upon a time', 'A', 'The king said to his daughter that', 'In the forest '.repeat(12), 'And'];

const golden = (name: string) => new URL(`../../../test/golden/models/tiny-${name}.gguf`, import.meta.url);
const MODELS: Readonly<Record<string, [file: string | URL, tokens: number]>> = {
  demo: [demoModel, 200],
  'bitnet-b1.58, I2_S': [golden('bitnet-b1.58-i2_s'), 40],
  'bitnet-b1.58, TL2': [golden('bitnet-b1.58-tl2'), 40],
  'bitnet, I2_S': [golden('bitnet-i2_s'), 40],
  'bitnet, TQ1_0': [golden('bitnet-tq1_0'), 40],
  'bitnet, TQ2_0': [golden('bitnet-tq2_0'), 40],
};

describe.each(Object.entries(MODELS))('%s', (_name, [file, maxTokens]) => {
  let cpu: Model | undefined;
  let one: Model | undefined;
  let many: Model | undefined;
  const open = async () => {
    cpu ??= await loadModel(file, { threads: 1 });
    one ??= await loadModel(file, { backend: await webgpu({ selfTest: false, maxRepeats: 1 }) });
    many ??= await loadModel(file, { backend: () => webgpu() });
    return { cpu, gpus: { 'a token a start': one, 'up to 16 tokens a start': many } };
  };
  afterAll(() => Promise.all([cpu, one, many].map((model) => model?.dispose())));

  it.each(Object.entries(WAYS))('writes what the CPU writes: %s', async (_way, options) => {
    const { cpu, gpus } = await open();
    const expected = await cpu.complete(PROMPTS[0], { ...options, maxTokens });
    expect(expected.tokens.length).toBe(maxTokens);
    for (const [how, gpu] of Object.entries(gpus)) {
      expect(gpu.info.backend).toMatch(/^webgpu /);
      expect((await gpu.complete(PROMPTS[0], { ...options, maxTokens })).tokens, how).toEqual(expected.tokens);
    }
  });

  it('writes the same in company', async () => {
    const { cpu, gpus } = await open();
    const ways = Object.values(WAYS);
    const options = (i: number) => ({ ...ways[i % 3], seed: i, maxTokens: maxTokens / 4 + 3 * i });
    const all = (model: Model) => Promise.all(PROMPTS.map((prompt, i) => model.complete(prompt, options(i))));
    const expected = (await all(cpu)).map(({ tokens }) => tokens);
    for (const [how, gpu] of Object.entries(gpus)) {
      expect(
        (await all(gpu)).map(({ tokens }) => tokens),
        how,
      ).toEqual(expected);
    }
  });
});
