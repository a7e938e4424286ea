import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as f16 from '../dist/gguf/layouts/f16.js';
import { decode } from '../dist/gguf/layouts.js';
import { type LoadModelOptions, loadModel, type Model } from '../dist/index.js';
import { agree } from './agree.js';
import { rewrite } from './rewrite.js';
import './dot_add.js';

// Logits of the native engines, microsoft/BitNet and llama.cpp: test/golden/README.md says which program and command made them.

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

/** The I2_S model with its matrices in F16, which holds the same values. */
function asF16(name: string): Promise<Uint8Array> {
  return rewrite(new Uint8Array(readFileSync(golden(`models/${name}`))), (tensor) => {
    const { type, packed, dims } = tensor;
    if (type !== 'I2_S') return [tensor];
    return [{ ...tensor, type: 'F16', packed: f16.encode(decode(type, packed, dims, tensor.name)) }];
  });
}

interface Case {
  readonly what: string;
  readonly open: () => Promise<URL | Uint8Array>;
  readonly options: LoadModelOptions;
  /** Of the golden's files. */
  readonly logits: string;
  /**
   * At token 7 an activation lies so near to a rounding boundary that the engine's own step and batch round it to different
   * sides (here it goes to that of the batch). From there on all three drift apart, by at most so much as these two do.
   */
  readonly tips?: boolean;
}

const file = (name: string) => async () => golden(`models/${name}`);
const relu2 = { activation: 'relu2' } as const;
const none = { repack: 'none' } as const;

describe.each([
  { what: 'I2_S, ReLU²', open: file('tiny-bitnet-b1.58-i2_s.gguf'), options: {}, logits: 'bitnetcpp-b158-i2_s' },
  { what: 'I2_S, SiLU', open: file('tiny-bitnet-i2_s.gguf'), options: {}, logits: 'bitnetcpp-bitnet_silu-i2_s' },
  {
    ...{ what: 'F16, ReLU²', open: () => asF16('tiny-bitnet-b1.58-i2_s.gguf') },
    ...{ options: {}, logits: 'bitnetcpp-b158-f16' },
  },
  {
    ...{ what: 'F16, SiLU', open: () => asF16('tiny-bitnet-i2_s.gguf') },
    ...{ options: {}, logits: 'bitnetcpp-bitnet_silu-f16' },
  },
  // Of TQ1_0 the native engine has the same bits as of TQ2_0.
  ...(['tq2_0', 'tq1_0'] as const).flatMap((type) => {
    const open = file(`tiny-bitnet-${type}.gguf`);
    return [
      { what: `${type}, ReLU²`, open, options: relu2, logits: 'upstream-bitnet_relu2-tq2_0' },
      { what: `${type}, SiLU`, open, options: {}, logits: 'upstream-bitnet_silu-tq2_0', tips: true },
    ];
  }),
  {
    ...{ what: 'tq1_0 as it is', open: file('tiny-bitnet-tq1_0.gguf') },
    ...{ options: { ...relu2, ...none }, logits: 'upstream-bitnet_relu2-tq2_0' },
  },
] as Case[])('$what', ({ open, options, logits, tips = false }) => {
  describe.each([
    { tier: 'simd', threads: 1 },
    { tier: 'simd', threads: 2 },
    { tier: 'relaxed', threads: 1 },
    { tier: 'relaxed', threads: 2 },
    { tier: 'revec', threads: 1 },
  ] as const)('$tier, $threads threads', ({ tier, threads }) => {
    let model: Model;
    beforeAll(async () => {
      model = await loadModel(await open(), { tier, threads, ...options });
    });
    afterAll(() => model.dispose());

    it.each([1, 5, 16])('agrees with native step and batch, %d rows at a time', async (batch) => {
      const actual = await model.logits(TOKENS, { kv: 'f32', batch });
      const [step, other] = ['step', 'batch'].map((kind) => floats(golden(`logits/${logits}.${kind}.kv-f32.f32`)));
      const worst = actual.reduce((most, x, i) => Math.max(most, Math.abs(x - step[i])), 0);
      console.info(
        `${logits}, ${tier}, ${threads} threads, ${batch} rows: at most ${worst.toExponential(1)} from native step`,
      );
      for (const kind of ['step', 'batch']) {
        const expected = kind === 'step' ? step : other;
        // The native batch rounds otherwise than the native step: by so much its own two files disagree.
        const own = other.map((x, i) => Math.abs(x - step[i]));
        const tipped = tips ? own.findIndex((difference) => difference > BOUND) : own.length;
        const widest = own.reduce((a, b) => Math.max(a, b));
        const bound = expected.map((_, i) => {
          if (i - (i % VOCAB) + VOCAB > tipped) return BOUND + widest;
          return kind === 'step' ? BOUND : BOUND + own[i];
        });
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
      // Without relaxed dots lookups are quicker.
      const memory = repack === 'auto' && tier !== 'simd' ? 'i2_s' : 'tl2';
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
