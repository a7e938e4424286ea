import { type Backend, type Done, type Program, promised, type Tensor } from '../backend/backend.ts';
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
  /** Sampling parameters of each out, see src/sampler.ts. */
  readonly params: readonly DataView[];
  /** What was sampled for each out, PICK_BYTES apart; filled with `sample`. */
  readonly picks: DataView;
  /** Runs the batch and, with `sample`, picks a token for each out. One batch at a time. */
  run(rows: number, outs: number, sample: boolean): Promise<void>;
  /** As `run`, without promises. */
  start(rows: number, outs: number, sample: boolean, done: Done): void;
  /** Logits f32 [vocab] of out `i` of the last run; of a model without a head its hidden state f32 [dim]. */
  readOut(i: number, into: Float32Array): Promise<void>;
  dispose(): void;
}

/** Shapes kept, 23 KB each for 30 layers (193 words a layer): one a number of decoding sequences, and those of the last pieces of prompts. */
const MAX_SHAPES = 32;

interface Shape<T extends Tensor> {
  readonly program: Program;
  /** What is written before each run. */
  readonly inputs: readonly (readonly [T, Uint8Array])[];
  readonly picks: Uint8Array | undefined;
}

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
    try {
      const tensor = backend.alloc(bytes);
      owned.push(tensor);
      return tensor;
    } catch (error) {
      for (const tensor of owned) backend.free(tensor);
      throw error;
    }
  };
  const context = kv.cache.maxBlocks * kv.cache.blockSize;
  const attnDim = c.heads * c.headDim;
  const width = c.headTensor === undefined ? c.dim : c.vocab;
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
    logits: alloc(maxOuts * width * 4),
    scratch: alloc(backend.scratchBytes(maxRows, Math.max(c.dim, attnDim, c.ffnDim), c.headDim, c.vocab)),
  };
  const paramsTensor = alloc(maxOuts * paramsStride);
  const picksTensor = alloc(maxOuts * PICK_BYTES);
  const screen = w.screen && {
    copy: w.screen,
    lower: alloc(maxOuts * c.vocab * 4),
    params: paramsTensor,
    stride: paramsStride,
  };
  backend.write(a.rope, 0, new Uint8Array(ropeTable(c, w.ropeFreqs, context).buffer));

  const tokens = new Int32Array(maxRows);
  const pos = new Int32Array(maxRows);
  const sequence = new Int32Array(maxRows);
  const index = new Int32Array(maxOuts);
  const params = new Uint8Array(maxOuts * paramsStride);
  const picks = new Uint8Array(maxOuts * PICK_BYTES);
  const { rowBytes } = w.embedding;
  const staged = new Uint8Array(maxRows * rowBytes);
  const stagedRows = Array.from({ length: maxRows }, (_, r) => staged.subarray(r * rowBytes, (r + 1) * rowBytes));

  /** A program for one shape of batch, and the views of what goes in and out, so that a step makes none. */
  function shapeOf(rows: number, outs: number, sample: boolean): Shape<T> {
    const program = backend.record(() => {
      // Whoever reads logits gets all of them as the file has them; a sampler looks at the best.
      forward(backend.ops, c, w, kv.cache, a, rows, outs, sample ? screen : undefined);
      if (sample) {
        const { logits, scratch } = a;
        const stride = paramsStride;
        backend.ops.sample({
          outs,
          vocab: c.vocab,
          logits,
          params: paramsTensor,
          stride,
          picks: picksTensor,
          scratch,
        });
      }
    });
    const inputs: [T, Uint8Array][] = [
      [a.staged, staged.subarray(0, rows * rowBytes)],
      [a.places.pos, new Uint8Array(pos.buffer, 0, rows * 4)],
      [a.places.sequence, new Uint8Array(sequence.buffer, 0, rows * 4)],
      [a.index, new Uint8Array(index.buffer, 0, outs * 4)],
    ];
    if (sample) inputs.push([paramsTensor, params.subarray(0, outs * paramsStride)]);
    return { program, inputs, picks: sample ? picks.subarray(0, outs * PICK_BYTES) : undefined };
  }

  const shapes = new Map<number, Shape<T>>();
  let lastKey = -1;
  let lastShape: Shape<T>;
  function shapeFor(rows: number, outs: number, sample: boolean): Shape<T> {
    const key = (rows * (maxOuts + 1) + outs) * 2 + (sample ? 1 : 0);
    if (key === lastKey) return lastShape;
    const shape = shapes.get(key) ?? shapeOf(rows, outs, sample);
    // A map keeps the order of insertion: what was used last goes to its end, what goes is the first.
    shapes.delete(key);
    shapes.set(key, shape);
    const [oldest] = shapes;
    if (shapes.size > MAX_SHAPES) {
      oldest[1].program.free();
      shapes.delete(oldest[0]);
    }
    lastKey = key;
    lastShape = shape;
    return shape;
  }

  /** Of the step under way. */
  let whenDone: Done = () => {};
  let running: Shape<T> | undefined;
  function onRun(error?: Error): void {
    const picked = running?.picks;
    const reading = error === undefined && picked !== undefined ? backend.read(picksTensor, 0, picked) : undefined;
    if (reading === undefined) whenDone(error);
    else reading.then(() => whenDone(), whenDone);
  }

  function start(rows: number, outs: number, sample: boolean, done: Done): void {
    running = shapeFor(rows, outs, sample);
    whenDone = done;
    for (let r = 0; r < rows; r++) w.embedding.readRow(tokens[r], stagedRows[r]);
    for (let i = 0; i < running.inputs.length; i++) backend.write(running.inputs[i][0], 0, running.inputs[i][1]);
    backend.start(running.program, onRun);
  }

  return {
    ...limits,
    tokens,
    pos,
    sequence,
    index,
    params: Array.from({ length: maxOuts }, (_, i) => new DataView(params.buffer, i * paramsStride, paramsStride)),
    picks: new DataView(picks.buffer),
    run: (rows, outs, sample) => promised((done) => start(rows, outs, sample, done)),
    start,
    async readOut(i, into) {
      await backend.read(a.logits, i * width * 4, new Uint8Array(into.buffer, into.byteOffset, into.byteLength));
    },
    dispose() {
      for (const { program } of shapes.values()) program.free();
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
