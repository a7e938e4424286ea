import { PICK_BYTES, paramsBytes, readPick, resolveSampler, type SamplerOptions, writeParams } from '../../sampler.ts';
import type { Activation, Backend, DenseType, KvType, Matrix, Norm, Ops, Tensor, WeightType } from '../backend.ts';

// Every op on small inputs, to see whether an engine computes what the kernels say. The kernels themselves are held to the
// reference by test/contract.ts, in far more shapes.

/** What one op left. */
export interface Answer {
  readonly op: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /**
   * How near another implementation must come: `equal` where the arithmetic is integer or rounded as specified, else within
   * 1e-3 of the largest magnitude; of each number where they are picked tokens.
   */
  readonly kind: 'equal' | 'close' | 'picks' | 'best';
}

/** Types that are not in tiles. */
type FlatType = Exclude<WeightType, 'tl1' | 'tl2'>;

/** Places the inputs of a case: seeded, so the same on every backend. */
interface Bench<T extends Tensor> {
  readonly ops: Ops<T>;
  readonly scratch: T;
  out(floats: number): T;
  ints(...values: number[]): T;
  /** Of magnitudes from 0.5 to 2. */
  floats(n: number): T;
  weights(type: FlatType, rows: number, cols: number): Matrix<T>;
  /** 64 rows of tiles of 32 x 96. */
  tiled(type: 'tl1' | 'tl2', cols: number): Matrix<T>;
  norm(dim: number): Norm<T>;
  screenBytes(rows: number, cols: number): number;
  /** `params` of a row for each. */
  samplers(all: readonly SamplerOptions[]): T;
}

/** Enqueues an op and returns where it leaves numbers. */
type Case = <T extends Tensor>(bench: Bench<T>) => T[];

const VOCAB = 203;
const PARAMS_BYTES = paramsBytes(4);

const embed =
  (type: DenseType): Case =>
  ({ ops, ints, weights, out }) => {
    const [rows, dim, x] = [2, 256, out(2 * 256)];
    ops.embed({ rows, dim, type, tokens: ints(2, 0), table: weights(type, 3, dim).tensor, x });
    return [x];
  };

// Rows of W that are no whole tile, batches below one and with an odd row over, columns beyond what an i16 accumulator takes
// before it is widened.

const qkv =
  (rows: number, cols: number, type: FlatType = 'i2_s'): Case =>
  ({ ops, floats, norm, weights, out, scratch }) => {
    const [wq, wk, wv] = [7, 4, 1].map((m) => weights(type, m, cols));
    const [q, k, v] = [out(rows * 7), out(rows * 4), out(rows)];
    ops.qkv({ rows, x: floats(rows * cols), norm: norm(cols), wq, wk, wv, q, k, v, scratch });
    return [q, k, v];
  };

const attnOut =
  (rows: number): Case =>
  ({ ops, floats, weights, scratch }) => {
    const x = floats(rows * 5);
    ops.attnOut({ rows, attn: floats(rows * 1152), norm: undefined, wo: weights('i2_s', 5, 1152), x, scratch });
    return [x];
  };

const down =
  (rows: number, type: FlatType = 'i2_s'): Case =>
  ({ ops, floats, norm, weights, scratch }) => {
    const x = floats(rows * 5);
    ops.down({ rows, h: floats(rows * 256), norm: norm(256), wdown: weights(type, 5, 256), x, scratch });
    return [x];
  };

const gateUp =
  (activation: Activation): Case =>
  ({ ops, floats, norm, weights, out: output, scratch }) => {
    const [gate, up] = [weights('i2_s', 11, 128), weights('i2_s', 11, 128)];
    const out = output(2 * 11);
    ops.gateUp({ rows: 2, x: floats(2 * 128), norm: norm(128), gate, up, activation, out, scratch });
    return [out];
  };

const head =
  (type: DenseType): Case =>
  ({ ops, ints, floats, norm, weights, out, scratch }) => {
    const [outs, logits] = [2, out(2 * 3)];
    const cols = type.startsWith('q') ? 256 : 264; // whole blocks, or half a step of 16 over
    const w = weights(type, 3, cols);
    ops.head({
      outs,
      index: ints(1, 0),
      x: floats(outs * cols),
      norm: norm(cols),
      w,
      screen: undefined,
      logits,
      scratch,
    });
    return [logits];
  };

/** With every norm that a family may have. */
const normed: Case = ({ ops, ints, floats, norm, weights, out, scratch }) => {
  const [rows, cols] = [2, 128];
  const [wq, wk, wv, wdown] = [8, 4, 4, 8].map((m) => weights('i2_s', m, cols));
  const [q, k, v, x, hidden] = [out(rows * 8), out(rows * 4), out(rows * 4), floats(rows * 8), out(rows * cols)];
  const inputNorms = [norm(cols), norm(cols), norm(cols)] as const;
  const h = floats(rows * cols);
  ops.qkv({ rows, x: h, norm: norm(cols), inputNorms, wq, wk, wv, q, k, v, scratch });
  ops.down({ rows, h, norm: norm(cols), wdown, postNorm: norm(8), x, scratch });
  ops.hidden({ outs: rows, dim: cols, index: ints(1, 0), x: h, norm: norm(cols), out: hidden });
  return [q, k, v, x, hidden];
};

/** Of one matrix without and one with codes that are none. */
const checkTernary: Case = ({ ops, ints, weights }) => {
  const found = ints(-1, -1);
  ops.checkTernary({ w: weights('i2_s', 5, 256), found, at: 0 });
  ops.checkTernary({ w: { ...weights('i2_s', 5, 256), tensor: weights('q8_0', 10, 256).tensor }, found, at: 4 });
  return [found];
};

/** By lookups, or in a larger batch repacked. */
const tables =
  (type: 'tl1' | 'tl2', rows: number, cols: number): Case =>
  ({ ops, floats, tiled, scratch }) => {
    const x = floats(rows * 64);
    ops.down({ rows, h: floats(rows * cols), norm: undefined, wdown: tiled(type, cols), x, scratch });
    return [x];
  };

/** Of a matrix in order and one with a byte that codes no weight, and what the first is as I2_S. */
const repack =
  (type: 'tl1' | 'tl2', cols: number): Case =>
  ({ ops, ints, tiled, out }) => {
    const found = ints(-1, -1);
    const from = tiled(type, cols);
    const to = { type: 'i2_s' as const, rows: 64, cols, tensor: out(64 * 8 * Math.ceil(cols / 128) + 8) };
    ops.repack({ from, to, found, at: 0 });
    ops.checkTernary({ w: { ...from, tensor: tiled(type, 2 * cols).tensor, cols: 2 * cols - 96 }, found, at: 4 });
    return [to.tensor, found];
  };

const repackTq: Case = ({ ops, ints, weights, out }) => {
  const [from, tensor, found] = [weights('tq1_0', 5, 512), out((5 * 2 * 66) / 4), ints(-1)];
  ops.repack({ from, to: { ...from, type: 'tq2_0', tensor }, found, at: 0 });
  return [tensor, found];
};

/** The rows that a screen lets through, by what is picked of them. */
const screened =
  (type: DenseType): Case =>
  ({ ops, floats, ints, norm, weights, out, samplers, screenBytes, scratch }) => {
    const [outs, cols] = [2, 256];
    const w = weights(type, VOCAB, cols);
    const [copy, params, logits] = [
      out(screenBytes(VOCAB, cols) / 4),
      samplers([{ temperature: 0 }, { seed: 7 }]),
      out(outs * VOCAB),
    ];
    const picks = out((outs * PICK_BYTES) / 4);
    const screen = { copy, lower: out(outs * VOCAB), params, stride: PARAMS_BYTES };
    ops.buildScreen({ w, copy, scratch });
    ops.head({ outs, index: ints(1, 0), x: floats(outs * cols), norm: norm(cols), w, screen, logits, scratch });
    ops.sample({ outs, vocab: VOCAB, logits, params, stride: PARAMS_BYTES, picks, scratch });
    return [picks];
  };

/** A prompt over an edge between blocks, and another sequence's first row. */
const attention =
  (type: KvType, ropeStyle: 'neox' | 'norm'): Case =>
  ({ ops, ints, floats, norm, weights, out: output, scratch }) => {
    const [heads, kvHeads, headDim, ropeDim, blockSize] = [4, 2, 28, 16, 16];
    const places = { pos: ints(16, 17, 0), sequence: ints(1, 1, 0) };
    // Layer 1 of 2, blocks not in order; a matrix's bytes do for what was there before.
    const data = [0, 1].map(() => weights(type, 3 * 2 * kvHeads * blockSize, headDim).tensor);
    const kv = { type, kvHeads, headDim, blockSize, maxBlocks: 2, data, tables: ints(1, 0, 2, 0) };
    const [q, k, v, rope] = [heads, kvHeads, kvHeads].map((n) => floats(3 * n * headDim)).concat(floats(18 * ropeDim));
    const out = output(3 * heads * headDim);
    const headNorms = type === 'f32' ? ([norm(headDim), norm(headDim)] as const) : undefined;
    ops.attention({ rows: 3, layer: 1, heads, ropeDim, ropeStyle, rope, headNorms, places, kv, q, k, v, out, scratch });
    return [out];
  };

const sample =
  (...all: SamplerOptions[]): Case =>
  ({ ops, floats, samplers, out, scratch }) => {
    const [outs, picks] = [all.length, out((all.length * PICK_BYTES) / 4)];
    const params = samplers(all);
    ops.sample({ outs, vocab: VOCAB, logits: floats(outs * VOCAB), params, stride: PARAMS_BYTES, picks, scratch });
    return [picks];
  };

/** Without penalties, with room for another recent token, and with none. */
const advance: Case = ({ ops, ints, samplers }) => {
  const params = samplers([
    { seed: 1 },
    { presencePenalty: 1, seed: 2 },
    { presencePenalty: 1, repeatLastN: 4, seed: 3 },
  ]);
  const [tokens, pos, picks] = [ints(1, 2, 3), ints(0, 7, 9), ints(5, 0, 0, 0, -1, 0, 0, 0, 200, 0, 0, 0)];
  for (let run = 0; run < 2; run++) ops.advance({ outs: 3, picks, tokens, pos, params, stride: PARAMS_BYTES });
  return [tokens, pos, params];
};

const DENSE = ['f16', 'bf16', 'f32', 'q8_0', 'q6_k', 'q4_0'] as const;

const CASES: readonly (readonly [op: string, kind: Answer['kind'], run: Case])[] = [
  ...DENSE.map((type) => [`embed ${type}`, 'equal', embed(type)] as const),
  ['check_ternary', 'equal', checkTernary],
  ['qkv, 1 row', 'equal', qkv(1, 640)],
  ['qkv, 3 rows', 'equal', qkv(3, 256)],
  ['attn_out, 5 rows', 'equal', attnOut(5)],
  ['down, 1 row', 'equal', down(1)],
  ...(['tq1_0', 'tq2_0'] as const).flatMap((type) => [
    [`qkv ${type}, 1 row`, 'equal', qkv(1, 512, type)] as const,
    [`down ${type}, 5 rows`, 'equal', down(5, type)] as const,
  ]),
  ['repack tq1_0', 'equal', repackTq],
  ['gate_up relu2', 'close', gateUp('relu2')],
  ['gate_up silu', 'close', gateUp('silu')],
  ['gate_up gelu', 'close', gateUp('gelu')],
  ['norms', 'equal', normed],
  ...DENSE.map((type) => [`head ${type}`, 'close', head(type)] as const),
  ['head screened f16', 'best', screened('f16')],
  ['head screened q6_k', 'best', screened('q6_k')],
  ['attention f16', 'close', attention('f16', 'neox')],
  ['attention f32', 'close', attention('f32', 'norm')],
  [
    'sample',
    'picks',
    sample(
      { temperature: 0, seed: 1 },
      { seed: 3, repeatPenalty: 1.3, frequencyPenalty: 0.2, logitBias: { 3: 2, 5: Number.NEGATIVE_INFINITY } },
      { seed: 5, topK: 0, topP: 0.99, minP: 0, temperature: 1.5 },
    ),
  ],
  ['advance', 'equal', advance],
  ['repack tl1', 'equal', repack('tl1', 288)],
  ['repack tl2', 'equal', repack('tl2', 352)],
  ['down tl1, 1 row', 'equal', tables('tl1', 1, 288)],
  ['down tl2, 2 rows', 'equal', tables('tl2', 2, 352)],
  ['down tl2, 16 rows', 'equal', tables('tl2', 16, 352)],
];

/** Runs every op once, as one program. */
export async function answers<T extends Tensor>(backend: Backend<T>): Promise<Answer[]> {
  const bench = createBench(backend);
  const left: (readonly [op: string, kind: Answer['kind'], tensor: T])[] = [];
  const program = backend.record(() => {
    for (const [op, kind, run] of CASES) for (const tensor of run(bench)) left.push([op, kind, tensor]);
  });
  await backend.run(program);
  const all: Answer[] = [];
  for (const [op, kind, tensor] of left) {
    const bytes = new Uint8Array(tensor.bytes);
    await backend.read(tensor, 0, bytes);
    all.push({ op, kind, bytes });
  }
  return all;
}

/**
 * Where answers first differ, e.g. "head f16: number 3 is 0.5, expected 0.25". `alike`: of two modules, which round alike, so
 * that every bit has to be the same.
 */
export function difference(got: readonly Answer[], expected: readonly Answer[], alike: boolean): string | undefined {
  for (const [n, { op, kind, bytes }] of expected.entries()) {
    const words = new Int32Array(got[n].bytes.buffer);
    if (new Int32Array(bytes.buffer).every((word, i) => word === words[i])) continue;
    const [is, should] = [numbersOf(got[n]), numbersOf(expected[n])];
    const largest = should.map(Math.abs).reduce((a, b) => Math.max(a, b));
    for (let i = 0; i < should.length; i++) {
      if (Object.is(is[i], should[i])) continue;
      const bound =
        alike || kind === 'equal' ? 0 : 1e-3 * (kind === 'picks' || kind === 'best' ? Math.abs(should[i]) : largest);
      if (!(Math.abs(is[i] - should[i]) <= bound)) return `${op}: number ${i} is ${is[i]}, expected ${should[i]}`;
    }
  }
  return undefined;
}

/** Times a batch of 64 rows through a matrix of 512 x 2560, in milliseconds, on a backend of one thread. */
export function batchTimer<T extends Tensor>(backend: Backend<T>): () => Promise<number> {
  const [rows, m, k] = [64, 512, 2560];
  const [h, x, scratch] = [4 * rows * k, 4 * rows * m, backend.scratchBytes(rows, k, 1, 1)].map(backend.alloc);
  const wdown: Matrix<T> = { type: 'i2_s', rows: m, cols: k, tensor: backend.alloc((m * k) / 4 + 32) };
  const program = backend.record(() => backend.ops.down({ rows, h, norm: undefined, wdown, x, scratch }));
  return async () => {
    const started = performance.now();
    const run = backend.run(program); // one thread: computed here and now
    const ms = performance.now() - started;
    await run;
    return ms;
  };
}

function createBench<T extends Tensor>(backend: Backend<T>): Bench<T> {
  let taken = 0;
  /** n bytes, whole words, each word masked by `and`, then `or`. */
  const random = (n: number, and = -1, or = 0): Uint8Array<ArrayBuffer> => {
    const words = new Int32Array(Math.ceil(n / 4));
    for (let i = 0; i < words.length; i++) words[i] = (WORDS[taken++ % WORDS.length] & and) | or;
    return new Uint8Array(words.buffer, 0, n);
  };
  const put = (x: Uint8Array | Int32Array): T => {
    const tensor = backend.alloc(x.byteLength);
    backend.write(tensor, 0, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    return tensor;
  };
  const floats = (n: number): T => put(random(4 * n, 0x80ffffff | 0, 0x3f000000));
  return {
    ops: backend.ops,
    screenBytes: backend.screenBytes,
    scratch: backend.alloc(backend.scratchBytes(16, 1152, 64, VOCAB)),
    out: (n) => backend.alloc(4 * n),
    ints: (...values) => put(Int32Array.from(values)),
    floats,
    weights: (type, rows, cols) => ({ type, rows, cols, tensor: put(WEIGHTS[type](rows * cols, random)) }),
    tiled(type, cols) {
      const tiles = { rows: 32, cols: 96, sub: 32 };
      return { type, rows: 64, cols, tiles, tensor: put(tiledWeights(type, 64, cols, random)) };
    },
    norm: (dim) => ({ weight: floats(dim), eps: 1e-5 }),
    samplers(all) {
      const params = new Uint8Array(all.length * PARAMS_BYTES);
      all.forEach((options, i) => {
        const row = new DataView(params.buffer, i * PARAMS_BYTES, PARAMS_BYTES);
        writeParams(row, resolveSampler({ seed: 1, ...options }, VOCAB), i, [3, 9, 9, 27], 4);
      });
      return put(params);
    },
  };
}

/** Random bits, by xorshift32 (Marsaglia 2003); a prime number of them, so that what repeats is not in step with rows. */
const WORDS = new Int32Array(2039);
for (let i = 0, x = 1; i < WORDS.length; i++) {
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  WORDS[i] = x;
}

type RandomBytes = (bytes: number, and?: number, or?: number) => Uint8Array;

/** Indices up to 7, which each table has, and random signs. */
function tiledWeights(type: 'tl1' | 'tl2', rows: number, cols: number, random: RandomBytes): Uint8Array {
  const triples = type === 'tl2' ? cols - (cols % 96) : 0;
  const [indices, signs, pairs] = [(rows * triples) / 6, (rows * triples) / 24, (rows * (cols - triples)) / 4];
  const tail = type === 'tl2' ? Math.ceil((((cols - 256) * rows * 5) / 24 + 64 * rows) / 32) * 32 : pairs;
  const bytes = new Uint8Array(tail + 32);
  bytes.set(random(indices, 0x77777777));
  bytes.set(random(signs), indices);
  bytes.set(random(pairs, 0x77777777), indices + signs);
  new DataView(bytes.buffer).setFloat32(tail, 0.5, true);
  return bytes;
}

/** n weights of random bits, those of exponents and scales set such that all are around 1. */
const WEIGHTS: Readonly<Record<FlatType, (n: number, random: RandomBytes) => Uint8Array>> = {
  i2_s(n, random) {
    const bytes = random(n / 4 + 32);
    // Of the code 3, which is none, the lower bit is cleared.
    for (let i = 0; i < n / 4; i++) bytes[i] &= ~(bytes[i] & (bytes[i] >> 1) & 0x55);
    new DataView(bytes.buffer).setFloat32(n / 4, 0.5, true);
    return bytes;
  },
  tq1_0: (n, random) => scaled(random((n / 256) * 54), 54, 53, 0x34),
  tq2_0(n, random) {
    const bytes = random((n / 256) * 66);
    for (let i = 0; i < bytes.length; i++) bytes[i] &= ~(bytes[i] & (bytes[i] >> 1) & 0x55);
    return scaled(bytes, 66, 65, 0x34);
  },
  f16: (n, random) => random(2 * n, 0x87ff87ff | 0, 0x34003400),
  bf16: (n, random) => random(2 * n, 0x80ff80ff | 0, 0x3e003e00),
  f32: (n, random) => random(4 * n, 0x80ffffff | 0, 0x3e000000),
  q8_0: (n, random) => scaled(random((n / 32) * 34), 34, 1, 0x20),
  q6_k: (n, random) => scaled(random((n / 256) * 210), 210, 209, 0x10),
  q4_0: (n, random) => scaled(random((n / 32) * 18), 18, 1, 0x30),
};

/** Blocks of `stride` bytes with the upper byte of their f16 scale, at `at`, replaced. */
function scaled(blocks: Uint8Array, stride: number, at: number, upper: number): Uint8Array {
  for (let i = at; i < blocks.length; i += stride) blocks[i] = upper;
  return blocks;
}

function numbersOf({ kind, bytes }: Answer): number[] {
  if (kind !== 'picks' && kind !== 'best') return [...new Float32Array(bytes.buffer)];
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / PICK_BYTES }, (_, i) => {
    const { id, logit, probability } = readPick(view, i * PICK_BYTES, { id: 0, logit: 0, probability: 0 });
    return kind === 'best' ? [id, logit] : [id, logit, probability]; // a screen leaves the sum out of reach
  }).flat();
}
