import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend, Matrix, Norm, Ops, Program } from '../dist/backend/backend.js';
import { type ConvertOptions, convert } from '../dist/convert/convert.js';
import { ConvertError } from '../dist/convert/error.js';
import type { Written } from '../dist/convert/output.js';
import { type Floats, quantize } from '../dist/convert/quantize.js';
import { evaluate } from '../dist/evaluate.js';
import { readHeader } from '../dist/gguf/header.js';
import { decode } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import { loadModel, type Model } from '../dist/index.js';
import { readConfig } from '../dist/model/config.js';
import { loadWeights } from '../dist/model/weights.js';
import { type ReferenceTensor, referenceBackend } from '../dist/reference/backend.js';
import { toBf16 } from '../dist/reference/f16.js';
import { rmsNorm } from '../dist/reference/rms_norm.js';
import { agree } from './agree.js';
import './dot_add.js';
import { denseBytes, random } from './random.js';
import { rewrite } from './rewrite.js';

const path = (file: string) => fileURLToPath(new URL(`./golden/${file}`, import.meta.url));
const TINY = readFileSync(path('models/tiny-bitnet-b1.58-i2_s.gguf'));
const SAMPLE = 'Once upon a time there was a king who had three sons, and the youngest went out into the wide world.';
const MATRIX = /^blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$/;

const scratch = mkdtempSync(join(tmpdir(), 'ternlm-calibrate-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** The checkpoint of a folder as `convert` takes it. */
const folder = (name: string) => ({
  name,
  open: async (file: string) => {
    const at = path(`transformers/${name}/${file}`);
    return existsSync(at) ? openSource(new Uint8Array(readFileSync(at))) : undefined;
  },
});

async function converted(
  input: Parameters<typeof convert>[0],
  options: ConvertOptions,
): Promise<Written & { file: Uint8Array }> {
  const pieces: Uint8Array[] = [];
  const written = await convert(input, { write: (_, bytes) => void pieces.push(bytes.slice()) }, options);
  return { ...written, file: new Uint8Array(Buffer.concat(pieces)) };
}

/** The tiny golden model with random matrices, normal and so not ternary, in F16. */
const dense = rewrite(TINY, (tensor) => {
  if (!MATRIX.test(tensor.name)) return [tensor];
  const [cols, rows] = tensor.dims;
  const values = random(cols + rows + tensor.name.length).normal(cols * rows, 1 / Math.sqrt(cols));
  return [{ ...tensor, type: 'F16', packed: denseBytes('f16', values) }];
});

async function tensorsOf(file: Uint8Array): Promise<Map<string, { dims: readonly number[]; values: Float32Array }>> {
  const { tensors } = await readHeader(await openSource(file));
  return new Map(
    [...tensors.values()].map(({ name, type, dims, at, bytes }) => {
      return [name, { dims, values: decode(type, file.subarray(at, at + bytes), dims, name) }];
    }),
  );
}

type Sums = Map<Matrix<ReferenceTensor>, Float64Array>;

/** The reference, op by op, which adds up what each matrix is given: its own norms, its own sums. */
function observed(sums: Sums): Backend<ReferenceTensor> {
  const inner = referenceBackend();
  // The reference's run is over when it returns.
  const now = (build: () => void) => void inner.run(inner.record(build));
  type N = Norm<ReferenceTensor> | undefined;
  const normed = (x: Float32Array, norm: N) =>
    norm === undefined ? x : rmsNorm(x, new Float32Array(norm.weight.buffer).subarray(0, x.length), norm.eps);
  const look = (rows: number, x: ReferenceTensor, norm: N, w: Matrix<ReferenceTensor>, own?: N) => {
    const sum = sums.get(w) ?? new Float64Array(w.cols);
    sums.set(w, sum);
    for (let r = 0; r < rows; r++) {
      const row = new Float32Array(x.buffer, 4 * r * w.cols, w.cols);
      for (const [i, value] of normed(normed(row, norm), own).entries()) sum[i] += value * value;
    }
  };
  const ops: Ops<ReferenceTensor> = {
    ...inner.ops,
    embed: (op) => now(() => inner.ops.embed(op)),
    qkv(op) {
      for (const [i, w] of [op.wq, op.wk, op.wv].entries()) look(op.rows, op.x, op.norm, w, op.inputNorms?.[i]);
      now(() => inner.ops.qkv(op));
    },
    attention: (op) => now(() => inner.ops.attention(op)),
    attnOut(op) {
      look(op.rows, op.attn, op.norm, op.wo);
      now(() => inner.ops.attnOut(op));
    },
    gateUp(op) {
      for (const [i, w] of [op.gate, op.up].entries()) look(op.rows, op.x, op.norm, w, op.inputNorms?.[i]);
      now(() => inner.ops.gateUp(op));
    },
    down(op) {
      look(op.rows, op.h, op.norm, op.wdown);
      now(() => inner.ops.down(op));
    },
  };
  const builds = new WeakMap<Program, () => void>();
  return {
    ...inner,
    ops,
    record(build) {
      const program = { free() {} };
      builds.set(program, build);
      return program;
    },
    start(program, _repeats, _results, done) {
      builds.get(program)?.();
      done();
    },
  };
}

describe.each([
  ['bitnet-b1.58: sub-norms', () => dense],
  [
    'gemma3: a norm for each matrix, norms behind, no head',
    async () => (await converted(folder('gemma3'), { type: 'F16' })).file,
  ],
] as const)('activations of %s', (_, fileOf) => {
  let file: Uint8Array;
  let model: Model;
  beforeAll(async () => {
    file = await fileOf();
    model = await loadModel(file, { threads: 2, kv: 'f32' });
  });
  afterAll(() => model.dispose());

  it('are what the matrices of the reference are given', async () => {
    const source = await openSource(file);
    const header = await readHeader(source);
    const config = { ...readConfig(header, 'model'), headTensor: undefined };
    const sums: Sums = new Map();
    const backend = observed(sums);
    const loaded = await loadWeights(referenceBackend(), source, header, readConfig(header, 'model'));
    const weights = { ...loaded, head: undefined, screen: undefined };
    const tokens = await model.tokenize(SAMPLE);
    expect(tokens.length).toBeGreaterThan(20);
    await evaluate({ backend, config, weights }, [tokens], { kv: 'f32', rows: 16, wanted: () => false, onOut() {} });

    const actual = await model.activations(SAMPLE);
    const matrices = weights.layers.flatMap(({ wq, wk, wv, wo, gate, up, down }, layer) =>
      Object.entries({
        attn_q: wq,
        attn_k: wk,
        attn_v: wv,
        attn_output: wo,
        ffn_gate: gate,
        ffn_up: up,
        ffn_down: down,
      }).map(([name, w]) => [`blk.${layer}.${name}.weight`, w] as const),
    );
    expect([...actual.keys()]).toEqual(matrices.map(([name]) => name));
    for (const [name, w] of matrices) {
      const expected = (sums.get(w) as Float64Array).map((sum) => sum / tokens.length);
      const mean = expected.reduce((a, b) => a + b, 0) / expected.length;
      expect(mean).toBeGreaterThan(0);
      const bound = expected.map((x) => 1e-3 * (x + mean));
      agree({ op: name, seed: 0, expected, actual: actual.get(name) as Float32Array, bound });
    }
  });

  it('begin with the embedding, normalised', async () => {
    const tensors = await tensorsOf(file);
    const at = (name: string) => (tensors.get(name) as { values: Float32Array }).values;
    const { dim } = model.info;
    const { eps, embeddingScale } = readConfig(await readHeader(await openSource(file)), 'model');
    const [first, own] = ['blk.0.attn_norm.weight', 'blk.0.attn_q_norm_in.weight'].map((n) => tensors.get(n)?.values);
    const expected = new Float64Array(dim);
    const tokens = await model.tokenize(SAMPLE);
    for (const token of tokens) {
      let x = Array.from(
        at('token_embd.weight').subarray(token * dim, (token + 1) * dim),
        (v) => v * (embeddingScale ?? 1),
      );
      for (const norm of [first, own]) {
        if (norm === undefined) continue;
        const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / dim + eps);
        x = x.map((v, i) => (v / root) * norm[i]);
      }
      x.forEach((v, i) => {
        expected[i] += (v * v) / tokens.length;
      });
    }
    const actual = (await model.activations(SAMPLE)).get('blk.0.attn_q.weight') as Float32Array;
    agree({ op: 'attn_q', seed: 0, expected, actual, bound: expected.map((x) => 1e-5 * x) });
  });

  it('of a longer text are the mean of its pieces; a signal ends them', async () => {
    const tokens = await model.tokenize(SAMPLE, { addSpecial: false });
    const seen: number[] = [];
    const options = { contextSize: 8, onProgress: ({ tokens }: { tokens: number }) => void seen.push(tokens) };
    await model.activations(SAMPLE, options);
    expect(seen.length).toBeGreaterThanOrEqual(Math.floor(tokens.length / 8));
    expect(seen.at(-1)).toBe(8 * seen.length);
    await expect(model.activations(SAMPLE, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
    await expect(model.activations(SAMPLE, { contextSize: 0 })).rejects.toThrow(/^contextSize: got 0/);
  });
});

const floatsOf = (values: Float32Array, cols: number): Floats => ({
  rows: values.length / cols,
  cols,
  where: 'w',
  row: (r) => values.subarray(r * cols, (r + 1) * cols),
});

/** Sum of h (w - s t)^2. */
function weightedError(w: Float32Array, h: Float32Array, { weights, scales }: ReturnType<typeof quantize>): number {
  const width = w.length / scales.length;
  return w.reduce((sum, x, i) => sum + h[i % h.length] * (x - scales[Math.floor(i / width)] * weights[i]) ** 2, 0);
}

describe('rounding by importance', () => {
  const matrices = fc
    .record({ seed: fc.nat(), rows: fc.integer({ min: 1, max: 4 }), block: fc.constantFrom(undefined, 256, 512) })
    .map(({ seed, rows, block }) => {
      const r = random(seed);
      const w = r.normal(rows * 512);
      const heavy = 1 + r.below(6);
      for (let i = 0; i < w.length; i++) w[i] *= r.below(10) === 0 ? heavy : 1;
      const h = r.normal(512).map((x) => (x > 1.5 ? 0 : Math.exp(heavy * x)));
      return { w, h, block };
    });

  it('is never worse than the absmean, and mostly better', () => {
    let better = 0;
    fc.assert(
      fc.property(matrices, ({ w, h, block }) => {
        const made = quantize(floatsOf(w, 512), block, h);
        const plain = quantize(floatsOf(w, 512), block);
        const [taken, absmean] = [weightedError(w, h, made), weightedError(w, h, plain)];
        expect(taken).toBeLessThanOrEqual(absmean * (1 + 1e-6));
        expect(made.error?.taken).toBeCloseTo(taken, -Math.log10(taken) + 4);
        expect(made.error?.absmean).toBeCloseTo(absmean, -Math.log10(absmean) + 4);
        better += +(taken < 0.99 * absmean);
      }),
      { numRuns: 60 },
    );
    expect(better).toBeGreaterThan(50);
  });

  it('is the best of all codes there are', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 9 }), (seed, n) => {
        const r = random(seed);
        const w = r.normal(n).map((x) => new Float32Array(Uint32Array.of(toBf16(x) << 16).buffer)[0]);
        const h = r.normal(n).map((x) => x * x);
        let best = Number.POSITIVE_INFINITY;
        for (let set = 1; set < 2 ** n; set++) {
          const weights = Int8Array.from(w, (x, i) => ((set >> i) & 1) * Math.sign(x));
          const [a, b] = [0, 1].map((power) =>
            w.reduce((sum, x, i) => sum + h[i] * Math.abs(weights[i]) * Math.abs(x) ** (1 - power), 0),
          );
          best = Math.min(best, weightedError(w, h, { weights, scales: Float32Array.of(a / b) }));
        }
        const power = w.reduce((sum, x, i) => sum + h[i] * x * x, 0);
        expect(weightedError(w, h, quantize(floatsOf(w, n), undefined, h)) - best).toBeLessThan(1e-6 * power);
      }),
      { numRuns: 100 },
    );
  });

  it('is the absmean where nothing is seen, and refuses what is not finite', () => {
    const w = random(1).normal(256);
    const { weights, scales } = quantize(floatsOf(w, 256), undefined, new Float32Array(256));
    expect({ weights, scales }).toEqual({ ...quantize(floatsOf(w, 256)), error: undefined, weights, scales });
    expect(scales).toEqual(quantize(floatsOf(w, 256)).scales);
    w[17] = Number.NaN;
    expect(() => quantize(floatsOf(w, 256), undefined, new Float32Array(256))).toThrow(/w: holds a weight that is NaN/);
  });

  it('keeps what is ternary, and refuses importance of another model', async () => {
    const source = await openSource(TINY);
    const importance = await activationsOf(TINY);
    const plain = await converted(source, { type: 'I2_S', quantize: true });
    const weighted = await converted(source, { type: 'I2_S', quantize: true, importance });
    expect(Buffer.compare(weighted.file, plain.file)).toBe(0);
    expect(weighted.matrices).toEqual([]);
    const [name] = importance.keys();
    for (const wrong of [
      undefined,
      new Float32Array(3),
      (importance.get(name) as Float32Array).map(() => Number.NaN),
    ]) {
      const others = new Map([...importance].filter(([key]) => key !== name));
      if (wrong !== undefined) others.set(name, wrong);
      const options = { type: 'I2_S', quantize: true, importance: others } as const;
      await expect(converted(source, options)).rejects.toThrow(
        /^importance: .* for blk\.0\.attn_q\.weight, expected \d+ /,
      );
    }
  });

  it('is written: the error that is told is the file’s', async () => {
    const file = await dense;
    const importance = await activationsOf(file);
    const before = await tensorsOf(file);
    const written = await converted(await openSource(file), { type: 'I2_S', quantize: true, importance });
    const after = await tensorsOf(written.file);
    expect(written.matrices.map(({ name }) => name).sort()).toEqual([...importance.keys()].sort());
    for (const { name, error } of written.matrices) {
      const h = importance.get(name) as Float32Array;
      const [w, q] = [before, after].map((tensors) => (tensors.get(name) as { values: Float32Array }).values);
      const sum = w.reduce((total, x, i) => total + h[i % h.length] * (x - q[i]) ** 2, 0);
      const { power, absmean, taken } = error as { power: number; absmean: number; taken: number };
      expect(sum / power).toBeCloseTo(taken / power, 6);
      expect(taken).toBeLessThan(absmean);
    }
  });
});

const models = new Map<Uint8Array, Promise<Map<string, Float32Array>>>();
/** Of SAMPLE. */
function activationsOf(file: Uint8Array): Promise<Map<string, Float32Array>> {
  const known =
    models.get(file) ??
    (async () => {
      const model = await loadModel(file, { threads: 1 });
      const seen = await model.activations(SAMPLE);
      await model.dispose();
      return seen;
    })();
  models.set(file, known);
  return known;
}

const same = (a: Float32Array | undefined, b: Float32Array) => a?.length === b.length && a.every((x, i) => x === b[i]);

describe('pruning', () => {
  it.each([
    ['floats by size', () => dense, 'F16', false],
    ['floats by what they do', () => dense, 'F16', true],
    ['ternary weights by what they do', async () => TINY, 'I2_S', true],
  ] as const)('of %s takes the smallest, up to the ratio', async (_, fileOf, type, weighs) => {
    const file = await fileOf();
    const seen = await activationsOf(file);
    const before = await tensorsOf(file);
    const options = { type, importance: weighs ? seen : undefined, prune: { ratio: 0.6 } };
    const written = await converted(await openSource(file), options);
    const after = await tensorsOf(written.file);
    expect(written.matrices.length).toBe(seen.size);
    for (const { name, pruned, zeros, weights } of written.matrices) {
      const [w, q] = [before, after].map((tensors) => (tensors.get(name) as { values: Float32Array }).values);
      const h = seen.get(name) as Float32Array;
      let [given, dropped, most, least, changed] = [0, 0, 0, Number.POSITIVE_INFINITY, 0];
      for (let i = 0; i < w.length; i++) {
        const score = Math.abs(w[i]) * (weighs ? Math.sqrt(h[i % h.length]) : 1);
        given += +(w[i] === 0);
        dropped += +(q[i] === 0);
        changed += +(q[i] !== 0 && q[i] !== w[i]);
        if (q[i] === 0) most = Math.max(most, score);
        else least = Math.min(least, score);
      }
      expect(changed).toBe(0);
      expect(dropped).toBe(Math.max(given, Math.ceil(0.6 * w.length)));
      expect(least).toBeGreaterThanOrEqual(most * (1 - 1e-6));
      expect({ zeros, pruned, weights }).toEqual({ zeros: dropped, pruned: dropped - given, weights: w.length });
    }
    for (const [name, { values }] of before)
      if (!MATRIX.test(name)) expect(same(after.get(name)?.values, values)).toBe(true);
  });

  it.each([true, false])('of neurons takes those that add least, with a sample: %s', async (weighs) => {
    const file = await dense;
    const seen = await activationsOf(file);
    const before = await tensorsOf(file);
    const options = { importance: weighs ? seen : undefined, prune: { ratio: 0.25, structured: true } };
    const written = await converted(await openSource(file), { type: 'F16', ...options });
    const after = await tensorsOf(written.file);
    const valuesOf = (tensors: typeof before, name: string) => (tensors.get(name) as { values: Float32Array }).values;
    const blocks = [...seen.keys()].filter((name) => name.endsWith('ffn_down.weight'));
    expect(blocks.length).toBeGreaterThan(1);
    for (const name of blocks) {
      const [neurons, dim] = (before.get(name) as { dims: readonly number[] }).dims;
      const [gate, up, down] = ['gate', 'up', 'down'].map((which) => name.replace('down', which));
      const rowOf = (tensors: typeof before, of: string, n: number) =>
        valuesOf(tensors, of).subarray(n * dim, (n + 1) * dim);
      const columnOf = (tensors: typeof before, n: number) =>
        Float32Array.from({ length: dim }, (_, r) => valuesOf(tensors, down)[r * neurons + n]);
      const norm = (x: Float32Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
      const scores = Array.from({ length: neurons }, (_, n) => {
        const column = norm(columnOf(before, n));
        if (weighs) return column * Math.sqrt((seen.get(name) as Float32Array)[n]);
        return column * norm(rowOf(before, gate, n)) * norm(rowOf(before, up, n));
      });
      const dropped = scores.map((_, n) => {
        const parts = [gate, up].map((of) => [rowOf(before, of, n), rowOf(after, of, n)] as const);
        const all = [...parts, [columnOf(before, n), columnOf(after, n)] as const];
        const isGone = all[0][1].every((x) => x === 0);
        const isRight = all.every(([was, is]) => is.every((x, i) => x === (isGone ? 0 : was[i])));
        if (!isRight) throw new Error(`neuron ${n} of ${name} is neither whole nor gone`);
        return isGone;
      });
      const order = scores.map((_, n) => n).sort((a, b) => scores[a] - scores[b]);
      const least = new Set(order.slice(0, Math.ceil(neurons / 4)));
      expect(dropped).toEqual(dropped.map((_, n) => least.has(n)));
    }
    const attention = [...before.keys()].filter((name) => /attn_(q|k|v|output)\.weight/.test(name));
    for (const name of attention) expect(same(valuesOf(after, name), valuesOf(before, name))).toBe(true);
    expect(written.matrices.every(({ name }) => name.includes('ffn_'))).toBe(true);
  });

  it('comes before the rounding, whose scale is that of what is left', async () => {
    const file = await dense;
    const left = await tensorsOf(
      (await converted(await openSource(file), { type: 'F16', prune: { ratio: 0.5 } })).file,
    );
    const options = { type: 'I2_S', quantize: true, prune: { ratio: 0.5 } } as const;
    const written = await tensorsOf((await converted(await openSource(file), options)).file);
    for (const [name, { values }] of left) {
      if (!MATRIX.test(name)) continue;
      const rest = values.filter((x) => x !== 0);
      const mean = rest.reduce((sum, x) => sum + Math.abs(x), 0) / rest.length;
      const made = (written.get(name) as { values: Float32Array }).values;
      expect(made.reduce((a, b) => Math.max(a, b))).toBeCloseTo(mean, 6);
      expect(made.every((x, i) => x === 0 || Math.sign(x) === Math.sign(values[i]))).toBe(true);
    }
  });

  it('says what it cannot do', async () => {
    const source = await openSource(TINY);
    const prune = { ratio: 0.5 };
    await expect(converted(source, { type: 'I2_S', prune })).rejects.toThrow(ConvertError);
    await expect(converted(source, { type: 'I2_S', prune })).rejects.toThrow(/one size: .* a sample text/);
    for (const ratio of [-0.1, 1.1, Number.NaN]) {
      await expect(converted(source, { type: 'I2_S', prune: { ratio } })).rejects.toThrow(
        /^prune: ratio .* from 0 to 1/,
      );
    }
    await expect(converted(await openSource(await dense), { type: 'I2_S', prune })).rejects.toThrow(/are not ternary/);
  });
});

describe('ternlm convert', () => {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const text = join(scratch, 'sample.txt');
  const model = join(scratch, 'dense.gguf');
  beforeAll(async () => {
    writeFileSync(text, SAMPLE.repeat(20));
    writeFileSync(model, await dense);
  });

  function ternlm(args: readonly string[], onStart?: (child: ChildProcess) => void) {
    const child = spawn(process.execPath, [main, 'convert', ...args]);
    onStart?.(child);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (piece: string) => {
        output += piece;
      });
    }
    return new Promise<{ code: number | null; output: string }>((resolve) => {
      child.on('close', (code) => resolve({ code, output }));
    });
  }
  const empty = (name: string) => {
    const dir = mkdtempSync(join(scratch, name));
    return { dir, out: join(dir, 'out.gguf') };
  };

  it('calibrates, and tells perplexities and errors that are those of the files', async () => {
    const { dir, out } = empty('works-');
    const { code, output } = await ternlm([model, out, '--quantize', '--calibrate', text]);
    expect({ code, output }).toEqual({
      code: 0,
      output: expect.stringMatching(/^matrix +weights +now 0 +error of absmean +calibrated$/m),
    });
    expect(readdirSync(dir)).toEqual(['out.gguf']);
    const told =
      /perplexity of sample\.txt: ([\d.]+) before, ([\d.]+) after \(loss ([\d.]+) to ([\d.]+) nats a token, ([+-][\d.]+)\)/.exec(
        output,
      );
    const measured = await Promise.all(
      [model, out].map(async (file) => {
        const loaded = await loadModel(file, { threads: 1 });
        const result = await loaded.perplexity(readFileSync(text, 'utf8'));
        await loaded.dispose();
        return result;
      }),
    );
    const [before, after, lossBefore, lossAfter, rise] = told?.slice(1).map(Number) ?? [];
    expect(Math.abs(before / measured[0].perplexity - 1)).toBeLessThan(1e-3);
    expect(Math.abs(after / measured[1].perplexity - 1)).toBeLessThan(1e-3);
    expect(rise).toBeCloseTo(lossAfter - lossBefore, 3);
    expect(output).toMatch(/this text, which flatters it; measure on another one: ternlm perplexity/);
  });

  it('prunes a checkpoint that it runs itself', async () => {
    const { dir, out } = empty('folder-');
    const args = ['--type', 'f16', '--prune', '0.5', '--structured', '--calibrate', text];
    const { code, output } = await ternlm([path('transformers/bitnet-master'), out, ...args]);
    expect({ code, output }).toEqual({
      code: 0,
      output: expect.stringMatching(/^ffn_down .* %.*perplexity of sample\.txt/ms),
    });
    expect(readdirSync(dir)).toEqual(['out.gguf']);
  });

  it.each([
    ['without what it weighs', [model], ['--calibrate', text], /--calibrate: expected --quantize or --prune/],
    ['neurons without a ratio', [model], ['--quantize', '--structured'], /--structured: expected --prune/],
    [
      'a ratio above 1',
      [model],
      ['--prune', '1.5', '--type', 'f16'],
      /--prune: ratio 1\.5, expected a number from 0 to 1/,
    ],
    [
      'a sample that is not there',
      [model],
      ['--quantize', '--calibrate', join(scratch, 'none.txt')],
      /none\.txt: no such file/,
    ],
    [
      'ternary weights without a sample',
      [path('models/tiny-bitnet-b1.58-i2_s.gguf')],
      ['--prune', '0.5'],
      /a sample text/,
    ],
  ] as const)('refuses %s, and leaves nothing', async (_, input, args, line) => {
    const { dir, out } = empty('refused-');
    const { code, output } = await ternlm([...input, out, ...args]);
    expect({ code, output }).toEqual({ code: 1, output: expect.stringMatching(line) });
    expect(readdirSync(dir)).toEqual([]);
  });

  it('leaves nothing when it is ended', async () => {
    const { dir } = empty('ended-');
    const source = join(dir, 'checkpoint');
    cpSync(path('transformers/bitnet-master'), source, { recursive: true });
    const long = join(dir, 'long.txt');
    writeFileSync(long, SAMPLE.repeat(4000));
    const there = readdirSync(dir).sort();
    let sawFile = false;
    const { code, output } = await ternlm(
      [source, join(dir, 'out.gguf'), '--quantize', '--calibrate', long],
      async (child) => {
        while (child.exitCode === null && !readdirSync(dir).some((name) => name.endsWith('.part'))) await sleep(20);
        sawFile = readdirSync(dir).some((name) => name.endsWith('.part'));
        await sleep(1000); // on its way through the text
        child.kill('SIGTERM');
      },
    );
    expect({ code, sawFile, output }).toEqual({ code: 143, sawFile: true, output: '' });
    expect(readdirSync(dir).sort()).toEqual(there);
  });
});
