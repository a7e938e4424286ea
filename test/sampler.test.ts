import { describe, expect, test } from 'vitest';
import { host } from '../dist/host/node.js';
import { advance } from '../dist/reference/advance.js';
import { sample as reference } from '../dist/reference/sample.js';
import {
  PICK_BYTES,
  type Pick,
  paramsBytes,
  type ResolvedSampler,
  readPick,
  resolveSampler,
  type SamplerOptions,
  writeParams,
} from '../dist/sampler.js';
import { LOGITS, oneOf } from './logits.js';
import { type Random, random, seedOf } from './random.js';

const LARGEST = 128_256;
const CONTEXT = 512;
const MODULES = ['simd', 'relaxed', 'relaxed_i16', 'revec'] as const;

/**
 * The kernel's memory: canaries (c) of 64 bytes guard what it may write.
 *
 *   1 MiB  c | logits [LARGEST] | c | params | c | pick | c | scratch of the row's vocabulary | c
 */
class Bench {
  readonly #memory = new WebAssembly.Memory({ initial: 128, maximum: 128, shared: true });
  readonly #kernels: {
    sample(logits: number, vocab: number, params: number, pick: number, scratch: number): void;
    sampleScratchBytes(vocab: number): number;
  };
  readonly #logits = 2 ** 20 + 64;
  readonly #params = this.#logits + LARGEST * 4 + 64;
  readonly #pick = this.#params + paramsBytes(CONTEXT) + 64;
  readonly #scratch = this.#pick + PICK_BYTES + 64 + 48;
  readonly params = new DataView(this.#memory.buffer, this.#params, paramsBytes(CONTEXT));
  readonly pickBytes = new Uint8Array(this.#memory.buffer, this.#pick, PICK_BYTES);
  ms = 0;

  constructor(name: (typeof MODULES)[number]) {
    const bytes = host.kernels(name, true) as Uint8Array<ArrayBuffer>;
    const module = new WebAssembly.Module(bytes);
    const exports = new WebAssembly.Instance(module, { env: { memory: this.#memory, abort: () => {} } }).exports;
    this.#kernels = exports as never;
    // As kernels.sample is called on scratch that other ops have used.
    new Uint8Array(this.#memory.buffer, this.#scratch).fill(0x5a);
  }

  logits(vocab: number): Float32Array {
    return new Float32Array(this.#memory.buffer, this.#logits, vocab);
  }

  run(vocab: number): Pick {
    const end = this.#scratch + this.#kernels.sampleScratchBytes(vocab);
    const guards = [
      this.#logits - 64,
      this.#logits + 4 * vocab,
      this.#params - 64,
      this.#pick - 64,
      this.#pick + 16,
      end,
    ];
    const guard = (at: number) => new Uint8Array(this.#memory.buffer, at, at === end ? 64 : 48);
    for (const at of guards) guard(at).fill(0xa5);
    const started = performance.now();
    this.#kernels.sample(this.#logits, vocab, this.#params, this.#pick, this.#scratch);
    this.ms = performance.now() - started;
    for (const at of guards) {
      if (guard(at).some((byte) => byte !== 0xa5)) throw new Error(`written outside of pick and scratch, at ${at}`);
    }
    const pick = new DataView(this.#memory.buffer, this.#pick, PICK_BYTES);
    return readPick(pick, 0, { id: 0, logit: 0, probability: 0 });
  }
}

const benches = MODULES.map((name) => new Bench(name));

/** What all modules pick, which has to be the same to the last bit; the logits have to stay as they were. */
function kernel(logits: Float32Array, sampler: ResolvedSampler, step = 0, tokens: ArrayLike<number> = []): Pick {
  const before = bits(logits);
  const picks = benches.map((bench) => {
    const row = bench.logits(logits.length);
    row.set(logits);
    writeParams(bench.params, sampler, step, tokens, tokens.length);
    const pick = bench.run(logits.length);
    bits(row).forEach((word, i) => {
      if (word !== before[i]) throw new Error(`logit ${i} was ${logits[i]} and is ${row[i]}`);
    });
    return pick;
  });
  const [simd, ...others] = benches.map(({ pickBytes }) => String(pickBytes));
  others.forEach((other, i) => {
    if (other !== simd) throw new Error(`pick of ${MODULES[i + 1]} ${other}, of simd ${simd}`);
  });
  return picks[0];
}

function bits(row: Float32Array): Int32Array {
  return new Int32Array(row.buffer, row.byteOffset, row.length);
}

function specified(logits: Float32Array, sampler: ResolvedSampler, step: number, tokens: ArrayLike<number>): Pick {
  const params = new DataView(new ArrayBuffer(paramsBytes(CONTEXT)));
  writeParams(params, sampler, step, tokens, tokens.length);
  const pick = new DataView(new ArrayBuffer(PICK_BYTES));
  reference(logits, params, pick);
  return readPick(pick, 0, { id: 0, logit: 0, probability: 0 });
}

/**
 * Weights are f64 on both sides, so ids are equal. A probability's f32 softmax is off by at most 2e-7 (e^x), 88 * 2^-24 (the
 * rounded argument) and 17 * 2^-24 (sums of 16): 6.5e-6. Below e^-708 the kernel says 0.
 */
function agree(actual: Pick, expected: Pick, what: string): void {
  const difference = Math.abs(actual.probability - expected.probability);
  const close = difference <= 1e-5 * expected.probability + 1e-307;
  if (actual.id === expected.id && Object.is(actual.logit, expected.logit) && close) return;
  throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
}

function someOptions(r: Random, vocab: number): SamplerOptions {
  const penalties = r.below(2) === 0;
  const bias = () => oneOf(r, [r.uniform() * 8 - 4, 100, -100, 1e39, Infinity, -Infinity, 0]);
  const biases: SamplerOptions['logitBias'][] = [
    undefined,
    Object.fromEntries(r.shuffled(Math.min(vocab, 12)).map((id) => [id, bias()])),
    new Map([[r.below(vocab), -Infinity]]),
    // All banned but one.
    vocab <= 1024 ? Object.fromEntries(Array.from({ length: vocab - 1 }, (_, i) => [i, -Infinity])) : {},
  ];
  return {
    temperature: oneOf(r, [undefined, 0, -1, 1e-6, 0.3, 1, 1.7, 100]),
    topK: oneOf(r, [undefined, 1, 2, 5, 300, 1024, 1025, 1500, vocab, 2 ** 40, 0, -1]),
    topP: oneOf(r, [undefined, 0, 1e-9, 0.5, 0.9, 0.9999, 1]),
    minP: oneOf(r, [undefined, 0, 0, 1e-4, 0.3, 1]),
    repeatPenalty: penalties ? oneOf(r, [1, 1.3, 0.7, 5]) : undefined,
    repeatLastN: oneOf(r, [undefined, 0, 3, -1]),
    frequencyPenalty: penalties ? oneOf(r, [0, 0.4, -0.3]) : undefined,
    presencePenalty: penalties ? oneOf(r, [0, 1.5, -2]) : undefined,
    logitBias: oneOf(r, biases),
    seed: oneOf(r, [r.below(2 ** 32), -r.below(2 ** 32) - 2, 2 ** 53 - 1 - r.below(9)]),
  };
}

test('params that advanced draw what params written anew draw', () => {
  const r = random(seedOf('advance'));
  const vocab = 60;
  for (const options of [
    { repeatPenalty: 1.8, repeatLastN: 4 },
    { frequencyPenalty: 0.7, presencePenalty: 0.2, repeatLastN: 10, logitBias: { 7: 3, 9: -Infinity } },
    { frequencyPenalty: -0.5, repeatLastN: -1 },
    { presencePenalty: 5, repeatLastN: 0 },
    {},
  ]) {
    const sampler = resolveSampler({ ...options, temperature: 2, topK: 0, seed: r.below(1e9) }, vocab);
    const tokens = Array.from({ length: 6 }, () => r.below(vocab));
    const [kept, anew] = [0, 1].map(() => new DataView(new ArrayBuffer(paramsBytes(CONTEXT))));
    writeParams(kept, sampler, 0, tokens, tokens.length);
    const pick = new DataView(new ArrayBuffer(PICK_BYTES));
    for (let step = 0; step < 30; step++) {
      const logits = r.normal(vocab, 2);
      writeParams(anew, sampler, step, tokens, tokens.length);
      const [advanced, written] = [kept, anew].map((params) => {
        reference(logits, params, pick);
        return [pick.getInt32(0, true), recentsOf(params)];
      });
      expect(advanced, `step ${step}, ${JSON.stringify(options)}`).toEqual(written);
      tokens.push(pick.getInt32(0, true));
      expect(advance(pick, kept)).toBe(tokens.at(-1));
    }
  }
});

/** In no order. */
function recentsOf(params: DataView): number[] {
  const at = 64 + 8 * params.getInt32(48, true);
  const count = params.getInt32(52, true);
  return Array.from({ length: count }, (_, i) => params.getInt32(at + 4 * i, true)).sort((a, b) => a - b);
}

describe('the kernel picks what the reference picks', () => {
  for (const [vocab, rounds] of [
    [1, 10],
    [2, 20],
    [7, 60],
    [512, 60],
    [2048, 60],
  ]) {
    for (const [name, fill] of Object.entries(LOGITS)) {
      test(`${rounds * 3} of ${name}, vocabulary ${vocab}`, () => {
        const r = random(seedOf(`${name} ${vocab}`));
        for (let i = 0; i < rounds; i++) {
          const logits = fill(r, vocab);
          const options = someOptions(r, vocab);
          const sampler = resolveSampler(options, vocab);
          const tokens = Int32Array.from({ length: r.below(100) }, () => r.below(Math.min(vocab, 40)));
          for (const step of [0, 1, r.below(2 ** 32)]) {
            const what = `round ${i}, step ${step}, ${JSON.stringify(options)}`;
            agree(kernel(logits, sampler, step, tokens), specified(logits, sampler, step, tokens), what);
          }
        }
      });
    }
  }

  for (const [name, fill] of Object.entries(LOGITS)) {
    test(`${name}, vocabulary ${LARGEST}`, () => {
      const r = random(seedOf(name));
      const logits = fill(r, LARGEST);
      for (const options of [
        {},
        { topK: 0 },
        { topK: 0, topP: 1, minP: 0, temperature: 100 },
        { topK: 5000, topP: 0.7, minP: 0, repeatPenalty: 1.2, logitBias: { 128255: 5, 17: -Infinity } },
      ]) {
        const sampler = resolveSampler({ seed: r.below(1e9), ...options }, LARGEST);
        const tokens = Int32Array.from({ length: 64 }, () => r.below(LARGEST));
        agree(kernel(logits, sampler, 3, tokens), specified(logits, sampler, 3, tokens), JSON.stringify(options));
      }
    });
  }
});

// Cases worked out by hand: reference and params could be wrong together.

const GREEDY: SamplerOptions = { temperature: 0 };
/** All filters off. */
const OPEN: SamplerOptions = { temperature: 1, topK: 0, topP: 1, minP: 0 };

function pick(logits: readonly number[], options: SamplerOptions, tokens: readonly number[] = [], step = 0): number {
  const row = Float32Array.from(logits);
  const sampler = resolveSampler({ seed: 1, ...options }, row.length);
  const { id } = kernel(row, sampler, step, tokens);
  expect(specified(row, sampler, step, tokens).id).toBe(id);
  return id;
}

/** The ids that 200 draws give. */
function drawn(probabilities: readonly number[], options: SamplerOptions, tokens: readonly number[] = []): number[] {
  const logits = probabilities.map((p) => Math.log(p));
  const ids = new Set<number>();
  for (let step = 0; step < 200; step++) ids.add(pick(logits, { ...OPEN, ...options }, tokens, step));
  return [...ids].sort((a, b) => a - b);
}

describe('the chain', () => {
  test('greedy takes the largest logit, of equal ones the first', () => {
    expect(pick([1, 3, 3, 2], GREEDY)).toBe(1);
    expect(pick([-5, -2, -1, -9, -1, -1.5], { temperature: -1 })).toBe(2);
    expect(pick([0.5, -0, 0, 0.25], { ...GREEDY, logitBias: { 0: -1, 3: -1 } })).toBe(1);
  });

  test('the repeat penalty divides positive and multiplies negative logits', () => {
    expect(pick([2, 1.1], { ...GREEDY, repeatPenalty: 2 }, [0])).toBe(1);
    expect(pick([2, 0.9], { ...GREEDY, repeatPenalty: 2 }, [0, 0, 0])).toBe(0);
    expect(pick([-1, -1.9], { ...GREEDY, repeatPenalty: 2 }, [0])).toBe(1);
    expect(pick([-1, -2.1], { ...GREEDY, repeatPenalty: 2 }, [0, 0, 0])).toBe(0);
  });

  test('the frequency penalty counts, the presence penalty does not', () => {
    expect(pick([3, 2.1], { ...GREEDY, frequencyPenalty: 0.5 }, [0])).toBe(0);
    expect(pick([3, 2.1], { ...GREEDY, frequencyPenalty: 0.5 }, [0, 0])).toBe(1);
    expect(pick([3, 2.1], { ...GREEDY, presencePenalty: 0.5 }, [0, 0])).toBe(0);
    expect(pick([3, 2.1], { ...GREEDY, presencePenalty: 1 }, [0])).toBe(1);
  });

  test('penalties see the last repeatLastN tokens', () => {
    const tokens = [0, ...new Array(64).fill(2)];
    const options = { ...GREEDY, presencePenalty: 1 };
    expect(pick([3, 2.1, 0], options, tokens)).toBe(0);
    expect(pick([3, 2.1, 0], options, tokens.slice(0, 64))).toBe(1);
    expect(pick([3, 2.1, 0], { ...options, repeatLastN: 65 }, tokens)).toBe(1);
    expect(pick([3, 2.1, 0], { ...options, repeatLastN: -1 }, tokens)).toBe(1);
    expect(pick([3, 2.1, 0], { ...options, repeatLastN: 0 }, [0])).toBe(0);
  });

  test('bias is added, bans and forces', () => {
    expect(pick([3, 2, 1], { ...GREEDY, logitBias: { 1: 1.5 } })).toBe(1);
    expect(pick([3, 2, 1], { ...GREEDY, logitBias: new Map([[0, -Infinity]]) })).toBe(1);
    expect(pick([3, 2, -Infinity], { logitBias: { 2: Infinity } })).toBe(2);
    expect(pick([Number.NaN, 2, 1], { logitBias: { 0: Infinity } })).toBe(0);
    expect(drawn([0.5, 0.3, 0.2], { logitBias: { 0: -Infinity, 2: -Infinity } })).toEqual([1]);
    expect(drawn([0.5, 0.3, 0.2], { logitBias: { 1: Infinity, 2: Infinity } })).toEqual([1, 2]);
  });

  test('top-k keeps k', () => {
    expect(drawn([0.2, 0.3, 0.4, 0.1], {})).toEqual([0, 1, 2, 3]);
    expect(drawn([0.2, 0.3, 0.4, 0.1], { topK: 2 })).toEqual([1, 2]);
    expect(drawn([0.25, 0.25, 0.25, 0.25], { topK: 3 })).toEqual([0, 1, 2]);
    expect(drawn([0.2, 0.3, 0.4, 0.1], { topK: 9 })).toEqual([0, 1, 2, 3]);
  });

  test('top-p keeps the token that crosses, of what top-k left', () => {
    expect(drawn([0.5, 0.3, 0.2], { topP: 0.7 })).toEqual([0, 1]);
    expect(drawn([0.5, 0.3, 0.2], { topP: 0.81 })).toEqual([0, 1, 2]);
    expect(drawn([0.25, 0.25, 0.25, 0.25], { topP: 0.5 })).toEqual([0, 1]);
    expect(drawn([0.1, 0.4, 0.2, 0.3], { topP: 0.5 })).toEqual([1, 3]);
    expect(drawn([0.1, 0.4, 0.2, 0.3], { topP: 0.5, topK: 2 })).toEqual([1]);
    expect(drawn([0.3, 0.7], { topP: 0 })).toEqual([1]);
  });

  test('weights are f64: top-p within 1e-13 of a prefix falls on the right side', () => {
    const r = random(3);
    for (const vocab of [2, 2000]) {
      for (let i = 0; i < 50; i++) {
        const logits = new Float32Array(vocab).fill(-Infinity);
        logits[1] = -8 * r.uniform();
        logits[0] = 0;
        const share = 1 / (1 + Math.exp(logits[1]));
        for (const [topP, ids] of [
          [share * (1 - 1e-13), [0]],
          [share * (1 + 1e-13), [0, 1]],
        ] as const) {
          // A temperature at which a second token, if there is one, is drawn every other time.
          const sampler = resolveSampler({ ...OPEN, temperature: 1e6, topP, seed: 2 }, vocab);
          const steps = Array.from({ length: 24 }, (_, step) => kernel(logits, sampler, step).id);
          expect([...new Set(steps)].sort(), `top-p ${topP}`).toEqual(ids);
        }
      }
    }
  });

  test('min-p compares with the likeliest', () => {
    expect(drawn([0.5, 0.3, 0.2], { minP: 0.59 })).toEqual([0, 1]);
    expect(drawn([0.5, 0.3, 0.2], { minP: 0.61 })).toEqual([0]);
    expect(drawn([0.5, 0.3, 0.2], { minP: 0.39 })).toEqual([0, 1, 2]);
    expect(drawn([0.4, 0.4, 0.2], { minP: 1 })).toEqual([0, 1]);
  });

  test('penalties come before the filters, temperature after', () => {
    expect(drawn([0.6, 0.3, 0.1], { topK: 1, presencePenalty: 1 }, [0])).toEqual([1]);
    expect(drawn([0.7, 0.2, 0.1], { topP: 0.65, temperature: 100 })).toEqual([0]);
    expect(drawn([0.7, 0.2, 0.1], { minP: 0.25, temperature: 100 })).toEqual([0, 1]);
    expect(drawn([0.5, 0.3, 0.2], { temperature: 1e-6 })).toEqual([0]);
  });

  test('logit and probability are the raw ones', () => {
    const logits = Float32Array.from([0.5, 0.3, 0.2], (p) => 2 + Math.log(p));
    const options = { temperature: 3, topK: 1, logitBias: { 2: 5 }, presencePenalty: 1 };
    const { id, logit, probability } = kernel(logits, resolveSampler(options, 3), 0, [2]);
    expect(id).toBe(2);
    expect(logit).toBe(logits[2]);
    expect(probability).toBeCloseTo(0.2, 6);
  });

  test('no candidate gives id -1', () => {
    for (const logits of [[Number.NaN], [-Infinity, Number.NaN, -Infinity, -Infinity, Number.NaN]]) {
      for (const options of [{}, GREEDY, OPEN]) expect(pick(logits, options)).toBe(-1);
    }
    expect(kernel(new Float32Array(3000).fill(Number.NaN), resolveSampler(OPEN, 3000))).toEqual({
      id: -1,
      logit: Number.NaN,
      probability: 0,
    });
    expect(pick([1, 2], { logitBias: { 0: -Infinity, 1: -Infinity } })).toBe(-1);
  });
});

describe('the draw', () => {
  /** Pearson's statistic of draws against probabilities. */
  function chiSquare(counts: readonly number[], probabilities: readonly number[], draws: number): number {
    return counts.reduce((sum, n, i) => sum + (n - draws * probabilities[i]) ** 2 / (draws * probabilities[i]), 0);
  }

  test('follows softmax(logits / temperature)', () => {
    const logits = Float32Array.of(1, -1, 0.5, 2, 0, 1.5, -2, 0.25);
    for (const temperature of [0.5, 1, 2]) {
      const weights = Array.from(logits, (z) => Math.exp(z / temperature));
      const total = weights.reduce((a, b) => a + b);
      const counts = new Array(8).fill(0);
      const sampler = resolveSampler({ ...OPEN, temperature, seed: 20 }, 8);
      for (let step = 0; step < 4000; step++) counts[kernel(logits, sampler, step).id]++;
      // 7 degrees of freedom: 24.3 has probability 0.001.
      const probabilities = weights.map((w) => w / total);
      expect(chiSquare(counts, probabilities, 4000)).toBeLessThan(24.3);
    }
  });

  test('follows it over a vocabulary too long to sort, in 16 groups of equal logits', () => {
    const logits = Float32Array.from({ length: 2048 }, (_, id) => ((id * 7) % 16) / 4);
    const weights = Array.from({ length: 16 }, (_, group) => Math.exp(group / 4));
    const total = weights.reduce((a, b) => a + b);
    const counts = new Array(16).fill(0);
    const ids = new Set<number>();
    const sampler = resolveSampler({ ...OPEN, seed: 5 }, 2048);
    for (let step = 0; step < 5000; step++) {
      const { id } = kernel(logits, sampler, step);
      counts[(id * 7) % 16]++;
      ids.add(id);
    }
    // 15 degrees of freedom: 37.7 has probability 0.001.
    expect(
      chiSquare(
        counts,
        weights.map((w) => w / total),
        5000,
      ),
    ).toBeLessThan(37.7);
    // Of 128 equal ones no few are favoured: 5000 draws leave about 400 of the 2048 ids out.
    expect(ids.size).toBeGreaterThan(1300);
  });

  test('depends on seed and step alone', () => {
    const logits = random(1).normal(512);
    const sequence = (seed: number) => {
      const sampler = resolveSampler({ ...OPEN, seed }, 512);
      return Array.from({ length: 32 }, (_, step) => kernel(logits, sampler, step).id);
    };
    const ids = sequence(7);
    expect(sequence(7)).toEqual(ids);
    // No sequence is another one shifted, and all 64 bits of the seed count.
    for (const seed of [8, -7, 7 + 2 ** 32, 7 - 2 ** 40]) {
      const other = sequence(seed);
      for (let shift = -3; shift <= 3; shift++) {
        const same = other.filter((id, i) => id === ids[i + shift]).length;
        expect(same, `seed ${seed}, shift ${shift}`).toBeLessThan(8);
      }
    }
  });
});

describe('options', () => {
  test('defaults are those of llama.cpp', () => {
    expect(resolveSampler({ seed: 3 }, 10)).toEqual({
      temperature: 0.8,
      topK: 40,
      topP: 0.95,
      minP: 0.05,
      repeatPenalty: 1,
      repeatLastN: 64,
      frequencyPenalty: 0,
      presencePenalty: 0,
      biasIds: new Int32Array(0),
      biases: new Float32Array(0),
      seed: 3,
    });
  });

  test('a seed is drawn where none is given, and told', () => {
    const seeds = [{}, {}, { seed: -1 }, { seed: -1 }].map((options) => resolveSampler(options, 10).seed);
    expect(new Set(seeds).size).toBe(4);
    for (const seed of seeds) expect(Number.isInteger(seed) && seed >= 0).toBe(true);
  });

  test('bias by object and by Map', () => {
    const { biasIds, biases } = resolveSampler({ logitBias: { 4: -Infinity, 9: 1.5 } }, 10);
    expect([...biasIds, ...biases]).toEqual([4, 9, -Infinity, 1.5]);
    const map = resolveSampler({ logitBias: new Map([[9, 1.5]]) }, 10);
    expect([...map.biasIds, ...map.biases]).toEqual([9, 1.5]);
  });

  const many = Object.fromEntries(Array.from({ length: 1025 }, (_, id) => [id, 1]));
  test.each([
    [{ temperature: Number.NaN }, 'temperature: expected a finite number, got NaN'],
    [{ temperature: Infinity }, 'temperature: expected a finite number, got Infinity'],
    [{ topK: 1.5 }, 'topK: expected an integer, got 1.5'],
    [{ topP: 1.01 }, 'topP: expected a number from 0 to 1, got 1.01'],
    [{ topP: '0.5' }, 'topP: expected a number from 0 to 1, got "0.5"'],
    [{ topP: null }, 'topP: expected a number from 0 to 1, got null'],
    [{ minP: -0.1 }, 'minP: expected a number from 0 to 1, got -0.1'],
    [{ repeatPenalty: 0 }, 'repeatPenalty: expected a number above 0, got 0'],
    [{ repeatPenalty: 1e-60 }, 'repeatPenalty: expected a number above 0, got 1e-60'],
    [{ repeatLastN: -2 }, 'repeatLastN: expected an integer from -1 up, got -2'],
    [{ frequencyPenalty: 1e39 }, 'frequencyPenalty: expected a finite number, got 1e+39'],
    [{ presencePenalty: Number.NaN }, 'presencePenalty: expected a finite number, got NaN'],
    [{ seed: 0.5 }, 'seed: expected an integer of at most 53 bits, got 0.5'],
    [{ seed: 2 ** 53 }, 'seed: expected an integer of at most 53 bits, got 9007199254740992'],
    [{ logitBias: 3 }, 'logitBias: expected an object or a Map, got 3'],
    [{ logitBias: null }, 'logitBias: expected an object or a Map, got null'],
    [{ logitBias: { 2000: 1 } }, 'logitBias: expected token ids from 0 to 1999, got "2000"'],
    [{ logitBias: { '-1': 1 } }, 'logitBias: expected token ids from 0 to 1999, got "-1"'],
    [{ logitBias: { '': 1 } }, 'logitBias: expected token ids from 0 to 1999, got ""'],
    [{ logitBias: { 7: Number.NaN } }, 'logitBias[7]: expected a number, got NaN'],
    [{ logitBias: many }, 'logitBias: expected at most 1024 token ids, got 1025'],
  ])('%j is refused', (options, message) => {
    expect(() => resolveSampler(options as SamplerOptions, 2000)).toThrow(new RangeError(message));
  });
});

test('params have room for a context of tokens and 1024 biases', () => {
  const logitBias = Object.fromEntries(Array.from({ length: 1024 }, (_, id) => [2 * id, id / 1024]));
  const sampler = resolveSampler({ logitBias, presencePenalty: 1, repeatLastN: -1, seed: -5 }, 4096);
  const row = new DataView(new ArrayBuffer(paramsBytes(CONTEXT)));
  const tokens = Int32Array.from({ length: CONTEXT }, (_, i) => 8 * i);
  const bytes = writeParams(row, sampler, 9, tokens, CONTEXT);
  expect(bytes).toBe(64 + 8 * 1024 + 4 * CONTEXT);
  expect(row.byteLength % 64).toBe(0);
  expect(row.getBigInt64(0, true)).toBe(-5n);
  expect(row.getUint32(8, true)).toBe(9);
  expect(row.getInt32(64 + 8 * 1023, true)).toBe(2046);
  expect(row.getInt32(bytes - 4, true)).toBe(8 * (CONTEXT - 1));
  const logits = random(4).normal(4096);
  agree(kernel(logits, sampler, 9, tokens), specified(logits, sampler, 9, tokens), 'full params');
});

test(`time of the chain over ${LARGEST} logits`, () => {
  const r = random(2);
  const logits = r.normal(LARGEST, 2.5);
  const tokens = Int32Array.from({ length: 64 }, () => r.below(LARGEST));
  const cases: Record<string, SamplerOptions> = {
    default: {},
    greedy: GREEDY,
    penalties: { repeatPenalty: 1.1, frequencyPenalty: 0.1, presencePenalty: 0.1 },
    'top-k off': { topK: 0 },
    'all off': OPEN,
  };
  const lines: string[] = [];
  for (const [name, options] of Object.entries(cases)) {
    const sampler = resolveSampler({ seed: 1, ...options }, LARGEST);
    const times = benches.map((bench) => {
      bench.logits(LARGEST).set(logits);
      const ms: number[] = [];
      for (let step = 0; step < 41; step++) {
        writeParams(bench.params, sampler, step, tokens, tokens.length);
        bench.run(LARGEST);
        ms.push(bench.ms);
      }
      ms.sort((a, b) => a - b);
      return { median: ms[20], least: ms[0] };
    });
    const text = times.map(({ median, least }, i) => `${MODULES[i]} ${median.toFixed(2)} (${least.toFixed(2)})`);
    lines.push(`${name}: ${text.join(', ')}`);
    if (name === 'default') for (const { median } of times) expect(median).toBeLessThan(20);
  }
  console.log(`sample, ${LARGEST} logits, median (least) ms of 41 runs: ${lines.join('; ')}`);
});
