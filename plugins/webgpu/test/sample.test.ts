import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sample as reference } from '../../../dist/reference/sample.js';
import {
  PICK_BYTES,
  type Pick,
  paramsBytes,
  readPick,
  resolveSampler,
  type SamplerOptions,
  writeParams,
} from '../../../dist/sampler.js';
import { LOGITS, oneOf } from '../../../test/logits.js';
import { type Random, random } from '../../../test/random.js';
import { backendOver, type WebGpuBackend } from '../dist/backend.js';
import { openDevice } from '../dist/device.js';

const CONTEXT = 128;
const STRIDE = paramsBytes(CONTEXT);
const OUTS = 64;

/** One row of a batch. */
interface Row {
  readonly logits: Float32Array;
  readonly options: SamplerOptions;
  readonly step?: number;
  readonly tokens?: readonly number[];
}

/** All filters off. */
const OPEN: SamplerOptions = { temperature: 1, topK: 0, topP: 1, minP: 0 };

function someOptions(r: Random, vocab: number): SamplerOptions {
  const bias = () => oneOf(r, [r.uniform() * 8 - 4, 100, -100, 1e39, Infinity, -Infinity, 0]);
  return {
    temperature: oneOf(r, [undefined, 0, -1, 1e-6, 0.3, 1, 1.7, 1e6, 5e-324, 1e-300, 1e300]),
    topK: oneOf(r, [undefined, 1, 2, 5, 63, 64, 65, 300, 1024, 1025, vocab, 0]),
    topP: oneOf(r, [undefined, 0, 1e-320, 1e-9, 0.5, 0.9, 0.9999, 1]),
    minP: oneOf(r, [undefined, 0, 0, 1e-4, 0.3, 1]),
    repeatPenalty: oneOf(r, [1, 1, 1.3, 0.7, 5]),
    frequencyPenalty: oneOf(r, [0, 0, 0.4, -0.3]),
    presencePenalty: oneOf(r, [0, 0, 1.5, -2]),
    logitBias: oneOf(r, [
      {},
      Object.fromEntries(r.shuffled(Math.min(vocab, 12)).map((id) => [id, bias()])),
      new Map([[r.below(vocab), -Infinity]]),
      // All banned but one.
      vocab <= 1024 ? Object.fromEntries(Array.from({ length: vocab - 1 }, (_, i) => [i, -Infinity])) : {},
    ]),
    seed: oneOf(r, [r.below(2 ** 32), -r.below(2 ** 32) - 2, 2 ** 53 - 1 - r.below(9)]),
  };
}

describe('sample', () => {
  let backend: WebGpuBackend;
  beforeAll(async () => {
    backend = backendOver(await openDevice({}), true);
  });
  afterAll(() => backend.dispose());

  function put(x: Float32Array | Uint8Array) {
    const tensor = backend.alloc(x.byteLength);
    backend.write(tensor, 0, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    return tensor;
  }

  /** What the device picks, and what the reference does. */
  async function picksOf(vocab: number, rows: readonly Row[]): Promise<{ picks: Pick[]; expected: Pick[] }> {
    const outs = rows.length;
    const logits = new Float32Array(outs * vocab);
    const params = new Uint8Array(outs * STRIDE);
    const read = (bytes: Uint8Array<ArrayBuffer>): Pick[] =>
      rows.map((_, i) => readPick(new DataView(bytes.buffer), i * PICK_BYTES, { id: 0, logit: 0, probability: 0 }));
    const wanted = new Uint8Array(outs * PICK_BYTES);
    rows.forEach(({ logits: row, options, step = 0, tokens = [] }, i) => {
      logits.set(row, i * vocab);
      const view = new DataView(params.buffer, i * STRIDE, STRIDE);
      writeParams(view, resolveSampler({ seed: 1, ...options }, vocab), step, tokens, tokens.length);
      reference(row, view, new DataView(wanted.buffer, i * PICK_BYTES, PICK_BYTES));
    });
    const tensors = [put(logits), put(params), backend.alloc(outs * PICK_BYTES), backend.alloc(16)];
    const [logitsIn, paramsIn, picks, scratch] = tensors;
    const op = { outs, vocab, logits: logitsIn, params: paramsIn, stride: STRIDE, picks, scratch };
    const program = backend.record(() => backend.ops.sample(op));
    await backend.run(program);
    const got = new Uint8Array(outs * PICK_BYTES);
    await backend.read(picks, 0, got);
    program.free();
    for (const tensor of tensors) backend.free(tensor);
    return { picks: read(got), expected: read(wanted) };
  }

  /**
   * Weights have 44 bits: of so few draws none falls between their cut and that of f64. A probability's exponentials
   * are off by 2e-7 each, their arguments, up to 88, by 2^-18, two of them for logits behind the peak of their slice;
   * its sums by 24 * 2^-24. Below e^-87 it is 0.
   */
  async function agree(vocab: number, rows: readonly Row[]): Promise<Pick[]> {
    const { picks, expected } = await picksOf(vocab, rows);
    picks.forEach((pick, i) => {
      const { id, logit, probability } = expected[i];
      const close = Math.abs(pick.probability - probability) <= 1.6e-5 * probability + 2e-37;
      if (pick.id === id && Object.is(pick.logit, logit) && close) return;
      const { options, step } = rows[i];
      const what = `vocabulary ${vocab}, row ${i}, step ${step}, ${JSON.stringify(options)}`;
      throw new Error(`${what}: expected ${JSON.stringify(expected[i])}, got ${JSON.stringify(pick)}`);
    });
    return picks;
  }

  for (const vocab of [1, 7, 512, 1025, 2500]) {
    it(`picks what the reference picks, vocabulary ${vocab}`, async () => {
      const r = random(vocab);
      const names = Object.keys(LOGITS);
      const rows = Array.from({ length: OUTS }, (_, i): Row => {
        const name = names[i % names.length];
        const tokens = Array.from({ length: r.below(100) }, () => r.below(Math.min(vocab, 40)));
        // A device may take the products of subnormals to be 0.
        const options = { ...someOptions(r, vocab), ...(name === 'zeros' && { repeatPenalty: 1 }) };
        return { logits: LOGITS[name](r, vocab), options, step: oneOf(r, [0, 1, r.below(2 ** 32)]), tokens };
      });
      await agree(vocab, rows);
    });
  }

  it('draws what the reference draws, 600 times of 5000', async () => {
    const r = random(5);
    const logits = r.normal(5000, 3);
    for (const options of [OPEN, { temperature: 1.2 }]) {
      const draws = Array.from({ length: 300 }, (_, step) => ({ logits, step, options: { ...options, seed: 11 } }));
      const ids = (await agree(5000, draws)).map(({ id }) => id);
      expect(new Set(ids).size).toBeGreaterThan(10);
    }
  });

  it('picks from the largest vocabulary, ties over all of it included', async () => {
    const vocab = 2 ** 18;
    const r = random(6);
    const last = { logitBias: { [vocab - 1]: 5, 17: -Infinity } };
    const rows = [LOGITS.normal, LOGITS.equal].flatMap((fill) => {
      const logits = fill(r, vocab);
      return [{}, { ...OPEN, temperature: 1e6 }, { topK: 5000, topP: 0.7, minP: 0, ...last }].map((options) => ({
        logits,
        options,
        step: 3,
      }));
    });
    await agree(vocab, rows);
  });

  it('weights have 44 bits: top-p within 1e-12 of a prefix falls on the right side', async () => {
    const r = random(3);
    const wanted: number[][] = [];
    const rows = Array.from({ length: 40 }).flatMap(() => {
      const logits = Float32Array.of(0, -8 * r.uniform());
      const share = 1 / (1 + Math.exp(logits[1]));
      return [1 - 1e-12, 1 + 1e-12].map((near): Row => {
        wanted.push(near < 1 ? [0] : [0, 1]);
        return { logits, options: { ...OPEN, topP: share * near, temperature: 1e6, seed: 2 } };
      });
    });
    const seen = rows.map(() => new Set<number>());
    for (let step = 0; step < 12; step++) {
      const { picks } = await picksOf(
        2,
        rows.map((row) => ({ ...row, step })),
      );
      picks.forEach(({ id }, i) => void seen[i].add(id));
    }
    expect(seen.map((ids) => [...ids].sort())).toEqual(wanted);
  });

  it('has no token where nothing is a candidate', async () => {
    const rows = [{}, { temperature: 0 }, OPEN].map((options) => ({
      logits: Float32Array.of(Number.NaN, -Infinity, 2),
      options: { ...options, logitBias: { 2: -Infinity } },
    }));
    for (const pick of await agree(3, rows)) expect(pick).toEqual({ id: -1, logit: Number.NaN, probability: 0 });
  });

  it('says so where the vocabulary is too large', () => {
    const tensor = backend.alloc(16);
    const vocab = 2 ** 18 + 1;
    const op = { outs: 1, vocab, logits: tensor, params: tensor, stride: STRIDE, picks: tensor, scratch: tensor };
    expect(() => backend.record(() => backend.ops.sample(op))).toThrow(
      new RangeError('webgpu: sample: a vocabulary of 262145, expected at most 262144'),
    );
    backend.free(tensor);
  });
});
