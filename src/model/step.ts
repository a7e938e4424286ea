import type { Backend, Program, Tensor } from '../backend/backend.ts';
import { PICK_BYTES } from '../sampler.ts';
import type { Config } from './config.ts';
import { type Activations, forward } from './forward.ts';
import type { KvBlocks } from './kv_cache.ts';
import type { LoadedWeights } from './weights.ts';

/** How much one step can take. */
export interface StepLimits {
  readonly maxRows: number;
  readonly maxOuts: number;
  /** Bytes of a row's sampling parameters. */
  readonly paramsStride: number;
}

/**
 * One forward pass over a batch of rows. The caller fills the first entries of the arrays, then runs; nothing is allocated
 * a step.
 */
export interface Stepper extends StepLimits {
  /** Of each row: its token, its position, and the row of its sequence in the cache's tables. */
  readonly tokens: Int32Array;
  readonly pos: Int32Array;
  readonly sequence: Int32Array;
  /** The rows whose logits are wanted. */
  readonly index: Int32Array;
  /** Sampling parameters of each out, paramsStride bytes apart; see src/sampler.ts. */
  readonly params: DataView;
  /** What was sampled for each out, PICK_BYTES apart; filled by `run(…, true)`. */
  readonly picks: DataView;
  /** Runs the batch and, with `sample`, picks a token for each out. */
  run(rows: number, outs: number, sample: boolean): Promise<void>;
  /** Logits f32 [vocab] of out `i` of the last run. */
  readLogits(i: number, into: Float32Array): Promise<void>;
  dispose(): void;
}

/** Programs kept, a shape each. Decode needs one a batch size; the last piece of a prompt can have any length. */
const MAX_PROGRAMS = 32;

export function createStepper<T extends Tensor>(
  backend: Backend<T>,
  c: Config,
  w: LoadedWeights<T>,
  kv: KvBlocks<T>,
  limits: StepLimits,
): Stepper {
  const { maxRows, maxOuts, paramsStride } = limits;
  const owned: T[] = [];
  const alloc = (bytes: number) => {
    const tensor = backend.alloc(bytes);
    owned.push(tensor);
    return tensor;
  };
  const context = kv.cache.maxBlocks * kv.cache.blockSize;
  const attnDim = c.heads * c.headDim;
  const a: Activations<T> = {
    staged: alloc(maxRows * w.embedding.rowBytes),
    places: { pos: alloc(maxRows * 4), sequence: alloc(maxRows * 4) },
    index: alloc(maxOuts * 4),
    rope: alloc(context * c.ropeDim * 4),
    x: alloc(maxRows * c.dim * 4),
    q: alloc(maxRows * attnDim * 4),
    k: alloc(maxRows * c.kvHeads * c.headDim * 4),
    v: alloc(maxRows * c.kvHeads * c.headDim * 4),
    attn: alloc(maxRows * attnDim * 4),
    ffn: alloc(maxRows * c.ffnDim * 4),
    logits: alloc(maxOuts * c.vocab * 4),
    scratch: alloc(backend.scratchBytes(maxRows, Math.max(c.dim, attnDim, c.ffnDim), context, c.vocab)),
  };
  const paramsTensor = alloc(maxOuts * paramsStride);
  const picksTensor = alloc(maxOuts * PICK_BYTES);
  backend.write(a.rope, 0, new Uint8Array(ropeTable(c, w.ropeFreqs, context).buffer));

  const tokens = new Int32Array(maxRows);
  const pos = new Int32Array(maxRows);
  const sequence = new Int32Array(maxRows);
  const index = new Int32Array(maxOuts);
  const params = new Uint8Array(maxOuts * paramsStride);
  const picks = new Uint8Array(maxOuts * PICK_BYTES);
  const staged = new Uint8Array(maxRows * w.embedding.rowBytes);
  const bytesOf = (array: Int32Array) => new Uint8Array(array.buffer);
  const posBytes = bytesOf(pos);
  const sequenceBytes = bytesOf(sequence);
  const indexBytes = bytesOf(index);

  const programs = new Map<number, Program>();
  function programFor(rows: number, outs: number, sample: boolean): Program {
    const key = (rows * (maxOuts + 1) + outs) * 2 + (sample ? 1 : 0);
    let program = programs.get(key);
    if (program === undefined) {
      program = backend.record(() => {
        forward(backend.ops, c, w, kv.cache, a, rows, outs);
        if (sample) {
          const { logits, scratch } = a;
          backend.ops.sample({
            outs,
            vocab: c.vocab,
            logits,
            params: paramsTensor,
            stride: paramsStride,
            picks: picksTensor,
            scratch,
          });
        }
      });
      const [oldest] = programs;
      if (programs.size >= MAX_PROGRAMS && oldest !== undefined) {
        oldest[1].free();
        programs.delete(oldest[0]);
      }
      programs.set(key, program);
    }
    return program;
  }

  return {
    ...limits,
    tokens,
    pos,
    sequence,
    index,
    params: new DataView(params.buffer),
    picks: new DataView(picks.buffer),
    async run(rows, outs, sample) {
      const { rowBytes } = w.embedding;
      for (let r = 0; r < rows; r++) w.embedding.readRow(tokens[r], staged.subarray(r * rowBytes, (r + 1) * rowBytes));
      backend.write(a.staged, 0, staged.subarray(0, rows * rowBytes));
      backend.write(a.places.pos, 0, posBytes.subarray(0, rows * 4));
      backend.write(a.places.sequence, 0, sequenceBytes.subarray(0, rows * 4));
      backend.write(a.index, 0, indexBytes.subarray(0, outs * 4));
      if (sample) backend.write(paramsTensor, 0, params.subarray(0, outs * paramsStride));
      await backend.run(programFor(rows, outs, sample));
      if (sample) await backend.read(picksTensor, 0, picks.subarray(0, outs * PICK_BYTES));
    },
    readLogits: (i, into) =>
      backend.read(a.logits, i * c.vocab * 4, new Uint8Array(into.buffer, into.byteOffset, into.byteLength)),
    dispose() {
      for (const program of programs.values()) program.free();
      for (const tensor of owned) backend.free(tensor);
    },
  };
}

/**
 * cos and sin of pos * base^(-2i / ropeDim), f32 [context][ropeDim / 2][2] (RoFormer, arXiv 2104.09864). The angle of pair i
 * is that of pair i - 1 times base^(-2 / ropeDim), rounded to f32 each time, as in ggml, whose last bits models were run with.
 */
export function ropeTable(c: Config, freqs: Float32Array | undefined, context: number): Float32Array {
  const half = c.ropeDim / 2;
  const table = new Float32Array(context * c.ropeDim);
  const step = Math.fround(c.ropeBase ** (-2 / c.ropeDim));
  for (let p = 0; p < context; p++) {
    let theta = Math.fround(p / c.ropeFactor);
    for (let i = 0; i < half; i++) {
      const angle = freqs === undefined ? theta : Math.fround(theta / freqs[i]);
      table[p * c.ropeDim + 2 * i] = Math.cos(angle);
      table[p * c.ropeDim + 2 * i + 1] = Math.sin(angle);
      theta = Math.fround(theta * step);
    }
  }
  return table;
}
