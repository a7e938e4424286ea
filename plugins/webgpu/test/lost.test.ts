import { BackendLostError } from 'ternlm/backend';
import { beforeAll, describe, expect, it } from 'vitest';
import { demoModel, type GenerateOptions, loadModel, type Model } from '../../../dist/index.js';
import { openDevice } from '../dist/device.js';
import { type WebGpuBackend, webgpu } from '../dist/index.js';
import { type Counts, counting } from './counting_device.js';

// What becomes of a device's memory, and of a model whose device goes away.

const PROMPT = 'Once upon a time';
const GREEDY: GenerateOptions = { temperature: 0, maxTokens: 120, ignoreEos: true };

async function open(): Promise<{ device: GPUDevice; counts: Counts }> {
  const { device } = await openDevice({});
  return { device, counts: counting(device) };
}

let expected: readonly number[];
beforeAll(async () => {
  const cpu = await loadModel(demoModel, { threads: 1 });
  expected = (await cpu.complete(PROMPT, GREEDY)).tokens;
  await cpu.dispose();
});

/** Reads a text and loses the device after `after` of its tokens. */
async function readAndLose(model: Model, device: GPUDevice, after: number): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of model.generate(PROMPT, GREEDY)) {
    ids.push(id);
    if (ids.length === after) device.destroy();
  }
  return ids;
}

describe('a device that goes away as a text is written', () => {
  it.each([1, 2, 50])('after %i tokens: tells so where there is no fallback', async (after) => {
    const { device, counts } = await open();
    const backend = await webgpu({ device, selfTest: false });
    const model = await loadModel(demoModel, { backend });
    const reading = readAndLose(model, device, after);
    await expect(reading).rejects.toThrow(BackendLostError);
    await expect(reading).rejects.toMatchObject({ name: 'BackendLostError', message: /^webgpu: the device was lost/ });
    await expect(backend.lost).resolves.toBeInstanceOf(Error);
    await expect(model.complete('A', GREEDY)).rejects.toThrow(BackendLostError);
    await model.dispose();
    expect([counts.buffers, counts.bytes]).toEqual([0, 0]);
  });

  it.each([1, 2, 50])('after %i tokens: the CPU goes on with the same text', async (after) => {
    const { device, counts } = await open();
    const model = await loadModel(demoModel, { backend: () => webgpu({ device, selfTest: false }), fallback: true });
    expect(await readAndLose(model, device, after)).toEqual(expected);
    expect(model.info.backend).toMatch(/^wasm /);
    expect(model.info.warnings.join()).toMatch(/the CPU took over from webgpu .*lost/);
    expect([counts.buffers, counts.bytes]).toEqual([0, 0]);
    await model.dispose();
  });

  it('before it is loaded: the CPU computes', async () => {
    const { device, counts } = await open();
    const backend = await webgpu({ device, selfTest: false });
    device.destroy();
    const model = await loadModel(demoModel, { backend, fallback: true });
    expect((await model.complete(PROMPT, GREEDY)).tokens).toEqual(expected);
    expect(model.info.warnings.join()).toMatch(/^the CPU computes: webgpu: the device was lost/);
    expect(counts.buffers).toBe(0);
    await model.dispose();
  });
});

describe('nothing is left on a device', () => {
  /** Runs `use` with what opens a backend on a device of its own, and looks what is left there. */
  async function leavesNothing(use: (given: () => Promise<WebGpuBackend>, counts: Counts) => Promise<void>) {
    const { device, counts } = await open();
    await use(() => webgpu({ device, selfTest: false, maxRepeats: 1 }), counts);
    expect([counts.buffers, counts.bytes]).toEqual([0, 0]);
    device.destroy();
  }

  it('of a model that has written, alone and in company, and was read otherwise', () =>
    leavesNothing(async (backend, counts) => {
      const model = await loadModel(demoModel, { backend });
      expect(counts.bytes).toBeGreaterThan(2e6);
      await Promise.all(['A', 'And', PROMPT].map((text) => model.complete(text, { ...GREEDY, maxTokens: 20 })));
      await model.logits(await model.tokenize(PROMPT));
      await model.embed(PROMPT);
      await model.dispose();
    }));

  it('and a token makes none', () =>
    leavesNothing(async (backend, counts) => {
      const model = await loadModel(demoModel, { backend });
      const live: number[] = [];
      for await (const _ of model.generate(PROMPT, GREEDY)) live.push(counts.buffers);
      expect(new Set(live.slice(10)).size).toBe(1);
      await model.dispose();
    }));

  it('of a self-test', async () => {
    const { device, counts } = await open();
    await (await webgpu({ device })).dispose();
    expect([counts.buffers, counts.bytes]).toEqual([0, 0]);
    device.destroy();
  });

  it('of a file that is broken, or whose loading is aborted', () =>
    leavesNothing(async (backend) => {
      await expect(loadModel('nowhere.gguf', { backend })).rejects.toThrow('nowhere.gguf');
      const abort = new AbortController();
      const onProgress = () => abort.abort(new Error('enough'));
      await expect(loadModel(demoModel, { backend, signal: abort.signal, onProgress })).rejects.toThrow('enough');
    }));

  it('of a text whose reader left', () =>
    leavesNothing(async (backend) => {
      const model = await loadModel(demoModel, { backend });
      for await (const { text } of model.generate(PROMPT, GREEDY)) if (text !== '') break;
      const abort = new AbortController();
      const onToken = () => abort.abort(new Error('enough'));
      await expect(model.complete(PROMPT, { ...GREEDY, signal: abort.signal, onToken })).rejects.toThrow('enough');
      await model.dispose();
    }));
});
