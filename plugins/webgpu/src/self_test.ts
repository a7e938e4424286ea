import type { Backend, Matrix, Norm, Tensor } from 'ternlm/backend';
import { referenceBackend } from 'ternlm/reference';
import { PICK_BYTES, paramsBytes, resolveSampler, writeParams } from 'ternlm/sampler';

// One product and one small model of one layer, on the device and by the reference: whether the driver computes what the
// shaders say. The shaders themselves are held to the reference by test/contract.ts.

const [DIM, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB, STEPS, EPS] = [256, 640, 4, 2, 64, 192, 3, 1e-5];

/** What a backend left: the product, and after each step the logits and the token drawn. */
interface Answer {
  readonly product: Float32Array;
  readonly logits: readonly Float32Array[];
  readonly tokens: readonly number[];
}

/** Runs the same inputs, seeded, on any backend. */
async function answerOf<T extends Tensor>(backend: Backend<T>): Promise<Answer> {
  let state = 1;
  const next = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const tensors: T[] = [];
  const put = (bytes: ArrayBufferView): T => {
    const tensor = backend.alloc(bytes.byteLength);
    tensors.push(tensor);
    backend.write(tensor, 0, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    return tensor;
  };
  const floats = (n: number) => Float32Array.from({ length: n }, () => (next(2001) - 1000) / 700);
  const room = (n: number) => put(new Float32Array(n));
  const norm = (n: number): Norm<T> => ({ weight: put(floats(n).map((x) => 1 + x / 4)), eps: EPS });
  const ternary = (rows: number, cols: number): Matrix<T> => {
    const bytes = new Uint8Array((rows * cols) / 4 + 32);
    for (let i = 0; i < (rows * cols) / 4; i++) {
      for (let shift = 0; shift < 8; shift += 2) bytes[i] |= next(3) << shift;
    }
    new DataView(bytes.buffer).setFloat32((rows * cols) / 4, 0.04, true);
    return { type: 'i2_s', rows, cols, tensor: put(bytes) };
  };
  // Halves of either sign from 2^-5 to 2^-4.
  const halves = (rows: number, cols: number): Matrix<T> => {
    const bits = Uint16Array.from({ length: rows * cols }, () => (next(2) << 15) | (10 << 10) | next(1024));
    return { type: 'f16', rows, cols, tensor: put(bits) };
  };
  const read = async (tensor: T, n: number): Promise<Float32Array> => {
    const values = new Float32Array(n);
    await backend.read(tensor, 0, new Uint8Array(values.buffer));
    return values;
  };

  const attnDim = HEADS * HEAD_DIM;
  const kvDim = KV_HEADS * HEAD_DIM;
  const [wq, wk, wv] = [ternary(attnDim, DIM), ternary(kvDim, DIM), ternary(kvDim, DIM)];
  const [wo, gate, up, wdown] = [ternary(DIM, attnDim), ternary(FFN, DIM), ternary(FFN, DIM), ternary(DIM, FFN)];
  const [attnNorm, woNorm, ffnNorm, downNorm, outNorm] = [DIM, attnDim, DIM, FFN, DIM].map(norm);
  const w = halves(VOCAB, DIM);
  const angles = Float32Array.from({ length: 32 * HEAD_DIM }, (_, i) => {
    const angle = Math.floor(i / HEAD_DIM) / 10 ** ((i % HEAD_DIM) / 16);
    return i % 2 === 0 ? Math.cos(angle) : Math.sin(angle);
  });
  const stride = paramsBytes(8);
  const params = new Uint8Array(stride);
  writeParams(new DataView(params.buffer), resolveSampler({ temperature: 0 }, VOCAB), 0, [], 0);
  const kv = {
    ...{ type: 'f16' as const, kvHeads: KV_HEADS, headDim: HEAD_DIM, blockSize: 32, maxBlocks: 1 },
    ...{ data: [room(KV_HEADS * 32 * HEAD_DIM)], tables: put(new Int32Array(1)) },
  } as const;
  const [tokens, pos, sequence, index] = [[5], [0], [0], [0]].map((x) => put(Int32Array.from(x)));
  const [x, q, k, v, attn, ffn, logits] = [DIM, attnDim, kvDim, kvDim, attnDim, FFN, VOCAB].map(room);
  const [picks, sampler, scratch] = [room(PICK_BYTES / 4), put(params), room(0)];
  const { ops } = backend;
  const places = { pos, sequence };
  const [rope, rows, layer, outs] = [put(angles), 1, 0, 1];
  const h = put(floats(FFN));
  const product = room(DIM);
  const first = backend.record(() => ops.down({ rows, h, norm: downNorm, wdown, x: product, scratch }));
  const program = backend.record(() => {
    const shape = { heads: HEADS, ropeDim: HEAD_DIM, ropeStyle: 'neox' } as const;
    ops.embed({ rows, dim: DIM, type: 'f16', tokens, table: w.tensor, x });
    ops.qkv({ rows, x, norm: attnNorm, wq, wk, wv, q, k, v, scratch });
    ops.attention({ rows, layer, ...shape, rope, places, kv, q, k, v, out: attn, scratch });
    ops.attnOut({ rows, attn, norm: woNorm, wo, x, scratch });
    ops.gateUp({ rows, x, norm: ffnNorm, gate, up, activation: 'relu2', out: ffn, scratch });
    ops.down({ rows, h: ffn, norm: downNorm, wdown, x, scratch });
    ops.head({ outs, index, x, norm: outNorm, w, screen: undefined, logits, scratch });
    ops.sample({ outs, vocab: VOCAB, logits, params: sampler, stride, picks, scratch });
    ops.advance({ outs, picks, tokens, pos, params: sampler, stride });
  });
  try {
    await backend.run(first);
    const answer = { product: await read(product, DIM), logits: [] as Float32Array[], tokens: [] as number[] };
    for (let step = 0; step < STEPS; step++) {
      await backend.run(program);
      answer.logits.push(await read(logits, VOCAB));
      answer.tokens.push(new Int32Array((await read(tokens, 1)).buffer)[0]);
    }
    return answer;
  } finally {
    first.free();
    program.free();
    for (const tensor of tensors) backend.free(tensor);
  }
}

/** How far logits may be off, of the largest: float sums differ, and an activation of 127 steps may be rounded the other way. */
const CLOSE = 0.02;

/** @throws Error when the backend computes wrong numbers: which op, where, expected, got */
export async function selfTest<T extends Tensor>(backend: Backend<T>): Promise<void> {
  const expected = await answerOf(referenceBackend());
  const actual = await answerOf(backend);
  const check = (what: string, e: Float32Array, a: Float32Array, bound: number) => {
    const i = e.findIndex((value, at) => !(Math.abs(value - a[at]) <= bound));
    if (i >= 0) throw new Error(`self-test, ${what}: number ${i} is ${a[i]}, expected ${e[i]} within ${bound}`);
  };
  check('bit_linear', expected.product, actual.product, 0);
  for (let step = 0; step < STEPS; step++) {
    const e = expected.logits[step];
    const largest = e.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    check(`logits of step ${step}`, e, actual.logits[step], CLOSE * largest);
  }
  if (actual.tokens.join() !== expected.tokens.join()) {
    throw new Error(`self-test, sample: tokens ${actual.tokens.join(' ')}, expected ${expected.tokens.join(' ')}`);
  }
}
