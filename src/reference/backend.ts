import {
  type Backend,
  type Matrix,
  type Norm,
  type Ops,
  type Program,
  promised,
  type Results,
  type Tensor,
} from '../backend/backend.ts';
import { PICK_BYTES } from '../sampler.ts';
import { advance } from './advance.ts';
import { attention } from './attention.ts';
import { checkTernary } from './check_ternary.ts';
import { decodeRow } from './decode_row.ts';
import { glu } from './glu.ts';
import { appendKv, gatherKv, type KvLayer } from './kv_cache.ts';
import { linear } from './linear.ts';
import { repackTq1 } from './repack.ts';
import { repackTl, unpackTl } from './repack_tl.ts';
import { rmsNorm } from './rms_norm.ts';
import { rope } from './rope.ts';
import { sample } from './sample.ts';

/** A tensor in its own buffer. */
export interface ReferenceTensor extends Tensor {
  readonly buffer: ArrayBuffer;
}

type T = ReferenceTensor;

/** The primitives of this folder as a Backend: the executable specification of every other one. Clear, not fast. */
export function referenceBackend(): Backend<ReferenceTensor> {
  let recording: (() => void)[] | undefined;
  const programs = new WeakMap<Program, (() => void)[]>();
  const live = new Set<T>();
  const enqueue = (step: () => void): void => {
    if (!recording) throw new Error('an op was called outside record()');
    recording.push(step);
  };
  /** Runs here and now; what is copied after each run. */
  async function runs(program: Program, repeats: number, results: Results<T> | undefined): Promise<Uint8Array> {
    const { bytes = 0 } = results ?? {};
    const left = new Uint8Array(repeats * bytes);
    for (let i = 0; i < repeats; i++) {
      for (const step of programs.get(program) ?? []) step();
      if (results !== undefined) left.set(new Uint8Array(results.from.buffer, 0, bytes), i * bytes);
    }
    return left;
  }
  const backend: Backend<T> = {
    name: 'reference',
    computes: ['i2_s', 'tl1', 'tl2', 'tq1_0', 'tq2_0'],
    repacks: {},
    limitBytes: Number.POSITIVE_INFINITY,
    maxRepeats: 1,
    alloc(bytes) {
      if (bytes > 2 ** 32) throw new RangeError(`wanted ${bytes} bytes; the reference backend gives at most 4 GiB`);
      const tensor = { bytes, buffer: new ArrayBuffer(bytes) };
      live.add(tensor);
      return tensor;
    },
    free(tensor) {
      if (!live.delete(tensor)) throw new Error(`free of a tensor of ${tensor.bytes} bytes, which is not allocated`);
    },
    write(tensor, at, bytes) {
      new Uint8Array(tensor.buffer).set(bytes, at);
    },
    async fill(tensor, read) {
      await read(0, new Uint8Array(tensor.buffer));
    },
    async read(tensor, at, into) {
      into.set(new Uint8Array(tensor.buffer, at, into.length));
    },
    scratchBytes: () => 0,
    screenBytes: () => 0,
    ops: referenceOps(enqueue),
    record(build) {
      const steps: (() => void)[] = [];
      recording = steps;
      try {
        build();
      } finally {
        recording = undefined;
      }
      const program = { free() {} };
      programs.set(program, steps);
      return program;
    },
    run: (program) => promised((done) => backend.start(program, 1, undefined, done)),
    start(program, repeats, results, done) {
      runs(program, repeats, results).then((left) => {
        results?.into.set(left);
        done();
      }, done);
    },
    memoryUsed() {
      const allocated = [...live].reduce((sum, { bytes }) => sum + bytes, 0);
      return { allocated, held: allocated };
    },
    async dispose() {
      live.clear();
    },
  };
  return backend;
}

function referenceOps(enqueue: (step: () => void) => void): Ops<ReferenceTensor> {
  return {
    embed: ({ rows, dim, type, scale = 1, tokens, table, x }) =>
      enqueue(() => {
        for (let r = 0; r < rows; r++) {
          const values = decodeRow(type, new Uint8Array(table.buffer), ints(tokens)[r], dim);
          row(x, r, dim).set(values.map((value) => value * Math.fround(scale)));
        }
      }),

    qkv: ({ rows, x, norm, inputNorms, wq, wk, wv, q, k, v }) =>
      enqueue(() => {
        for (let r = 0; r < rows; r++) {
          const h = normed(row(x, r, wq.cols), norm);
          row(q, r, wq.rows).set(times(wq, normed(h, inputNorms?.[0])));
          row(k, r, wk.rows).set(times(wk, normed(h, inputNorms?.[1])));
          row(v, r, wv.rows).set(times(wv, normed(h, inputNorms?.[2])));
        }
      }),

    attention: (op) =>
      enqueue(() => {
        const { heads, ropeDim, ropeStyle, kv } = op;
        const { kvHeads, headDim, maxBlocks } = kv;
        const { buffer } = kv.data[op.layer];
        const data = kv.type === 'f16' ? new Uint16Array(buffer) : new Float32Array(buffer);
        const layer: KvLayer = { data, kvHeads, headDim, blockSize: kv.blockSize };
        const rotated = (t: T, r: number, width: number, norm: Norm<T> | undefined): Float32Array => {
          const x = new Float32Array(width);
          for (let at = 0; at < width; at += headDim) {
            x.set(normed(row(t, r, width).subarray(at, at + headDim), norm), at);
          }
          return rope(x, headDim, ropeDim, ropeStyle, row(op.rope, ints(op.places.pos)[r], ropeDim));
        };
        const table = (r: number): Int32Array =>
          ints(kv.tables)
            .subarray(ints(op.places.sequence)[r] * maxBlocks)
            .subarray(0, maxBlocks);
        // All rows are appended before any is read: a prompt's rows see the ones before them.
        for (let r = 0; r < op.rows; r++) {
          const pos = ints(op.places.pos)[r];
          appendKv(layer, table(r), pos, 0, rotated(op.k, r, kvHeads * headDim, op.headNorms?.[1]));
          appendKv(layer, table(r), pos, 1, row(op.v, r, kvHeads * headDim));
        }
        for (let r = 0; r < op.rows; r++) {
          const count = ints(op.places.pos)[r] + 1;
          const keys = gatherKv(layer, table(r), count, 0);
          const values = gatherKv(layer, table(r), count, 1);
          const q = rotated(op.q, r, heads * headDim, op.headNorms?.[0]);
          row(op.out, r, heads * headDim).set(attention(q, keys, values, heads, kvHeads, headDim));
        }
      }),

    attnOut: ({ rows, attn, norm, wo, postNorm, x }) =>
      enqueue(() => {
        for (let r = 0; r < rows; r++) {
          add(row(x, r, wo.rows), normed(times(wo, normed(row(attn, r, wo.cols), norm)), postNorm));
        }
      }),

    gateUp: ({ rows, x, norm, inputNorms, gate, up, activation, out }) =>
      enqueue(() => {
        for (let r = 0; r < rows; r++) {
          const h = normed(row(x, r, gate.cols), norm);
          const [g, u] = [times(gate, normed(h, inputNorms?.[0])), times(up, normed(h, inputNorms?.[1]))];
          row(out, r, gate.rows).set(glu(activation, g, u));
        }
      }),

    down: ({ rows, h, norm, wdown, postNorm, x }) =>
      enqueue(() => {
        for (let r = 0; r < rows; r++) {
          add(row(x, r, wdown.rows), normed(times(wdown, normed(row(h, r, wdown.cols), norm)), postNorm));
        }
      }),

    hidden: ({ outs, dim, index, x, norm, out }) =>
      enqueue(() => {
        for (let o = 0; o < outs; o++) row(out, o, dim).set(normed(row(x, ints(index)[o], dim), norm));
      }),

    checkTernary: ({ w, found, at }) =>
      enqueue(() => {
        const bytes = new Uint8Array(w.tensor.buffer);
        let bad: number;
        if (w.type === 'tl1' || w.type === 'tl2') bad = unpackTl(w, bytes).bad;
        else if (w.type === 'tq2_0') bad = checkTernary(bytes.subarray(0, (w.rows * w.cols * 66) / 256), true);
        else bad = checkTernary(bytes.subarray(0, w.rows * 32 * Math.ceil(w.cols / 128)), false);
        new Uint32Array(found.buffer, at, 1)[0] = bad;
      }),

    repack: ({ from, to, found, at }) =>
      enqueue(() => {
        const [bytes, into] = [new Uint8Array(from.tensor.buffer), new Uint8Array(to.tensor.buffer)];
        if (from.type === 'tq1_0') into.set(repackTq1(bytes, (from.rows * from.cols) / 256));
        else {
          new Uint32Array(found.buffer, at, 1)[0] = unpackTl(from, bytes).bad;
          into.set(repackTl(from, bytes));
        }
      }),

    // Nothing is left out here, which is what a screen must not be told from.
    buildScreen: () => {},

    head: ({ outs, index, x, norm, w, logits }) =>
      enqueue(() => {
        for (let o = 0; o < outs; o++) {
          row(logits, o, w.rows).set(times(w, normed(row(x, ints(index)[o], w.cols), norm)));
        }
      }),

    sample: ({ outs, vocab, logits, params, stride, picks }) =>
      enqueue(() => {
        for (let o = 0; o < outs; o++) {
          const pick = new DataView(picks.buffer, o * PICK_BYTES, PICK_BYTES);
          sample(row(logits, o, vocab), new DataView(params.buffer, o * stride, stride), pick);
        }
      }),

    advance: ({ outs, picks, tokens, pos, params, stride }) =>
      enqueue(() => {
        for (let o = 0; o < outs; o++) {
          const pick = new DataView(picks.buffer, o * PICK_BYTES, PICK_BYTES);
          ints(tokens)[o] = advance(pick, new DataView(params.buffer, o * stride, stride));
          ints(pos)[o]++;
        }
      }),
  };
}

function floats(tensor: T): Float32Array {
  return new Float32Array(tensor.buffer);
}

function ints(tensor: T): Int32Array {
  return new Int32Array(tensor.buffer);
}

/** Row r of a tensor [rows][cols] f32, its own memory. */
function row(tensor: T, r: number, cols: number): Float32Array {
  return new Float32Array(tensor.buffer, r * cols * 4, cols);
}

function normed(x: Float32Array, norm: Norm<T> | undefined): Float32Array {
  return norm ? rmsNorm(x, floats(norm.weight).subarray(0, x.length), norm.eps) : x;
}

function times(w: Matrix<T>, x: Float32Array): Float32Array {
  return linear(w.type, new Uint8Array(w.tensor.buffer), w.rows, w.cols, x, w.tiles);
}

function add(x: Float32Array, y: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}
