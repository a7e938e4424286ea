import { type Backend, type Done, type Program, promised, type Results, type Tensor } from '../backend/backend.ts';
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

/** The error, or the picks [repeats][outs], PICK_BYTES apart (src/sampler.ts), which are valid until this returns. */
export type StepDone = (error: Error | undefined, picks: DataView) => void;

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
  /** Most tokens that the rows of a step can draw one after another in one start: the backend's maxRepeats. */
  readonly maxRepeats: number;
  /**
   * Runs the batch; with `sample`, picks a token for each out. `repeats` above 1 only where row i is out i for all rows: each
   * then goes on with what it drew.
   */
  start(rows: number, outs: number, sample: boolean, repeats: number, done: StepDone): void;
  /**
   * As often again, from where the last start, or the last `again`, leaves its rows; may be called while that is under way. Only
   * for batches that may repeat, on a backend whose maxRepeats is above 1.
   */
  again(repeats: number, done: StepDone): void;
  /** As `start`, once, for a caller that wants a promise and no picks. */
  run(rows: number, outs: number, sample: boolean): Promise<void>;
  /** Logits f32 [vocab] of out `i` of the last run; of a model without a head its hidden state f32 [dim]. */
  readOut(i: number, into: Float32Array): Promise<void>;
  dispose(): void;
}

/** Shapes kept, 23 KB each for 30 layers (193 words a layer): one a number of decoding sequences, and those of the last pieces of prompts. */
const MAX_SHAPES = 32;

/** Most bytes of all programs of a model; rounded up (test/fit.test.ts holds it to some). */
export function programBytes(c: Config): number {
  return MAX_SHAPES * (1024 * c.layers + 2048);
}

interface Shape<T extends Tensor> {
  readonly program: Program;
  /** What is written before each start. */
  readonly inputs: readonly (readonly [T, Uint8Array])[];
  /** Where picks go, of each of the two that may be under way. */
  readonly results: readonly [Results<T> | undefined, Results<T> | undefined];
}

/** A start that is under way, or will be: two of them alternate. */
interface Slot {
  readonly picks: Uint8Array;
  whenDone: StepDone;
  readonly onRun: Done;
}

function createSlot(bytes: number): Slot {
  const picks = new Uint8Array(bytes);
  const view = new DataView(picks.buffer);
  const slot: Slot = { picks, whenDone() {}, onRun: (error) => slot.whenDone(error, view) };
  return slot;
}

type StepTensor =
  | ('tokens' | 'staged' | 'pos' | 'sequence' | 'index' | 'rope' | 'x' | 'q' | 'k' | 'v' | 'attn' | 'ffn')
  | ('logits' | 'scratch' | 'params' | 'picks' | 'lower');

/**
 * Bytes of the tensors of a step. `staged` is for embedding rows that the host puts there, `rowBytes` each, `lower` for a
 * screened head: some models go without.
 */
export function stepBytes(
  backend: Pick<Backend, 'scratchBytes'>,
  c: Config,
  context: number,
  rowBytes: number,
  { maxRows, maxOuts, paramsStride }: StepLimits,
): Record<StepTensor, number> {
  const attnDim = c.heads * c.headDim;
  const kvDim = c.kvHeads * c.headDim;
  return {
    tokens: maxRows * 4,
    staged: maxRows * rowBytes,
    pos: maxRows * 4,
    sequence: maxRows * 4,
    index: maxOuts * 4,
    rope: context * c.ropeDim * 4,
    x: maxRows * c.dim * 4,
    q: maxRows * attnDim * 4,
    k: maxRows * kvDim * 4,
    v: maxRows * kvDim * 4,
    attn: maxRows * attnDim * 4,
    ffn: maxRows * c.ffnDim * 4,
    logits: maxOuts * widthOf(c) * 4,
    scratch: backend.scratchBytes(maxRows, Math.max(c.dim, attnDim, c.ffnDim), c.headDim, c.vocab),
    params: maxOuts * paramsStride,
    picks: maxOuts * PICK_BYTES,
    lower: maxOuts * c.vocab * 4,
  };
}

/** Numbers that come out of a row: logits, or of a model without a head its hidden state. */
const widthOf = (c: Config) => (c.headTensor === undefined ? c.dim : c.vocab);

export function createStepper<T extends Tensor>(
  backend: Backend<T>,
  c: Config,
  w: LoadedWeights<T>,
  kv: KvBlocks<T>,
  limits: StepLimits,
): Stepper {
  const { maxRows, maxOuts, paramsStride } = limits;
  const { maxRepeats } = backend;
  const { tensor: embedding, rowBytes, readRow } = w.embedding;
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
  const width = widthOf(c);
  const bytes = stepBytes(backend, c, context, rowBytes, limits);
  const a: Activations<T> = {
    tokens: alloc(bytes.tokens),
    table: embedding ?? alloc(bytes.staged),
    places: { pos: alloc(bytes.pos), sequence: alloc(bytes.sequence) },
    index: alloc(bytes.index),
    rope: alloc(bytes.rope),
    x: alloc(bytes.x),
    q: alloc(bytes.q),
    k: alloc(bytes.k),
    v: alloc(bytes.v),
    attn: alloc(bytes.attn),
    ffn: alloc(bytes.ffn),
    logits: alloc(bytes.logits),
    scratch: alloc(bytes.scratch),
  };
  const paramsTensor = alloc(bytes.params);
  const picksTensor = alloc(bytes.picks);
  const screen = w.screen && {
    copy: w.screen,
    lower: alloc(bytes.lower),
    params: paramsTensor,
    stride: paramsStride,
  };
  backend.write(a.rope, 0, new Uint8Array(ropeTable(c, w.ropeFreqs, context).buffer));

  const tokens = new Int32Array(maxRows);
  const pos = new Int32Array(maxRows);
  const sequence = new Int32Array(maxRows);
  const index = new Int32Array(maxOuts);
  const params = new Uint8Array(maxOuts * paramsStride);
  const slots = [createSlot(maxRepeats * maxOuts * PICK_BYTES), createSlot(maxRepeats * maxOuts * PICK_BYTES)] as const;
  const staged = new Uint8Array(embedding === undefined ? maxRows * rowBytes : 0);
  const stagedRows = Array.from({ length: maxRows }, (_, r) => staged.subarray(r * rowBytes, (r + 1) * rowBytes));
  // Rows that the host puts there stand in order.
  if (embedding === undefined) backend.write(a.tokens, 0, bytesOf(Int32Array.from(stagedRows.keys()), maxRows));

  /** A program for one shape of batch, and the views of what goes in and out, so that a step makes none. */
  function shapeOf(rows: number, outs: number, sample: boolean): Shape<T> {
    const program = backend.record(() => {
      // Whoever reads logits gets all of them as the file has them; a sampler looks at the best.
      forward(backend.ops, c, w, kv.cache, a, rows, outs, sample ? screen : undefined);
      if (!sample) return;
      const { logits, scratch } = a;
      const drawn = { outs, params: paramsTensor, stride: paramsStride, picks: picksTensor };
      backend.ops.sample({ ...drawn, vocab: c.vocab, logits, scratch });
      if (rows === outs && maxRepeats > 1) backend.ops.advance({ ...drawn, tokens: a.tokens, pos: a.places.pos });
    });
    const inputs: [T, Uint8Array][] = [
      embedding === undefined ? [a.table, staged.subarray(0, rows * rowBytes)] : [a.tokens, bytesOf(tokens, rows)],
      [a.places.pos, bytesOf(pos, rows)],
      [a.places.sequence, bytesOf(sequence, rows)],
      [a.index, bytesOf(index, outs)],
    ];
    if (sample) inputs.push([paramsTensor, params.subarray(0, outs * paramsStride)]);
    const picked = outs * PICK_BYTES;
    const resultsIn = ({ picks }: Slot): Results<T> | undefined =>
      sample ? { from: picksTensor, bytes: picked, into: picks.subarray(0, maxRepeats * picked) } : undefined;
    return { program, inputs, results: [resultsIn(slots[0]), resultsIn(slots[1])] };
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

  let turn: 0 | 1 = 0;
  /** Starts the shape of the last batch. */
  function again(repeats: number, done: StepDone): void {
    const slot = slots[turn];
    slot.whenDone = done;
    const results = lastShape.results[turn];
    turn = turn === 0 ? 1 : 0;
    backend.start(lastShape.program, repeats, results, slot.onRun);
  }

  function start(rows: number, outs: number, sample: boolean, repeats: number, done: StepDone): void {
    const { inputs } = shapeFor(rows, outs, sample);
    if (readRow !== undefined) for (let r = 0; r < rows; r++) readRow(tokens[r], stagedRows[r]);
    for (let i = 0; i < inputs.length; i++) backend.write(inputs[i][0], 0, inputs[i][1]);
    again(repeats, done);
  }

  return {
    ...limits,
    tokens,
    pos,
    sequence,
    index,
    params: Array.from({ length: maxOuts }, (_, i) => new DataView(params.buffer, i * paramsStride, paramsStride)),
    maxRepeats,
    start,
    again,
    run: (rows, outs, sample) => promised((done) => start(rows, outs, sample, 1, done)),
    async readOut(i, into) {
      await backend.read(a.logits, i * width * 4, new Uint8Array(into.buffer, into.byteOffset, into.byteLength));
    },
    dispose() {
      for (const { program } of shapes.values()) program.free();
      for (const tensor of owned) backend.free(tensor);
    },
  };
}

function bytesOf(x: Int32Array, count: number): Uint8Array {
  return new Uint8Array(x.buffer, 0, count * 4);
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
