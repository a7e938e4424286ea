import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel, type Model } from '../dist/index.js';
import { agree } from './agree.js';
import './dot_add.js';

// Logits of the native engine, microsoft/BitNet: test/golden/README.md says which program and command made them.

const TOKENS = [509, 1, 5, 9, 33, 64, 100, 200, 300, 400, 2, 7, 511, 17, 81, 250];
const VOCAB = 512;
/** One int8 rounding that falls the other way costs up to 0.4: within this, next to none did. */
const BOUND = 0.02;

const golden = (name: string) => new URL(`./golden/${name}`, import.meta.url);

function floats(url: URL): Float32Array {
  const bytes = readFileSync(url);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

function argmax(row: Float32Array): number {
  return row.reduce((best, x, i) => (x > row[best] ? i : best), 0);
}

describe.each([
  { file: 'tiny-bitnet-b1.58-i2_s.gguf', logits: 'bitnetcpp-b158-i2_s' },
  { file: 'tiny-bitnet-i2_s.gguf', logits: 'bitnetcpp-bitnet_silu-i2_s' },
])('$logits', ({ file, logits }) => {
  describe.each([
    { tier: 'simd', threads: 1 },
    { tier: 'simd', threads: 2 },
    { tier: 'relaxed', threads: 1 },
    { tier: 'relaxed', threads: 2 },
    { tier: 'revec', threads: 1 },
  ] as const)('$tier, $threads threads', ({ tier, threads }) => {
    let model: Model;
    beforeAll(async () => {
      model = await loadModel(golden(`models/${file}`), { tier, threads });
    });
    afterAll(() => model.dispose());

    it.each([1, 5, 16])('agrees with native step and batch, %d rows at a time', async (batch) => {
      const actual = await model.logits(TOKENS, { kv: 'f32', batch });
      const step = floats(golden(`logits/${logits}.step.kv-f32.f32`));
      const worst = actual.reduce((most, x, i) => Math.max(most, Math.abs(x - step[i])), 0);
      console.info(
        `${logits}, ${tier}, ${threads} threads, ${batch} rows: at most ${worst.toExponential(1)} from native step`,
      );
      for (const kind of ['step', 'batch']) {
        const expected = floats(golden(`logits/${logits}.${kind}.kv-f32.f32`));
        // The native batch rounds otherwise than the native step: by so much its own two files disagree.
        const bound = expected.map((x, i) => BOUND + Math.abs(x - step[i]));
        agree({ op: `${logits}.${kind}, ${batch} rows`, seed: 1234, expected, actual, bound });
        for (let t = 0; t < TOKENS.length; t++) {
          const row = (all: Float32Array) => all.subarray(t * VOCAB, (t + 1) * VOCAB);
          expect(argmax(row(actual)), `argmax at position ${t}`).toBe(argmax(row(expected)));
        }
      }
    });

    it('gives the same logits however the tokens are cut into rows', async () => {
      const one = await model.logits(TOKENS, { batch: 1 });
      const many = await model.logits(TOKENS, { batch: 7 });
      agree({ op: 'logits, batch 7 against 1', seed: 1234, expected: one, actual: many });
    });
  });
});

describe('TL2, the same weights as in I2_S', () => {
  describe.each([
    { tier: 'simd', threads: 1, repack: 'auto' },
    { tier: 'simd', threads: 1, repack: 'none' },
    { tier: 'simd', threads: 2, repack: 'none' },
    { tier: 'relaxed', threads: 2, repack: 'auto' },
    { tier: 'relaxed', threads: 1, repack: 'none' },
    { tier: 'relaxed', threads: 2, repack: 'none' },
    { tier: 'revec', threads: 1, repack: 'none' },
  ] as const)('$tier, $threads threads, repack $repack', ({ tier, threads, repack }) => {
    let [i2s, tl2]: Model[] = [];
    beforeAll(async () => {
      i2s = await loadModel(golden('models/tiny-bitnet-b1.58-i2_s.gguf'), { tier, threads });
      tl2 = await loadModel(golden('models/tiny-bitnet-b1.58-tl2.gguf'), { tier, threads, repack });
    });
    afterAll(async () => {
      await i2s.dispose();
      await tl2.dispose();
    });

    it('is told by info', () => {
      const memory = repack === 'auto' ? 'i2_s' : 'tl2';
      expect(tl2.info.weights).toEqual({ file: 'TL2', memory, tiles: 'preset tiny' });
      expect(i2s.info.weights).toEqual({ file: 'I2_S', memory: 'i2_s', tiles: undefined });
    });

    it.each([1, 5, 16])('gives the logits of I2_S and agrees with native step, %d rows at a time', async (batch) => {
      const actual = await tl2.logits(TOKENS, { kv: 'f32', batch });
      const op = `TL2 against I2_S, ${batch} rows`;
      agree({ op, seed: 1234, expected: await i2s.logits(TOKENS, { kv: 'f32', batch }), actual });
      const expected = floats(golden('logits/bitnetcpp-b158-tl2.step.kv-f32.f32'));
      agree({
        op: `TL2 against native, ${batch} rows`,
        seed: 1234,
        expected,
        actual,
        bound: expected.map(() => BOUND),
      });
    });
  });
});
