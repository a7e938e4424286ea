import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Backend,
  type DenseType,
  type KvType,
  type Matrix,
  type Norm,
  promised,
  type Tensor,
  type TernaryType,
  type WeightType,
} from '../dist/backend/backend.js';
import { attention } from '../dist/reference/attention.js';
import { type ReferenceTensor, referenceBackend } from '../dist/reference/backend.js';
import { decodeRow } from '../dist/reference/decode_row.js';
import { toF16 } from '../dist/reference/f16.js';
import { appendKv, gatherKv, type KvLayer, kvIndex } from '../dist/reference/kv_cache.js';
import { linear } from '../dist/reference/linear.js';
import { rmsNorm } from '../dist/reference/rms_norm.js';
import { rope } from '../dist/reference/rope.js';
import { PICK_BYTES, paramsBytes, resolveSampler, type SamplerOptions, writeParams } from '../dist/sampler.js';
import { agree } from './agree.js';
import {
  attentionBound,
  boundsOf,
  EXP,
  gluBound,
  type HeadShape,
  isTernary,
  linearBound,
  ropeBound,
  ULP,
} from './bounds.js';
import { type Case, EPS, floats, GUARD, type HostMatrix, outcome } from './outcome.js';
import { denseBytes, type Random, random, ropeTable, seedOf, ternaryBytes } from './random.js';
import { tiledContract } from './tiled_contract.js';

/** Matrices in tiles are in tiled_contract.ts. */
type FlatType = Exclude<WeightType, 'tl1' | 'tl2'>;

function matrix(r: Random, type: FlatType, rows: number, cols: number): HostMatrix {
  if (isTernary(type)) return { type, rows, cols, bytes: ternaryBytes(r, rows, cols, type) };
  const weights = r.normal(rows * cols, 1 / Math.sqrt(cols));
  // One in eight is so small that f16 holds it as a subnormal.
  for (let i = 0; i < weights.length; i++) if (r.below(8) === 0) weights[i] *= 2 ** -12;
  return { type, rows, cols, bytes: denseBytes(type, weights) };
}

/** [rows][cols], normal; of 16 rows one is zero, one huge, one below the least scale of the quantisation. */
function activations(r: Random, rows: number, cols: number): Float32Array<ArrayBuffer> {
  const x = r.normal(rows * cols);
  const magnitudes: Record<number, number> = { 1: 0, 3: 1e4, 4: 1e-6 };
  for (let i = 0; i < x.length; i++) x[i] *= magnitudes[Math.floor(i / cols)] ?? 1;
  return x;
}

const weightOf = (r: Random, dim: number): Float32Array<ArrayBuffer> => r.normal(dim, 0.2).map((v) => v + 1);

const rowOf = (x: Float32Array, i: number, cols: number): Float32Array => x.subarray(i * cols, (i + 1) * cols);

/** [M, K, rows] around a vector, a block and a real model. */
const SHAPES: [FlatType, number, number, number][] = [
  ['i2_s', 1, 128, 1],
  ['i2_s', 2, 128, 5],
  ['i2_s', 3, 256, 2],
  ['i2_s', 8, 384, 16],
  ['i2_s', 127, 256, 16],
  ['i2_s', 127, 384, 1],
  ['i2_s', 640, 2560, 2],
  ['i2_s', 640, 2560, 16],
  ['i2_s', 127, 6912, 5],
  // Rows padded to whole blocks.
  ['i2_s', 5, 96, 1],
  ['i2_s', 9, 32, 5],
  ['i2_s', 127, 160, 2],
  ['i2_s', 8, 672, 16],
  ['i2_s', 3, 8640, 1],
  ['i2_s', 3, 8640, 2],
  ['i2_s', 3, 8640, 5],
  ['i2_s', 3, 8640, 16],
  ['tq1_0', 1, 256, 1],
  ['tq1_0', 3, 512, 5],
  ['tq1_0', 127, 256, 16],
  ['tq1_0', 640, 2560, 2],
  ['tq2_0', 1, 256, 5],
  ['tq2_0', 3, 512, 16],
  ['tq2_0', 127, 768, 1],
  ['tq2_0', 640, 2560, 2],
  ['tq2_0', 640, 2560, 16],
  ['tq2_0', 127, 6912, 5],
  ['tq2_0', 3, 6912, 1],
  ['tq2_0', 3, 8704, 1],
  ['f16', 1, 128, 1],
  ['f16', 3, 256, 16],
  ['f16', 127, 384, 5],
  ['f16', 640, 2560, 2],
  ['bf16', 2, 128, 5],
  ['bf16', 127, 384, 2],
  ['bf16', 8, 6912, 1],
  ['f32', 3, 128, 5],
  ['f32', 127, 384, 2],
  ['f32', 8, 2560, 1],
  ['q8_0', 1, 32, 1],
  ['q8_0', 3, 96, 16],
  ['q8_0', 127, 384, 5],
  ['q8_0', 640, 2560, 2],
  ['q4_0', 3, 96, 5],
  ['q4_0', 127, 384, 1],
  ['q6_k', 1, 256, 1],
  ['q6_k', 3, 512, 16],
  ['q6_k', 127, 768, 5],
  ['q6_k', 640, 2560, 2],
];

/** Heads, kvHeads, headDim, ropeDim. */
const HEADS: [number, number, number, number][] = [
  [4, 2, 64, 64],
  [1, 1, 128, 128],
  [20, 5, 128, 128],
  [16, 16, 96, 96],
  [4, 1, 256, 64],
  [3, 3, 100, 100],
];

/** Rows as [sequence, position]; three sequences of up to five blocks. */
const BATCHES: Record<string, [number, number][]> = {
  'one row': [[2, 37]],
  'two sequences, first position and first of a block': [
    [0, 0],
    [1, 16],
  ],
  'a prompt over a block edge': [14, 15, 16, 17, 18].map((pos) => [1, pos]),
  'a prompt and other sequences': [
    [0, 31],
    [1, 47],
    ...Array.from({ length: 14 }, (_, i): [number, number] => [2, 9 + i]),
  ],
  'a prompt of 40 rows': Array.from({ length: 40 }, (_, i) => [1, 3 + i]),
  // Positions that follow each other in rows of other sequences are no prompt.
  'rows far into their sequences, in no order': [
    [0, 71],
    [2, 70],
    [2, 69],
    [0, 70],
    [2, 71],
    [2, 72],
  ],
};

/** How fast scores rise with the position: the maximum comes early or late, slowly or beyond what an exponential spans. */
const SLOPES = [-3, -0.1, 0.1, 3];

const SAMPLERS: Record<string, SamplerOptions> = {
  'by default': {},
  greedy: { temperature: 0 },
  'from all tokens': { topK: 0, topP: 1, minP: 0, temperature: 1.5 },
  'with penalties and bias': {
    ...{ repeatPenalty: 1.3, frequencyPenalty: 0.2, presencePenalty: 0.1 },
    ...{ logitBias: { 3: 8, 5: Number.NEGATIVE_INFINITY } },
  },
};

/** What a backend may leave out. Cases are defined before a backend is open, so that it is said here, and checked in a case. */
export interface Abilities {
  /** As the backend's. Default: all. */
  readonly computes?: readonly TernaryType[];
  /** Whether a screen is of use to it. Default: true. */
  readonly screens?: boolean;
  /** A backend that leaves the same bits in attention, and behind ternary matrices, where the reference has only bounds; subnormals may be 0. */
  readonly peer?: () => Promise<Backend>;
  /** Only cases with such names, where others would run the same code. Default: all. */
  readonly only?: RegExp;
}

/**
 * What every backend does: each op against the reference, same inputs, outputs equal where the arithmetic is integer or
 * spelled out rounding by rounding, else within a bound derived here. Inputs are seeded by the case's name.
 */
export function contract(
  name: string,
  open: () => Promise<Backend>,
  { computes = ['i2_s', 'tl1', 'tl2', 'tq1_0', 'tq2_0'], screens = true, only = /./, peer: openPeer }: Abilities = {},
): void {
  describe(name, () => {
    const reference: Backend<ReferenceTensor> = referenceBackend();
    let backend: Backend;
    let peer: Backend | undefined;
    beforeAll(async () => {
      backend = await open();
      peer = await openPeer?.();
    });
    afterAll(async () => {
      await backend?.dispose();
      await peer?.dispose();
    });

    /** Runs a case on both; `bound` gives the tolerance of output i, or nothing where it must be equal. */
    async function compare(
      op: string,
      seed: number,
      build: Case,
      bound: (output: number, expected: Float32Array) => ArrayLike<number> | undefined = () => undefined,
    ): Promise<void> {
      const expected = await outcome(reference, build);
      const actual = await outcome(backend, build);
      const same = peer && /^gate_up \w+ (i2_s|tq2_0)/.test(op) ? await outcome(peer, build) : undefined;
      for (let i = 0; i < expected.length; i++) {
        const e = floats(expected[i]);
        agree({ op: `${op}, output ${i}`, seed, expected: e, actual: floats(actual[i]), bound: bound(i, e) });
        if (same === undefined) continue;
        // WGSL lets a device take what is below the normal numbers for 0.
        const flushed = floats(same[i]).map((x) => (Math.abs(x) < 2 ** -126 ? Math.abs(x) : 0));
        const those = { expected: floats(same[i]), actual: floats(actual[i]), bound: flushed };
        agree({ op: `${op}, ${peer?.name}`, seed, ...those });
      }
    }

    function testCase(op: string, test: (r: Random, op: string) => Promise<void>): void {
      if (only.test(op)) it(op, () => test(random(seedOf(op)), op));
    }

    /** A case whose op computes with matrices of `type`. */
    const matrixCase: MatrixCase = (type, op, test) => {
      if (!isTernary(type) || computes.includes(type)) testCase(op, test);
      else if (only.test(op)) it.skip(`${op}: ${type} is only repacked here`, () => {});
    };

    it('says what it computes with', () => {
      expect([...backend.computes].sort()).toEqual([...computes].sort());
      expect(backend.screenBytes(4099, 256) > 0).toBe(screens);
    });

    queueContract(() => backend);

    for (const type of ['f16', 'bf16', 'f32', 'q8_0', 'q6_k', 'q4_0'] as const) {
      const unit = type === 'q6_k' ? 256 : 32;
      for (const [rows, dim] of [
        [1, unit],
        [5, 3 * unit],
        [16, 2560],
      ]) {
        testCase(`embed ${type}, ${rows} x ${dim}`, async (r, op) => {
          const vocab = rows + 3;
          const x = r.normal(vocab * dim).map((v, i) => (i % 8 === 0 ? v * 2 ** -18 : v));
          const bytes = denseBytes(type, x);
          const ids = Int32Array.from({ length: rows }, (_, i) => (i === 0 ? vocab - 1 : r.below(vocab)));
          await compare(op, r.seed, (b) => {
            const to = b.out(rows * dim);
            const [tokens, table] = [b.put(ids), b.put(bytes)];
            return { enqueue: () => b.ops.embed({ rows, dim, type, tokens, table, x: to }), outputs: [to] };
          });
        });
      }
    }

    for (const [type, blockBytes, scaleAt] of [
      ['q8_0', 34, 0],
      ['q4_0', 18, 0],
      ['q6_k', 210, 208],
    ] as const) {
      testCase(`embed ${type}, codes and scales of every sign`, async (r, op) => {
        const [rows, dim] = [5, 512];
        const bytes = Uint8Array.from({ length: rows * (type === 'q6_k' ? 2 : 16) * blockBytes }, () => r.below(256));
        // Clear of the exponents of infinity and NaN.
        for (let at = scaleAt + 1; at < bytes.length; at += blockBytes) bytes[at] &= 0xbf;
        await compare(op, r.seed, (b) => {
          const to = b.out(rows * dim);
          const [tokens, table] = [b.put(Int32Array.from({ length: rows }, (_, i) => i)), b.put(bytes)];
          return { enqueue: () => b.ops.embed({ rows, dim, type, tokens, table, x: to }), outputs: [to] };
        });
      });
    }

    // attn_out and down are the same arithmetic on other tensors: x + W norm(y).
    for (const [type, m, k, rows] of SHAPES) {
      for (const [stem, withNorm] of [
        ['attn_out', true],
        ['attn_out', false],
        ['down', true],
        ['down', false],
      ] as const) {
        if (stem === 'down' && m * k > 1e6) continue;
        matrixCase(type, `${stem} ${type} ${m} x ${k}, ${rows} rows${withNorm ? ', norm' : ''}`, async (r, op) => {
          const w = matrix(r, type, m, k);
          const weight = withNorm ? weightOf(r, k) : undefined;
          const y = activations(r, rows, k);
          const x = r.normal(rows * m);
          const build: Case = (b) => {
            const [yIn, norm, scratch, wIn] = [b.put(y), b.norm(weight), b.scratch(rows, Math.max(m, k)), b.matrix(w)];
            const to = b.put(x);
            const enqueue = (): void =>
              stem === 'down'
                ? b.ops.down({ rows, h: yIn, norm, wdown: wIn, x: to, scratch })
                : b.ops.attnOut({ rows, attn: yIn, norm, wo: wIn, x: to, scratch });
            return { enqueue, outputs: [to] };
          };
          await compare(op, r.seed, build, (_, expected) => {
            if (isTernary(type)) return undefined;
            // The sum's bound, and the rounding of the addition to x on both sides.
            return boundsOf(rows, (i) => {
              const h = weight ? rmsNorm(rowOf(y, i, k), weight, EPS) : rowOf(y, i, k);
              return linearBound(w, h).map((v, j) => v + 2 * ULP * Math.abs(expected[i * m + j]));
            });
          });
        });
      }
    }

    for (const [type, m, k, rows] of SHAPES.filter(([, m, k]) => m * k < 1e5)) {
      matrixCase(type, `qkv ${type} ${m} + 3 + 8 x ${k}, ${rows} rows`, async (r, op) => {
        const [wq, wk, wv] = [m, 3, 8].map((rowsOut) => matrix(r, type, rowsOut, k));
        const weight = weightOf(r, k);
        const x = activations(r, rows, k);
        const build: Case = (b) => {
          const [q, key, v] = [b.out(rows * m), b.out(rows * 3), b.out(rows * 8)];
          const common = { rows, x: b.put(x), norm: b.norm(weight), scratch: b.scratch(rows, Math.max(m, k)) };
          const weights = { wq: b.matrix(wq), wk: b.matrix(wk), wv: b.matrix(wv) };
          return { enqueue: () => b.ops.qkv({ ...common, ...weights, q, k: key, v }), outputs: [q, key, v] };
        };
        await compare(op, r.seed, build, (output) =>
          boundsOf(rows, (i) => linearBound([wq, wk, wv][output], rmsNorm(rowOf(x, i, k), weight, EPS))),
        );
      });

      for (const activation of ['relu2', 'silu', 'gelu'] as const) {
        matrixCase(type, `gate_up ${activation} ${type} ${m} x ${k}, ${rows} rows`, async (r, op) => {
          const [gate, up] = [matrix(r, type, m, k), matrix(r, type, m, k)];
          const weight = weightOf(r, k).map((v) => v * 4);
          const x = activations(r, rows, k);
          const build: Case = (b) => {
            const to = b.out(rows * m);
            const common = { rows, x: b.put(x), norm: b.norm(weight), scratch: b.scratch(rows, Math.max(m, k)) };
            const weights = { gate: b.matrix(gate), up: b.matrix(up) };
            return { enqueue: () => b.ops.gateUp({ ...common, ...weights, activation, out: to }), outputs: [to] };
          };
          await compare(op, r.seed, build, () =>
            boundsOf(rows, (i) => {
              const h = rmsNorm(rowOf(x, i, k), weight, EPS);
              const [g, u] = [gate, up].map((w) => linear(w.type, w.bytes, m, k, h));
              return gluBound(activation, g, u, linearBound(gate, h), linearBound(up, h));
            }),
          );
        });
      }

      matrixCase(type, `head ${type} ${m} x ${k}, ${rows} outs of 16 rows`, async (r, op) => {
        const w = matrix(r, type, m, k);
        const weight = weightOf(r, k);
        const x = activations(r, 16, k);
        const index = Int32Array.from(r.shuffled(16).slice(0, rows));
        const build: Case = (b) => {
          const logits = b.out(rows * m);
          const common = { outs: rows, index: b.put(index), x: b.put(x), norm: b.norm(weight), w: b.matrix(w) };
          const scratch = b.scratch(16, Math.max(m, k));
          return { enqueue: () => b.ops.head({ ...common, screen: undefined, logits, scratch }), outputs: [logits] };
        };
        await compare(op, r.seed, build, () =>
          boundsOf(rows, (i) => linearBound(w, rmsNorm(rowOf(x, index[i], k), weight, EPS))),
        );
      });
    }

    normContract(compare, testCase);
    tiledContract(compare, testCase, matrixCase);

    testCase('quantize_i8 rounds ties to even', async (r, op) => {
      // The largest is 127, so the scale is 1 and x itself is rounded: 0.5 -> 0, 1.5 -> 2, -2.5 -> -2 ...
      const y = Float32Array.from({ length: 128 }, (_, i) => (i === 0 ? 127 : i - 64.5));
      const w = matrix(r, 'i2_s', 8, 128);
      await compare(op, r.seed, (b) => {
        const x = b.put(new Float32Array(8));
        const inputs = { attn: b.put(y), norm: undefined, wo: b.matrix(w), scratch: b.scratch(1, 128) };
        return { enqueue: () => b.ops.attnOut({ rows: 1, ...inputs, x }), outputs: [x] };
      });
    });

    matrixCase('tq2_0', 'quantize_q8_k rounds ties to even, block by block', async (r, op) => {
      // Scales 1 and 1/2; the largest as -127 and as 127 beside it; zeros; numbers too small for an inverse scale.
      const y = new Float32Array(4 * 256);
      for (let i = 0; i < 256; i++) {
        y[i] = i === 100 ? -127 : i === 101 ? 127 : (i % 200) - 99.5;
        y[256 + i] = i === 3 ? 63.5 : (i - 128) / 4;
        y[768 + i] = i * 1e-40;
      }
      for (const rows of [1, 5]) {
        const batch = Float32Array.from({ length: rows * y.length }, (_, i) => y[i % y.length]);
        const w = matrix(r, 'tq2_0', 8, y.length);
        await compare(`${op}, ${rows} rows`, r.seed, (b) => {
          const x = b.put(new Float32Array(rows * 8));
          const inputs = { attn: b.put(batch), norm: undefined, wo: b.matrix(w), scratch: b.scratch(rows, y.length) };
          return { enqueue: () => b.ops.attnOut({ rows, ...inputs, x }), outputs: [x] };
        });
      }
    });

    // Row by row, and in tiles.
    for (const type of ['i2_s', 'tq2_0'] as const) {
      for (const rows of [2, 5]) {
        matrixCase(type, `bit_linear at its largest sums, ${type}, ${rows} rows`, async (r, op) => {
          // All weights 1, all activations 127: each 16-bit partial sum grows by 508 a step and overflows unless widened in time.
          const bytes = new Uint8Array(type === 'i2_s' ? 6912 + 32 : 27 * 4 * 66).fill(0b10101010);
          const view = new DataView(bytes.buffer);
          if (type === 'i2_s') view.setFloat32(6912, 0.5, true);
          else for (let at = 64; at < bytes.length; at += 66) view.setUint16(at, toF16(0.5), true);
          const w: HostMatrix = { type, rows: 4, cols: 6912, bytes };
          const y = Float32Array.from({ length: rows * 6912 }, (_, i) => (i < 6912 ? 1 : -1));
          await compare(op, r.seed, (b) => {
            const x = b.put(new Float32Array(rows * 4));
            const inputs = { h: b.put(y), norm: undefined, wdown: b.matrix(w), scratch: b.scratch(rows, 6912) };
            return { enqueue: () => b.ops.down({ rows, ...inputs, x }), outputs: [x] };
          });
        });
      }
    }

    for (const type of ['f16', 'bf16'] as const) {
      testCase(`dense_linear rounds activations to ${type}, ties to even`, async (r, op) => {
        // Row i of W picks x[i]: halves of a last place, both ways, and the subnormals of f16.
        const place = type === 'f16' ? 2 ** -11 : 2 ** -8;
        const y = new Float32Array(128);
        y.set([1 + place, 1 + 3 * place, -1 - place, -1 - 3 * place, 1.5 * 2 ** -24, 2.5 * 2 ** -24, 2 ** -25, 65500]);
        const weights = new Float32Array(8 * 128);
        for (let i = 0; i < 8; i++) weights[i * 128 + i] = 1;
        const w: HostMatrix = { type, rows: 8, cols: 128, bytes: denseBytes(type, weights) };
        const build: Case = (b) => {
          const x = b.put(new Float32Array(8));
          const inputs = { attn: b.put(y), norm: undefined, wo: b.matrix(w), scratch: b.scratch(1, 128) };
          return { enqueue: () => b.ops.attnOut({ rows: 1, ...inputs, x }), outputs: [x] };
        };
        // One product a row: nothing is rounded after the activation.
        await compare(op, r.seed, build);
      });
    }

    testCase('dense_linear with subnormal f16 weights', async (r, op) => {
      const bytes = new Uint8Array(
        Uint16Array.from({ length: 8 * 256 }, () => (r.below(2) << 15) | r.below(1024)).buffer,
      );
      const w: HostMatrix = { type: 'f16', rows: 8, cols: 256, bytes };
      const y = r.normal(256);
      const build: Case = (b) => {
        const x = b.put(new Float32Array(8));
        const inputs = { attn: b.put(y), norm: undefined, wo: b.matrix(w), scratch: b.scratch(1, 256) };
        return { enqueue: () => b.ops.attnOut({ rows: 1, ...inputs, x }), outputs: [x] };
      };
      await compare(op, r.seed, build, () => linearBound(w, y));
    });

    async function compareAttention(r: Random, op: string, setup: ReturnType<typeof attentionCase>): Promise<void> {
      const [, expectedData, expectedOther] = await outcome(reference, setup.build());
      const [out, data, other] = await outcome(backend, setup.build());
      expect(Buffer.compare(other, expectedOther), 'bytes of the other layer').toBe(0);
      const cache = { op: `${op}, cache`, seed: r.seed, bound: setup.cacheBound };
      agree({ ...cache, expected: setup.numbersOf(expectedData), actual: setup.numbersOf(data) });
      const { expected, bound } = setup.outputOf(data);
      agree({ op: `${op}, out`, seed: r.seed, expected, actual: floats(out), bound });
      if (peer === undefined) return;
      const [sameOut, sameData] = await outcome(peer, setup.build());
      agree({ op: `${op}, cache, ${peer.name}`, seed: r.seed, expected: floats(sameData), actual: floats(data) });
      agree({ op: `${op}, out, ${peer.name}`, seed: r.seed, expected: floats(sameOut), actual: floats(out) });
    }

    for (const [heads, kvHeads, headDim, ropeDim] of HEADS) {
      for (const kvType of ['f32', 'f16'] as const) {
        const ropeStyle = kvType === 'f32' ? 'neox' : 'norm';
        const widths = { heads, kvHeads, headDim, ropeDim, ropeStyle } as const;
        const shape = `${heads} / ${kvHeads} x ${headDim}, rope ${ropeDim} ${ropeStyle}`;
        for (const [batch, places] of Object.entries(BATCHES)) {
          testCase(`attention ${kvType}, ${shape}, ${batch}`, (r, op) =>
            compareAttention(r, op, attentionCase(r, kvType, widths, places)),
          );
        }

        testCase(`attention ${kvType}, ${shape}, the same bits however rows are cut`, async (r, op) => {
          const places = [...BATCHES['a prompt of 40 rows'], ...BATCHES['rows far into their sequences, in no order']];
          const setup = attentionCase(r, kvType, widths, places);
          const [out, data] = await outcome(backend, setup.build());
          const width = heads * headDim;
          for (const [from, to] of [
            [0, 1],
            [1, 6],
            [6, 39],
            [39, 42],
            [42, 46],
          ]) {
            // With the cache as the whole batch left it, where these rows write again what is there.
            const [part] = await outcome(backend, setup.build(from, to, data));
            const [expected, actual] = [floats(out).subarray(from * width, to * width), floats(part)];
            const rows = `${op}, rows ${from} … ${to - 1}`;
            agree({ op: rows, seed: r.seed, expected, actual: actual.subarray(0, expected.length) });
          }
        });
      }
    }

    for (const [heads, kvHeads, headDim, ropeDim] of HEADS) {
      const widths = { heads, kvHeads, headDim, ropeDim, ropeStyle: 'neox' } as const;
      testCase(`attention f32, heads normalised, ${heads} / ${kvHeads} x ${headDim}`, (r, op) => {
        const setup = attentionCase(r, 'f32', widths, BATCHES['a prompt and other sequences'], { headNorms: true });
        return compareAttention(r, op, setup);
      });
    }

    testCase('attention f16, 22 / 1 x 128, a prompt and another beyond 1024 positions', (r, op) => {
      const widths = { heads: 22, kvHeads: 1, headDim: 128, ropeDim: 128, ropeStyle: 'neox' } as const;
      const places = Array.from({ length: 26 }, (_, i): [number, number] => (i < 22 ? [0, i] : [1, 1066 + i]));
      return compareAttention(r, op, attentionCase(r, 'f16', widths, places, { blockSize: 224 }));
    });

    for (const kvType of ['f32', 'f16'] as const) {
      for (const slope of SLOPES) {
        testCase(`attention ${kvType}, scores that rise by ${slope} a position`, (r, op) => {
          const widths = { heads: 6, kvHeads: 3, headDim: 64, ropeDim: 32, ropeStyle: 'neox' } as const;
          const places = [5, 39, 40, 71, 72, 73, 118, 199].map((pos): [number, number] => [1, pos]);
          return compareAttention(r, op, attentionCase(r, kvType, widths, places, { blockSize: 40, slope }));
        });
      }
    }

    for (const [label, options] of Object.entries(SAMPLERS)) {
      for (const [vocab, outs] of [
        [127, 5],
        [4099, 2],
      ]) {
        testCase(`sample ${label}, ${outs} x ${vocab}`, async (r, op) => {
          const logits = r.normal(outs * vocab, 3);
          const stride = paramsBytes(128);
          const params = new Uint8Array(outs * stride);
          for (let i = 0; i < outs; i++) {
            const tokens = Array.from({ length: 100 }, () => r.below(vocab));
            const sampler = resolveSampler({ ...options, seed: r.below(1e9) }, vocab);
            writeParams(new DataView(params.buffer, i * stride, stride), sampler, i, tokens, tokens.length);
          }
          const build: Case = (b) => {
            const [logitsIn, picks] = [b.put(logits), b.out((outs * PICK_BYTES) / 4)];
            const scratch = b.scratch(outs, 128, 4, vocab);
            const inputs = { outs, vocab, logits: logitsIn, params: b.put(params), stride, scratch };
            return { enqueue: () => b.ops.sample({ ...inputs, picks }), outputs: [picks, logitsIn] };
          };
          const [expected, actual] = [await outcome(reference, build), await outcome(backend, build)];
          const read = (bytes: Uint8Array<ArrayBuffer>): number[] =>
            Array.from({ length: outs }, (_, i) => new DataView(bytes.buffer, i * PICK_BYTES)).flatMap((pick) => [
              pick.getInt32(0, true),
              pick.getFloat32(4, true),
              pick.getFloat64(8, true),
            ]);
          // id and logit are equal. The share is a quotient of exponentials; z - peak is rounded at up to 2^5, and sums of 64
          // are f32 with up to 16 additions a lane and two to join them.
          const wanted = read(expected[0]);
          const bound = wanted.map((p, i) => (i % 3 === 2 ? p * (2 * EXP + 2 * 32 * ULP + 18 * ULP) : 0));
          agree({ op: `${op}, picks`, seed: r.seed, expected: wanted, actual: read(actual[0]), bound });
          agree({ op: `${op}, logits`, seed: r.seed, expected: floats(expected[1]), actual: floats(actual[1]) });
        });
      }
    }

    testCase('advance, as often as recent tokens go round twice', async (r, op) => {
      const stride = paramsBytes(8);
      // Without penalties; with room for tokens, one of them biased; full; of all tokens; none under penalty.
      const samplers: SamplerOptions[] = [
        { repeatLastN: 4 },
        { repeatPenalty: 1.3, repeatLastN: 5, logitBias: { 3: 1, 7: Number.NEGATIVE_INFINITY } },
        { presencePenalty: 0.5, repeatLastN: 3 },
        { frequencyPenalty: 0.1, repeatLastN: -1 },
        { frequencyPenalty: 0.1, repeatLastN: 0 },
      ];
      const outs = samplers.length;
      const params = new Uint8Array(outs * stride);
      samplers.forEach((options, i) => {
        const sampler = resolveSampler({ ...options, seed: r.below(1e9) }, 1000);
        writeParams(new DataView(params.buffer, i * stride, stride), sampler, i, [11, 12, 13, 14], 4);
      });
      const runs = Array.from({ length: 7 }, (_, run) => {
        const picks = new DataView(new ArrayBuffer(outs * PICK_BYTES));
        for (let i = 0; i < outs; i++) picks.setInt32(i * PICK_BYTES, run === 5 ? -1 : r.below(1000), true);
        return new Uint8Array(picks.buffer);
      });
      const pos = Int32Array.from({ length: outs }, () => r.below(1000));
      for (const count of [1, 2, 6, 7]) {
        await compare(`${op}, ${count} times`, r.seed, (b) => {
          const all = runs.slice(0, count).map((picks) => b.put(picks));
          const [tokensOut, posOut, paramsOut] = [b.out(outs), b.put(pos), b.put(params)];
          const common = { outs, tokens: tokensOut, pos: posOut, params: paramsOut, stride };
          return {
            enqueue: () => all.forEach((picks) => void b.ops.advance({ ...common, picks })),
            outputs: [tokensOut, posOut, paramsOut],
          };
        });
      }
    });

    for (const type of ['i2_s', 'tq2_0'] as const) {
      testCase(`check_ternary ${type}`, async (r, op) => {
        const [rows, cols] = [13, 768];
        const bytes = ternaryBytes(r, rows, cols, type);
        // Scales are no codes.
        if (type === 'tq2_0') for (let at = 64; at < bytes.length; at += 66) bytes.fill(0xff, at, at + 2);
        const last = bytes.length - (type === 'i2_s' ? 33 : 3);
        // None; the first and the last byte; two, of which the first counts; each field of a byte.
        const cases = [[], [0], [last], [700, 900], ...[0, 2, 4, 6].map((shift) => [85 + shift])];
        for (const [i, bad] of cases.entries()) {
          const broken = bytes.slice();
          for (const at of bad) broken[at] |= 3 << (i < 4 ? 4 : bad[0] - 85);
          const w: HostMatrix = { type, rows, cols, bytes: broken };
          await compare(`${op}, case ${i}`, r.seed, (b) => {
            const found = b.put(new Uint8Array(8).fill(0xff));
            const matrix = b.matrix(w);
            return { enqueue: () => b.ops.checkTernary({ w: matrix, found, at: 4 }), outputs: [found] };
          });
        }
      });
    }

    for (const [rows, cols] of [
      [1, 256],
      [13, 768],
    ]) {
      testCase(`repack tq1_0 to tq2_0, ${rows} x ${cols}`, async (r, op) => {
        const w = matrix(r, 'tq1_0', rows, cols);
        await compare(op, r.seed, (b) => {
          const [from, found] = [b.matrix(w), b.put(new Uint8Array(8).fill(0xff))];
          const tensor = b.put(new Uint8Array(((rows * cols) / 256) * 66 + 64 + (rows % 2) * 2).fill(0xff));
          const to = { ...from, type: 'tq2_0', tensor } as const;
          return { enqueue: () => b.ops.repack({ from, to, found, at: 4 }), outputs: [tensor, found] };
        });
      });
    }

    const screenCase: TestCase = (op, test) =>
      screens ? testCase(op, test) : it.skip(`${op}: nothing is gained by a screen here`, () => {});
    for (const type of ['f16', 'bf16', 'f32', 'q8_0', 'q6_k', 'q4_0'] as const) {
      screenCase(`head screened, ${type}`, (r, op) => screenContract(backend, r, op, screenedHead(r, type)));
    }
    screenCase('head screened, rows of 20480', (r, op) => {
      // Weights and activations all equal: with 31 bits for the sum, activations have to be coarser than in shorter rows.
      const [vocab, dim] = [8, 20_480];
      const weights = Float32Array.from({ length: vocab * dim }, (_, i) => (1 + Math.floor(i / dim) / 100) / 128);
      const w: HostMatrix = { type: 'f32', rows: vocab, cols: dim, bytes: denseBytes('f32', weights) };
      return screenContract(backend, r, op, { w, x: new Float32Array(8 * dim).fill(1), exactRows: [] });
    });

    for (const norms of ['few', 'all'] as const) {
      testCase(`a layer with ${norms} norms in one program equals one program an op`, (r) =>
        layerContract(backend, r, norms === 'all'),
      );
    }
  });
}

export type Compare = (
  op: string,
  seed: number,
  build: Case,
  bound?: (output: number, expected: Float32Array) => ArrayLike<number> | undefined,
) => Promise<void>;
export type TestCase = (op: string, test: (r: Random, op: string) => Promise<void>) => void;
/** Of an op that computes with matrices of `type`, which is skipped where a backend only repacks them. */
export type MatrixCase = (type: WeightType, ...of: Parameters<TestCase>) => void;

/** The norms and the factor that some families have; with ternary matrices all of it is spelled out rounding by rounding. */
function normContract(compare: Compare, testCase: TestCase): void {
  const [m, k] = [12, 256];
  testCase('embed scaled, 5 x 96', async (r, op) => {
    const bytes = denseBytes('f16', r.normal(5 * 96));
    await compare(op, r.seed, (b) => {
      const [x, table, tokens] = [b.out(5 * 96), b.put(bytes), b.put(Int32Array.of(4, 0, 2, 2, 1))];
      const common = { rows: 5, dim: 96, type: 'f16', scale: Math.sqrt(96) } as const;
      return { enqueue: () => b.ops.embed({ ...common, tokens, table, x }), outputs: [x] };
    });
  });

  for (const rows of [1, 5]) {
    testCase(`qkv with input norms, ${rows} rows`, async (r, op) => {
      const ws = [m, 4, 8].map((n) => matrix(r, 'i2_s', n, k));
      const [weight, ...weights] = Array.from({ length: 4 }, () => weightOf(r, k));
      const y = activations(r, rows, k);
      await compare(op, r.seed, (b) => {
        const [q, key, v] = [m, 4, 8].map((n) => b.out(rows * n));
        const [wq, wk, wv] = ws.map(b.matrix);
        const [nq, nk, nv] = weights.map((w) => b.norm(w));
        const common = { rows, x: b.put(y), norm: b.norm(weight), scratch: b.scratch(rows, k) };
        const inputNorms = [nq, nk, nv] as const;
        return { enqueue: () => b.ops.qkv({ ...common, inputNorms, wq, wk, wv, q, k: key, v }), outputs: [q, key, v] };
      });
    });

    testCase(`gate_up with input norms, ${rows} rows`, async (r, op) => {
      const ws = [m, m].map((n) => matrix(r, 'i2_s', n, k));
      const [weight, ...weights] = Array.from({ length: 3 }, () => weightOf(r, k));
      const y = activations(r, rows, k);
      await compare(op, r.seed, (b) => {
        const out = b.out(rows * m);
        const [gate, up] = ws.map(b.matrix);
        const [ng, nu] = weights.map((w) => b.norm(w));
        const common = { rows, x: b.put(y), norm: b.norm(weight), scratch: b.scratch(rows, k) };
        const inputNorms = [ng, nu] as const;
        const op = { ...common, inputNorms, gate, up, activation: 'relu2', out } as const;
        return { enqueue: () => b.ops.gateUp(op), outputs: [out] };
      });
    });

    for (const stem of ['attn_out', 'down'] as const) {
      testCase(`${stem} with a norm behind, ${rows} rows`, async (r, op) => {
        const w = matrix(r, 'i2_s', m, k);
        const [before, behind] = [weightOf(r, k), weightOf(r, m)];
        const [y, x] = [activations(r, rows, k), r.normal(rows * m)];
        await compare(op, r.seed, (b) => {
          const [yIn, norm, postNorm, wIn] = [b.put(y), b.norm(before), b.norm(behind), b.matrix(w)];
          const [to, scratch] = [b.put(x), b.scratch(rows, k)];
          const enqueue = (): void =>
            stem === 'down'
              ? b.ops.down({ rows, h: yIn, norm, wdown: wIn, postNorm, x: to, scratch })
              : b.ops.attnOut({ rows, attn: yIn, norm, wo: wIn, postNorm, x: to, scratch });
          return { enqueue, outputs: [to] };
        });
      });
    }

    testCase(`hidden, ${rows} outs of 16 rows`, async (r, op) => {
      const [x, weight] = [activations(r, 16, k), weightOf(r, k)];
      const index = Int32Array.from(r.shuffled(16).slice(0, rows));
      await compare(op, r.seed, (b) => {
        const out = b.out(rows * k);
        const common = { outs: rows, dim: k, index: b.put(index), x: b.put(x), norm: b.norm(weight) };
        return { enqueue: () => b.ops.hidden({ ...common, out }), outputs: [out] };
      });
    });
  }
}

/** Samplers that look at few logits, at some more, and at all. */
const SCREENED: SamplerOptions[] = [
  { temperature: 0 },
  { topK: 40 },
  { topK: 5, repeatPenalty: 1.3, repeatLastN: 64, logitBias: { 3: -3, 7: 2 } },
  { temperature: 0, frequencyPenalty: 0.5, repeatLastN: -1 },
  { topK: 0 },
];

interface ScreenCase {
  readonly w: HostMatrix;
  /** [8][cols]; row 3 may hold what is no number. */
  readonly x: Float32Array<ArrayBuffer>;
  /** Rows that no bound is known for. */
  readonly exactRows: readonly number[];
}

/**
 * Hidden states are normal, with outliers, zero, and one that is no number. Rows of the head are normal, some equal, some
 * zero, some multiples of a step as the codes are, so that nothing but the activations is off, and two too small to be squared.
 */
function screenedHead(r: Random, type: DenseType): ScreenCase {
  const [vocab, dim] = [4099, 256];
  const weights = r.normal(vocab * dim, 1 / 16);
  weights.copyWithin(100 * dim, 3 * dim, 5 * dim);
  weights.fill(0, 2000 * dim, 2010 * dim);
  for (let i = 3000 * dim; i < 4000 * dim; i++) weights[i] = (i % dim === 0 ? 63 : r.below(127) - 63) / 512;
  const exactRows = type === 'f32' || type === 'bf16' ? [2500, 2501] : [];
  for (const row of exactRows) for (let i = row * dim; i < (row + 1) * dim; i++) weights[i] *= 1e-20;
  const x = r.normal(8 * dim);
  for (let i = dim; i < 2 * dim; i += 50) x[i] *= 40;
  x.fill(0, 2 * dim, 3 * dim);
  x[3 * dim + 5] = Number.NaN;
  return { w: { type, rows: vocab, cols: dim, bytes: denseBytes(type, weights) }, x, exactRows };
}

/**
 * A screened head against the same backend's head: what a sampler looks at has to be the same to the last bit, and what it
 * does not look at within the bound.
 */
async function screenContract(backend: Backend, r: Random, op: string, { w, x, exactRows }: ScreenCase): Promise<void> {
  const [vocab, dim, context] = [w.rows, w.cols, 128];
  const index = Int32Array.from([0, 1, 2, 3, 4, 5, 6, 7, 1, 0]);
  const outs = index.length;
  const stride = paramsBytes(context);
  const params = new Uint8Array(outs * stride);
  const tokens = Array.from({ length: outs }, () => Array.from({ length: context }, () => r.below(vocab)));
  const samplers = tokens.map((_, i) => resolveSampler({ seed: 1, ...SCREENED[i % SCREENED.length] }, vocab));
  samplers.forEach((sampler, i) => {
    writeParams(new DataView(params.buffer, i * stride, stride), sampler, 0, tokens[i], context);
  });
  const [exact, screened, picked, pickedExact, lowered] = (
    await outcome(backend, (b) => {
      const [exactOut, logits] = [b.out(outs * vocab), b.out(outs * vocab)];
      const [picks, exactPicks] = [b.out((outs * PICK_BYTES) / 4), b.out((outs * PICK_BYTES) / 4)];
      const matrix = b.matrix(w);
      const copy = b.put(new Uint8Array(backend.screenBytes(vocab, dim)).fill(0xff));
      const lower = b.put(new Float32Array(outs * vocab).fill(Number.NaN));
      const screen = { copy, lower, params: b.put(params), stride };
      const common = { outs, index: b.put(index), x: b.put(x), norm: b.norm(new Float32Array(dim).fill(1)), w: matrix };
      const scratch = b.scratch(16, dim, context, vocab);
      return {
        enqueue() {
          b.ops.head({ ...common, screen: undefined, logits: exactOut, scratch });
          b.ops.buildScreen({ w: matrix, copy, scratch });
          b.ops.head({ ...common, screen, logits, scratch });
          b.ops.sample({ outs, vocab, logits, params: screen.params, stride, picks, scratch });
          b.ops.sample({ outs, vocab, logits: exactOut, params: screen.params, stride, picks: exactPicks, scratch });
        },
        outputs: [exactOut, logits, picks, exactPicks, lower],
      };
    })
  ).map(floats);
  for (let o = 0; o < outs; o++) {
    const [e, s] = [rowOf(exact, o, vocab), rowOf(screened, o, vocab)];
    const { temperature, topK, biasIds } = samplers[o];
    const changed = [...biasIds, ...(o % 5 === 2 ? tokens[o].slice(-64) : o % 5 === 3 ? tokens[o] : [])];
    const k = temperature > 0 ? topK : 1;
    const wanted = k === 0 ? vocab : Math.min(vocab, k + changed.length);
    const ranked = (z: Float32Array) => [...z.keys()].sort((a, b) => z[b] - z[a] || a - b).slice(0, wanted);
    const [best, got] = [ranked(e), ranked(s)];
    const other = best.findIndex((id, i) => id !== got[i]);
    if (index[o] !== 3 && other >= 0) {
      const [a, b] = [best[other], got[other]];
      const ranks = `rank ${other} of ${wanted} is id ${b} (${s[b]}), expected id ${a} (${e[a]})`;
      throw new Error(`${op}, out ${o}: ${ranks} (seed ${r.seed})`);
    }
    const ids = Int32Array.from([...best, ...changed, ...exactRows]);
    const at = (z: Float32Array) => Float32Array.from(ids, (id) => z[id]);
    agree({ op: `${op}, out ${o}, logits that count`, seed: r.seed, expected: at(e), actual: at(s) });
    if (k > 0 && index[o] !== 3) {
      const l = rowOf(lowered, o, vocab);
      for (let id = 0; id < vocab; id++) {
        if (exactRows.includes(id)) continue;
        const upper = s[id] === e[id] ? Number.POSITIVE_INFINITY : 2 * s[id] - l[id];
        const where = `${op}, out ${o}, id ${id}: ${e[id]} is outside of its bound ${l[id]} … ${upper} (seed ${r.seed})`;
        if (!(l[id] <= e[id] && e[id] <= upper)) throw new Error(where);
      }
    }
    if (k > 0 && index[o] === 0 && vocab > 1024) {
      const off = s.filter((z, id) => z !== e[id]).length;
      expect(off, `${op}, out ${o}: rows left out`).toBeGreaterThan(vocab / 2);
    }
    // Id and logit of the pick; the probability sums what was left out.
    const pick = (z: Float32Array) => z.subarray(o * 4, o * 4 + 2);
    agree({ op: `${op}, pick ${o}`, seed: r.seed, expected: pick(pickedExact), actual: pick(picked) });
  }
}

/** Memory and programs, without arithmetic. */
function queueContract(opened: () => Backend): void {
  it('gives zeroed memory, also where others have been', async () => {
    const backend = opened();
    for (let round = 0; round < 3; round++) {
      const tensor = backend.alloc(1000);
      const bytes = new Uint8Array(1000).fill(1);
      await backend.read(tensor, 0, bytes);
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      backend.write(tensor, 0, bytes.fill(255));
      backend.free(tensor);
    }
  });

  it('reads what was written and filled', async () => {
    const backend = opened();
    const source = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 2654435761) >>> 24);
    const [filled, written] = [backend.alloc(source.length), backend.alloc(64)];
    await backend.fill(filled, async (at, into) => into.set(source.subarray(at, at + into.length)));
    backend.write(written, 12, source.subarray(100, 120));
    const [all, piece] = [new Uint8Array(source.length), new Uint8Array(24)];
    await backend.read(filled, 0, all);
    await backend.read(written, 8, piece);
    expect(Buffer.compare(all, source)).toBe(0);
    expect([...piece]).toEqual([0, 0, 0, 0, ...source.subarray(100, 120)]);
    backend.free(filled);
    backend.free(written);
  });

  it('refuses memory that it cannot have with a RangeError', () => {
    expect(() => opened().alloc(2 ** 48)).toThrow(RangeError);
  });

  it('runs a program again with other contents', async () => {
    const backend = opened();
    const [table, x, tokens] = [backend.alloc(512), backend.alloc(512), backend.alloc(4)];
    const program = backend.record(() => backend.ops.embed({ rows: 1, dim: 128, type: 'f32', tokens, table, x }));
    for (let round = 0; round < 50; round++) {
      const sent = new Float32Array(128).fill(round);
      backend.write(table, 0, new Uint8Array(sent.buffer));
      await backend.run(program);
      const got = new Float32Array(128);
      await backend.read(x, 0, new Uint8Array(got.buffer));
      expect(got).toEqual(sent);
    }
    program.free();
    for (const tensor of [table, x, tokens]) backend.free(tensor);
  });

  it('copies what each run left, of starts that follow each other', async () => {
    const backend = opened();
    const stride = paramsBytes(1);
    const [picks, tokens, pos, params] = [PICK_BYTES, 4, 8, stride].map(backend.alloc);
    // Each run counts the position up; the second number is not touched.
    const program = backend.record(() => backend.ops.advance({ outs: 1, picks, tokens, pos, params, stride }));
    const repeats = Math.min(3, backend.maxRepeats);
    const into = [0, 1].map(() => new Int32Array(2 * repeats + 1).fill(-1));
    const told: number[] = [];
    await Promise.all(
      into.map((numbers, i) => {
        const results = { from: pos, bytes: 8, into: new Uint8Array(numbers.buffer) };
        return promised((done) => backend.start(program, repeats, results, done)).then(() => told.push(i));
      }),
    );
    expect(told).toEqual([0, 1]);
    const counted = [0, 1].map((i) => [
      ...Array.from({ length: repeats }, (_, run) => [i * repeats + run + 1, 0]).flat(),
      -1,
    ]);
    expect(into.map((numbers) => [...numbers])).toEqual(counted);
    program.free();
    for (const tensor of [picks, tokens, pos, params]) backend.free(tensor);
  });

  it('counts the memory that it gives', () => {
    const backend = opened();
    const before = backend.memoryUsed().allocated;
    const tensor = backend.alloc(6400);
    const { allocated, held } = backend.memoryUsed();
    expect(allocated - before).toBeGreaterThanOrEqual(6400);
    expect(held).toBeGreaterThanOrEqual(allocated);
    backend.free(tensor);
    expect(backend.memoryUsed().allocated).toBe(before);
    expect(backend.limitBytes).toBeGreaterThan(held);
  });
}

/**
 * The second of two layers, of which the first stays as it was; three sequences of five blocks, tables shuffled; what no row may see is 3e4. With a slope the last
 * element of queries and keys, which is not rotated, adds slope * position to the scores.
 */
function attentionCase(
  r: Random,
  kvType: KvType,
  shape: HeadShape,
  places: [number, number][],
  { blockSize = 16, slope = 0, headNorms = false } = {},
) {
  const { heads, kvHeads, headDim, ropeDim, ropeStyle } = shape;
  const [layer, maxBlocks, sequences] = [1, 5, 3];
  const rows = places.length;
  const blocks = sequences * maxBlocks;
  const tables = Int32Array.from(r.shuffled(blocks));
  const table = (sequence: number): Int32Array => tables.subarray(sequence * maxBlocks, (sequence + 1) * maxBlocks);
  const viewOf = (bytes: Uint8Array<ArrayBuffer>): KvLayer => {
    const data = kvType === 'f16' ? new Uint16Array(bytes.buffer) : floats(bytes);
    return { data, kvHeads, headDim, blockSize };
  };
  const numbers = blocks * 2 * kvHeads * blockSize * headDim;
  const start = viewOf(new Uint8Array(numbers * (kvType === 'f16' ? 2 : 4)));
  start.data.fill(kvType === 'f16' ? toF16(3e4) : 3e4);
  const sloped = (x: Float32Array<ArrayBuffer>, end: (vector: number) => number): Float32Array<ArrayBuffer> =>
    slope === 0 ? x : x.map((value, i) => ((i + 1) % headDim === 0 ? end(Math.floor(i / headDim)) : value));
  const last = new Map<number, number>();
  for (const [sequence, pos] of places) last.set(sequence, Math.max(pos, last.get(sequence) ?? pos));
  for (const [sequence, count] of last) {
    for (let pos = 0; pos < count; pos++) {
      appendKv(
        start,
        table(sequence),
        pos,
        0,
        sloped(r.normal(kvHeads * headDim), () => slope * pos),
      );
      appendKv(start, table(sequence), pos, 1, r.normal(kvHeads * headDim));
    }
  }
  // Magnitudes that make softmax flat for some rows and peaked for others.
  const q = sloped(
    r.normal(rows * heads * headDim).map((v, i) => v * 4 ** (Math.floor(i / (heads * headDim)) % 3)),
    () => Math.sqrt(headDim),
  );
  const k = sloped(r.normal(rows * kvHeads * headDim), (vector) => slope * places[Math.floor(vector / kvHeads)][1]);
  const v = r.normal(rows * kvHeads * headDim);
  const angles = ropeTable(blockSize * maxBlocks, ropeDim, 10_000);
  const [qNorm, kNorm] = [0, 1].map(() => (headNorms ? weightOf(r, headDim) : undefined));

  /** Rows `from` … `to` - 1 on the cache `bytes`; the outputs are out and the cache, that of the other layer last. */
  const build =
    (from = 0, to = rows, bytes = new Uint8Array(start.data.buffer as ArrayBuffer)): Case =>
    (b) => {
      const part = (x: Float32Array): Float32Array => x.subarray((from * x.length) / rows, (to * x.length) / rows);
      const [other, own, out] = [b.put(bytes), b.put(bytes), b.out((to - from) * heads * headDim)];
      const data = [other, own];
      const kv = { type: kvType, kvHeads, headDim, blockSize, maxBlocks, data, tables: b.put(tables) };
      const pos = b.put(Int32Array.from(places.slice(from, to), ([, p]) => p));
      const sequence = b.put(Int32Array.from(places.slice(from, to), ([s]) => s));
      const inputs = { q: b.put(part(q)), k: b.put(part(k)), v: b.put(part(v)) };
      const common = {
        rows: to - from,
        layer,
        heads,
        ropeDim,
        ropeStyle,
        rope: b.put(angles),
        headNorms: qNorm && kNorm && ([b.norm(qNorm), b.norm(kNorm)] as const),
        places: { pos, sequence },
      };
      const scratch = b.scratch(to - from, heads * headDim, headDim);
      return { enqueue: () => b.ops.attention({ ...common, ...inputs, kv, out, scratch }), outputs: [out, own, other] };
    };
  const numbersOf = (bytes: Uint8Array<ArrayBuffer>): Float32Array =>
    decodeRow(kvType, bytes, 0, bytes.length / (kvType === 'f16' ? 2 : 4));

  const normed = (x: Float32Array, weight: Float32Array | undefined): Float32Array => {
    if (weight === undefined) return x;
    const y = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += headDim) y.set(rmsNorm(x.subarray(at, at + headDim), weight, EPS), at);
    return y;
  };
  const rotate = (x: Float32Array, pos: number): Float32Array =>
    rope(x, headDim, ropeDim, ropeStyle, angles.subarray(pos * ropeDim, (pos + 1) * ropeDim));

  // Keys are rotated, so may differ in their last bits, and in f16 by the rounding that these tip over; all else is a copy.
  const cacheBound = new Float64Array(numbers);
  places.forEach(([sequence, pos], i) => {
    const key = normed(rowOf(k, i, kvHeads * headDim), kNorm);
    const [y, bound] = [rotate(key, pos), ropeBound(key, headDim, ropeDim, ropeStyle)];
    for (let head = 0; head < kvHeads; head++) {
      const at = kvIndex(start, table(sequence), pos, 0, head);
      for (let d = 0; d < headDim; d++) {
        const [value, rounding] = [Math.abs(y[head * headDim + d]), bound[head * headDim + d]];
        const tipped = kvType === 'f16' && rounding > 0 ? value * 2 ** -10 + 2 ** -24 : 0;
        cacheBound[at + d] = rounding + tipped;
      }
    }
  });

  /** What follows from the cache as the backend left it. */
  const outputOf = (data: Uint8Array<ArrayBuffer>): { expected: Float32Array; bound: Float64Array } => {
    const kv = viewOf(data);
    const expected = new Float32Array(rows * heads * headDim + GUARD / 4);
    new Uint8Array(expected.buffer).fill(0xff);
    const bound = boundsOf(rows, (i) => {
      const [sequence, pos] = places[i];
      const keys = gatherKv(kv, table(sequence), pos + 1, 0);
      const values = gatherKv(kv, table(sequence), pos + 1, 1);
      const query = normed(rowOf(q, i, heads * headDim), qNorm);
      const rotated = rotate(query, pos);
      expected.set(attention(rotated, keys, values, heads, kvHeads, headDim), i * heads * headDim);
      return attentionBound(rotated, ropeBound(query, headDim, ropeDim, ropeStyle), keys, values, shape);
    });
    return { expected, bound };
  };
  return { build, numbersOf, cacheBound, outputOf };
}

/** Barriers: the same bits whether ops follow each other in one program or wait for each other in programs of their own. */
async function layerContract(backend: Backend, r: Random, allNorms: boolean): Promise<void> {
  const [rows, dim, ffn, heads, kvHeads, headDim, vocab] = [5, 256, 640, 4, 2, 64, 127];
  const put = (x: Float32Array | Int32Array | Uint8Array): Tensor => {
    const tensor = backend.alloc(x.byteLength);
    backend.write(tensor, 0, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    return tensor;
  };
  const weights = (type: FlatType, m: number, k: number): Matrix => ({
    type,
    rows: m,
    cols: k,
    tensor: put(matrix(r, type, m, k).bytes),
  });
  const norm = (n: number): Norm => ({ weight: put(weightOf(r, n)), eps: EPS });
  const floatsOf = (n: number): Tensor => backend.alloc(rows * n * 4);
  const [table, tokens, x] = [put(r.normal(rows * dim)), put(Int32Array.of(3, 0, 4, 1, 1)), floatsOf(dim)];
  const [q, k, v, out, h, logits] = [dim, 128, 128, dim, ffn, vocab].map(floatsOf);
  const pos = put(Int32Array.from({ length: rows }, (_, i) => i));
  const places = { pos, sequence: put(new Int32Array(rows)) };
  const data = [backend.alloc(2 * kvHeads * 16 * headDim * 4)];
  const tables = put(new Int32Array(1));
  const kv = { type: 'f32', kvHeads, headDim, blockSize: 16, maxBlocks: 1, data, tables } as const;
  const scratch = backend.alloc(backend.scratchBytes(rows, ffn, headDim, vocab));
  const angles = put(ropeTable(16, headDim, 10_000));
  const { ops } = backend;
  const [wq, wk, wv] = [weights('i2_s', dim, dim), weights('i2_s', 128, dim), weights('i2_s', 128, dim)];
  const [wo, gate, up] = [weights('i2_s', dim, dim), weights('i2_s', ffn, dim), weights('i2_s', ffn, dim)];
  const [wdown, w] = [weights('i2_s', dim, ffn), weights('f16', vocab, dim)];
  const [attnNorm, subNorm, ffnNorm, ffnSubNorm, outNorm] = [dim, dim, dim, ffn, dim].map(norm);
  const [nq, nk, nv, postNorm] = [dim, dim, dim, dim].map(norm);
  const [headQ, headK] = [headDim, headDim].map(norm);
  const qkvNorms = allNorms ? { inputNorms: [nq, nk, nv] as const } : {};
  const headNorms = allNorms ? ([headQ, headK] as const) : undefined;
  const gateUpNorms = allNorms ? { inputNorms: [nk, nv] as const } : {};
  const behind = allNorms ? { postNorm } : {};
  const steps = [
    () => ops.embed({ rows, dim, type: 'f32', tokens, table, x }),
    () => ops.qkv({ rows, x, norm: attnNorm, ...qkvNorms, wq, wk, wv, q, k, v, scratch }),
    () =>
      ops.attention({
        ...{ rows, layer: 0, heads, ropeDim: headDim, ropeStyle: 'neox', rope: angles, headNorms },
        ...{ places, kv, q, k, v, out, scratch },
      }),
    () => ops.attnOut({ rows, attn: out, norm: subNorm, wo, ...behind, x, scratch }),
    () => ops.gateUp({ rows, x, norm: ffnNorm, ...gateUpNorms, gate, up, activation: 'silu', out: h, scratch }),
    () => ops.down({ rows, h, norm: ffnSubNorm, wdown, ...behind, x, scratch }),
    () => ops.head({ outs: rows, index: pos, x, norm: outNorm, w, screen: undefined, logits, scratch }),
  ];
  const single = steps.map((step) => backend.record(step));
  const whole = backend.record(() => {
    for (const step of steps) step();
  });
  const result = async (): Promise<Float32Array> => {
    const bytes = new Uint8Array(logits.bytes);
    await backend.read(logits, 0, bytes);
    backend.write(logits, 0, new Uint8Array(logits.bytes));
    return floats(bytes);
  };
  for (const program of single) await backend.run(program);
  const expected = await result();
  expect(expected.every((value) => value !== 0 && Number.isFinite(value))).toBe(true);
  for (let round = 0; round < 20; round++) {
    await backend.run(whole);
    agree({ op: `layer, round ${round}`, seed: r.seed, expected, actual: await result() });
  }
}
