import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { demoModel, loadModel, type Model } from '../dist/index.js';
import { agree } from './agree.js';

const TEXT =
  'Once upon a time there was a king who had a daughter, and she was so beautiful that the sun wondered. '.repeat(8);
let model: Model;
beforeAll(async () => {
  model = await loadModel(demoModel, { threads: 1, head: 'exact' });
});
afterAll(() => model.dispose());

/** -ln of the softmax at `id`, in f64. */
function loss(logits: Float32Array, id: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b));
  return most + Math.log(logits.reduce((sum, z) => sum + Math.exp(z - most), 0)) - logits[id];
}

/** Losses of the tokens [from, to) of a chunk, each told by what comes before it. */
async function losses(chunk: number[], from: number): Promise<number[]> {
  const all = await model.logits(chunk);
  const { vocab } = model.info;
  return chunk.slice(from).map((id, i) => loss(all.subarray((from + i - 1) * vocab, (from + i) * vocab), id));
}

describe('perplexity', () => {
  it('is that of the second halves of the chunks, each begun with BOS', async () => {
    const tokens = await model.tokenize(TEXT);
    const [bos] = tokens;
    for (const contextSize of [32, 33, 100]) {
      const scored: number[] = [];
      for (let at = 0; at + contextSize <= tokens.length; at += contextSize) {
        const chunk = [bos, ...tokens.slice(at + 1, at + contextSize)];
        scored.push(...(await losses(chunk, (contextSize >> 1) + 1)));
      }
      const nll = scored.reduce((a, b) => a + b) / scored.length;
      const seen: number[] = [];
      const result = await model.perplexity(TEXT, { contextSize, onProgress: (p) => seen.push(p.tokens) });
      expect(result.tokens).toBe(scored.length);
      agree({ op: 'nll', seed: 0, expected: [nll], actual: [result.nll], bound: [1e-6] });
      agree({ op: 'perplexity', seed: 0, expected: [Math.exp(nll)], actual: [result.perplexity], bound: [1e-4] });
      expect(seen.at(-1)).toBe(Math.floor(tokens.length / contextSize) * contextSize);
    }
  });

  it('of a text of less than a chunk is that of all of it', async () => {
    const tokens = await model.tokenize('Once upon a time');
    const scored = await losses(tokens, 1);
    const result = await model.perplexity('Once upon a time');
    expect(result.tokens).toBe(tokens.length - 1);
    agree({
      ...{ op: 'nll', seed: 0, expected: [scored.reduce((a, b) => a + b) / scored.length] },
      ...{ actual: [result.nll], bound: [1e-6] },
    });
  });

  it('refuses what it cannot measure', async () => {
    await expect(model.perplexity(TEXT, { contextSize: 2 })).rejects.toThrow(
      'contextSize: got 2, expected a whole number',
    );
    await expect(model.perplexity('')).rejects.toThrow('perplexity: 1 tokens, expected at least 2');
    await expect(model.perplexity([1, 2] as unknown as string)).rejects.toThrow(
      'perplexity: got object, expected a text',
    );
    await expect(model.perplexity(TEXT, { kv: 'q9' as 'f16' })).rejects.toThrow("kv: got 'q9', expected f16 or f32");
    await expect(model.perplexity(TEXT, { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
    expect((await model.perplexity(TEXT, { contextSize: 3 })).tokens).toBeGreaterThan(0);
  });
});

describe('embed', () => {
  const texts = ['A king', 'A queen and her daughter', TEXT, 'x'];
  const product = (a: Float32Array, b: Float32Array) => a.reduce((sum, x, i) => sum + x * b[i], 0);

  it.each(['last', 'mean', 'first'] as const)('%s: the same alone and together, of length 1', async (pooling) => {
    const together = await model.embed(texts, { pooling });
    for (const [i, text] of texts.entries()) {
      expect(await model.embed(text, { pooling })).toEqual(together[i]);
      expect(product(together[i], together[i])).toBeCloseTo(1, 5);
    }
  });

  it('mean is the mean of what the tokens have, which first and last are two of', async () => {
    // Of a text of two tokens: mean * 2 = first + last, but for lengths.
    const tokens = Int32Array.from((await model.tokenize('A king')).slice(0, 2));
    const [mean, first, last] = await Promise.all(
      (['mean', 'first', 'last'] as const).map((pooling) => model.embed(tokens, { pooling })),
    );
    // The three lie in a plane.
    const [a, b, c] = [product(first, last), product(mean, first), product(mean, last)];
    const determinant = 1 + 2 * a * b * c - a * a - b * b - c * c;
    expect(Math.abs(determinant)).toBeLessThan(1e-5);
    expect(Math.abs(a)).toBeLessThan(0.999);
  });

  it('more texts than share a pass, and dimensions', async () => {
    const many = Array.from({ length: 20 }, (_, i) => `The ${i} hens`);
    const all = await model.embed(many, { dimensions: 10 });
    expect(all.map((v) => v.length)).toEqual(many.map(() => 10));
    expect(all[19]).toEqual(await model.embed(many[19], { dimensions: 10 }));
    const whole = await model.embed(many[3]);
    const norm = Math.sqrt(product(whole.subarray(0, 10), whole.subarray(0, 10)));
    agree({
      op: 'dimensions',
      seed: 0,
      expected: [...whole.subarray(0, 10)].map((x) => x / norm),
      actual: all[3],
      bound: new Array(10).fill(1e-6),
    });
  });

  it('refuses what is none', async () => {
    await expect(model.embed('a', { dimensions: 257 })).rejects.toThrow(
      'dimensions: got 257, expected a whole number from 1 to 256',
    );
    await expect(model.embed('a', { pooling: 'max' as 'mean' })).rejects.toThrow("pooling: got 'max'");
    await expect(model.embed('a', { kv: 'zz' as 'f16' })).rejects.toThrow("kv: got 'zz'");
    await expect(model.embed([Int32Array.of(5000)])).rejects.toThrow('embed: text 0: token 0 is 5000');
    await expect(model.embed([TEXT.repeat(9)])).rejects.toThrow(/embed: text 0: \d+ tokens, expected at most 512/);
  });
});

describe('commands', () => {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const dir = mkdtempSync(join(tmpdir(), 'ternlm-evaluate-'));
  const file = join(dir, 'text.txt');
  writeFileSync(file, TEXT);
  afterAll(() => rmSync(dir, { recursive: true }));
  const ternlm = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', input: '' });

  it('perplexity tells what the library does', async () => {
    const { perplexity, tokens } = await model.perplexity(TEXT, { contextSize: 64 });
    const { status, stdout } = ternlm('perplexity', file, '-c', '64', '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout).tokens).toBe(tokens);
    expect(JSON.parse(stdout).perplexity).toBeCloseTo(perplexity, 6);
    expect(ternlm('perplexity', file, '-c', '64').stdout).toMatch(/^perplexity \d+\.\d{4} ± \d+\.\d{4}\n$/);
  });

  it('embed writes a vector a line, or how alike texts are', async () => {
    const { stdout } = ternlm('embed', 'A king', 'A queen', '--dimensions', '8');
    const vectors = stdout
      .trim()
      .split('\n')
      .map((line) => Float32Array.from(JSON.parse(line)));
    expect(vectors).toEqual(await model.embed(['A king', 'A queen'], { dimensions: 8 }));
    expect(ternlm('embed', 'A king', 'A king', '--similarity').stdout).toBe(
      '  1.000  1.000  A king\n  1.000  1.000  A king\n',
    );
  });

  it.each([
    [['perplexity', 'gone.txt'], 'ternlm: gone.txt: no such file'],
    [['perplexity', 'm.gguf'], 'ternlm: perplexity: no text; expected a file'],
    [['perplexity', file, '-c', '2'], 'ternlm: --ctx-size: got 2, expected a whole number from 3'],
    [['embed'], 'ternlm: embed: no text'],
    [['embed', 'a', '--dimensions', '0'], 'ternlm: --dimensions: got 0'],
    [['run', 'a', '--layout', 'mine'], 'ternlm: --layout: expected bitnet_b1_58-large'],
    [['convert', main, join(dir, 'none', 'x.gguf')], `ternlm: ${join(dir, 'none')}: no such folder`],
  ])('%j says why not', (args, message) => {
    const { status, stdout, stderr } = ternlm(...args);
    expect([status, stdout]).toEqual([1, '']);
    expect(stderr).toContain(message);
  });
});
