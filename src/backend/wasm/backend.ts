import { host } from '#host';
import type { KernelsName } from '../../host/kernels.js';
import { PICK_BYTES } from '../../sampler.ts';
import {
  type Activation,
  type Backend,
  type Matrix,
  type Norm,
  type Ops,
  type Program,
  promised,
  type Results,
  type WeightType,
} from '../backend.ts';
import { instantiate } from './abi.ts';
import { createMemory, MAX_THREADS, type WasmTensor } from './memory.ts';
import { inlinePool, workerPool } from './pool.ts';
import { align, sizingOf, type WasmSizing, weightCodes } from './sizes.ts';
import { chooseTier, type Dot, kernelsNamed, type Tier, type TierChoice } from './tier.ts';

export interface WasmOptions {
  /** 1 runs inline, on the caller's thread; more start that many workers. Default: the physical cores, at most 16. */
  readonly threads?: number;
  /** Default 'auto': the best tier that works here. */
  readonly tier?: Tier | 'auto';
  /**
   * Lets 'auto' look at 'revec', where V8 makes 256-bit operations of pairs: its flag `--experimental-wasm-revectorize` is set
   * for the whole process while the kernels compile, and 'revec' is taken if it is right and faster here. Default false;
   * true with tier 'revec', which runs without, too.
   */
  readonly revectorize?: boolean;
  /** One compiled module, unquestioned: for tests. */
  readonly kernels?: KernelsName;
}

export interface WasmBackend extends Backend<WasmTensor>, WasmSizing {
  readonly tier: Tier;
  readonly dot: Dot;
  /** Why there are fewer threads than there could be, or undefined. */
  readonly whyFewer: string | undefined;
  /** Why this tier, a line for each that was looked at. */
  readonly why: readonly string[];
}

interface WasmProgram extends Program {
  readonly list: WasmTensor;
}

/** Commands of a program, and activations, as assembly/ exports them. */
const CODES = [
  ...(['BARRIER', 'EMBED', 'PREPARE', 'LINEAR', 'GLU', 'ROPE', 'ATTENTION', 'SAMPLE'] as const),
  ...(['SCREEN_BUILD', 'SCREEN_PREPARE', 'SCREEN', 'RESCORE', 'CHECK_TERNARY', 'NORM', 'ADD_NORM', 'REPACK'] as const),
  ...(['CHECK_TL', 'REPACK_TL', 'TABLES', 'ADVANCE'] as const),
  ...(['RELU2', 'SILU', 'GELU'] as const),
];
type Code = (typeof CODES)[number];

/** Pieces in which `fill` hands out memory: large enough to hide the call, small enough for progress and cancelling. */
const FILL_BYTES = 8 << 20;

/** Rows of a head that are encoded in one command; some milliseconds. */
const BUILD_ROWS = 1024;

/** Of a matrix that has none: as arguments of a command. */
const NO_TILES = { rows: 0, cols: 0, sub: 0 };

/** What `repack` can do. */
const REPACKS: readonly string[] = ['tl1 to i2_s', 'tl2 to i2_s', 'tq1_0 to tq2_0'];

/**
 * CPU kernels in WebAssembly. Ops become commands of a program (assembly/program.ts) in linear memory that every thread
 * walks; the host writes only positions and lengths between two runs.
 */
export async function wasmBackend(options: WasmOptions = {}): Promise<WasmBackend> {
  const { choice, threads, whyFewer } = await chosen(options);
  return backendOver(choice, threads, whyFewer);
}

/** What sizes hang on of the backend that these options open; no thread is started. */
export async function wasmSizing(options: WasmOptions = {}): Promise<WasmSizing> {
  const { choice, threads } = await chosen(options);
  const { memory } = createMemory(choice.shared);
  return sizingOf(instantiate(choice.module, memory, 0), choice.tier, threads);
}

async function chosen(
  options: WasmOptions,
): Promise<{ choice: TierChoice; threads: number; whyFewer: string | undefined }> {
  const wished = options.threads ?? (await host.defaultThreads());
  if (!Number.isInteger(wished) || wished < 1 || wished > MAX_THREADS) {
    throw new RangeError(`threads: got ${wished}, expected a whole number from 1 to ${MAX_THREADS}`);
  }
  const whyFewer = wished > 1 ? host.whyOneThread() : undefined;
  if (whyFewer !== undefined && options.threads !== undefined) {
    throw new RangeError(`threads: got ${wished}, expected 1: ${whyFewer}`);
  }
  const threads = whyFewer === undefined ? wished : 1;
  const { tier = 'auto', revectorize = tier === 'revec' } = options;
  const open = (candidate: TierChoice) => backendOver(candidate, 1);
  const choice =
    options.kernels === undefined
      ? await chooseTier(tier, revectorize, threads > 1, open)
      : await kernelsNamed(options.kernels, threads > 1);
  return { choice, threads, whyFewer };
}

/** The backend of one module, which has to be one for shared memory where there are threads. */
export async function backendOver(
  { tier, dot, module, shared, why }: TierChoice,
  threads: number,
  whyFewer?: string,
): Promise<WasmBackend> {
  const memory = createMemory(shared);
  const kernels = instantiate(module, memory.memory, 0);
  const copy = ({ from, bytes, into }: Results<WasmTensor>) =>
    memory.read(from, 0, into.length === bytes ? into : into.subarray(0, bytes));
  const pool =
    threads === 1 ? inlinePool(kernels, copy) : await workerPool(module, memory.memory, kernels, threads, copy);

  const code = Object.fromEntries(CODES.map((name) => [name, kernels[name].value])) as Record<Code, number>;
  const weightCode = weightCodes(kernels);
  const activationCode: Record<Activation, number> = { relu2: code.RELU2, silu: code.SILU, gelu: code.GELU };

  let words: number[] | undefined;
  const float = new Float32Array(1);
  const floatBits = new Int32Array(float.buffer);
  const bitsOf = (x: number) => {
    float[0] = x;
    return floatBits[0];
  };

  function command(op: number, ...args: number[]): void {
    if (words === undefined) throw new Error('ops are called inside record()');
    words.push(op, args.length + 2, ...args);
  }
  const barrier = () => command(code.BARRIER);

  /** Bytes of a scratch tensor that each thread has for itself. */
  const share = (scratch: WasmTensor) => Math.floor(scratch.bytes / threads / 64) * 64;

  const isTl = (type: WeightType) => type === 'tl1' || type === 'tl2';
  /** What rows are prepared for: large batches of tl1 and tl2 are computed as i2_s. */
  const preparedFor = (type: WeightType, rows: number): WeightType =>
    isTl(type) && rows >= kernels.LOOKUP_ROWS.value ? 'i2_s' : type;
  const sizing = sizingOf(kernels, tier, threads);
  const { rowBytes, rescoreBytes } = sizing;

  /**
   * Normalised rows for a matmul, into scratch; returns the address of the prepared rows. With input norms, one for each of
   * them, prepared rows of the n-th stand n * `preparedBytes` further on.
   */
  function prepare(
    rows: number,
    index: WasmTensor | undefined,
    x: WasmTensor,
    norm: Norm<WasmTensor> | undefined,
    w: Matrix<WasmTensor>,
    scratch: WasmTensor,
    inputNorms: readonly Norm<WasmTensor>[] | undefined = undefined,
  ): number {
    const prepared = scratch.at + align(rows * w.cols * 4);
    const weight = norm === undefined ? 0 : norm.weight.at;
    const eps = bitsOf(norm === undefined ? 0 : norm.eps);
    const type = weightCode[preparedFor(w.type, rows)];
    const from = index === undefined ? 0 : index.at;
    // All share the scratch behind their norm: a row is prepared by the same thread each time.
    for (let n = 0; n < (inputNorms?.length ?? 1); n++) {
      const second = inputNorms === undefined ? 0 : inputNorms[n].weight.at;
      const to = prepared + n * preparedBytes(rows, w);
      command(code.PREPARE, rows, from, x.at, weight, eps, w.cols, type, scratch.at, to, second);
    }
    barrier();
    if (!isTl(preparedFor(w.type, rows))) return prepared;
    for (let n = 0; n < (inputNorms?.length ?? 1); n++) {
      command(code.TABLES, rows, w.cols, type, (w.tiles ?? NO_TILES).cols, prepared + n * preparedBytes(rows, w));
    }
    barrier();
    return prepared;
  }

  const preparedBytes = (rows: number, w: Matrix<WasmTensor>) =>
    align(rows * rowBytes(w.cols, preparedFor(w.type, rows)));

  /** x += W prepared, through a norm where there is one, which wants the product in scratch first. */
  function addLinear(
    w: Matrix<WasmTensor>,
    prepared: number,
    rows: number,
    postNorm: Norm<WasmTensor> | undefined,
    x: WasmTensor,
    scratch: WasmTensor,
  ): void {
    if (postNorm === undefined) linear(w, prepared, rows, x.at, true, scratch);
    else {
      const y = prepared + preparedBytes(rows, w);
      linear(w, prepared, rows, y, false, scratch);
      barrier();
      command(code.ADD_NORM, rows, y, postNorm.weight.at, bitsOf(postNorm.eps), w.rows, x.at);
    }
    barrier();
  }

  function linear(
    w: Matrix<WasmTensor>,
    prepared: number,
    rows: number,
    y: number,
    add: boolean,
    scratch: WasmTensor,
  ): void {
    // The end of scratch: what each thread unpacks.
    const own = scratch.at + scratch.bytes - threads * kernels.linearScratchBytes(w.cols, rows);
    command(
      code.LINEAR,
      ...[weightCode[w.type], w.tensor.at, w.rows, w.cols, prepared, rows, y, w.rows, add ? 1 : 0, own],
      ...tilesOf(w),
    );
  }

  function alike(op: string, ...matrices: Matrix<WasmTensor>[]): void {
    const [first, ...others] = matrices;
    for (const w of others) {
      if (w.type !== first.type || w.cols !== first.cols || w.tiles?.cols !== first.tiles?.cols) {
        throw new Error(
          `${op}: matrices of ${first.type} x ${first.cols} and ${w.type} x ${w.cols} columns, expected alike, their tiles too`,
        );
      }
    }
  }

  /** Of `repack`, in the program that is recorded; freed with it. */
  let repackScratch: WasmTensor | undefined;
  const checkTl = ({ type, tensor, rows, cols, tiles = NO_TILES }: Matrix<WasmTensor>, found: number) =>
    command(code.CHECK_TL, weightCode[type], tensor.at, rows, cols, tiles.cols, found);
  const tilesOf = ({ tiles = NO_TILES }: Matrix<WasmTensor>) => [tiles.rows, tiles.cols, tiles.sub];

  const ops: Ops<WasmTensor> = {
    embed({ rows, dim, type, scale = 1, tokens, table, x }) {
      command(code.EMBED, rows, dim, weightCode[type], tokens.at, table.at, x.at, bitsOf(scale));
      barrier();
    },
    qkv({ rows, x, norm, inputNorms, wq, wk, wv, q, k, v, scratch }) {
      alike('qkv', wq, wk, wv);
      const prepared = prepare(rows, undefined, x, norm, wq, scratch, inputNorms);
      const own = inputNorms === undefined ? 0 : preparedBytes(rows, wq);
      linear(wq, prepared, rows, q.at, false, scratch);
      linear(wk, prepared + own, rows, k.at, false, scratch);
      linear(wv, prepared + 2 * own, rows, v.at, false, scratch);
      barrier();
    },
    attention({ rows, layer, heads, ropeDim, ropeStyle, rope, headNorms, places, kv, q, k, v, out, scratch }) {
      const { kvHeads, headDim, blockSize, maxBlocks } = kv;
      const f16 = kv.type === 'f16' ? 1 : 0;
      const blockBytes = 2 * kvHeads * blockSize * headDim * (f16 ? 2 : 4);
      const page = kv.data[layer].at;
      const interleaved = ropeStyle === 'norm' ? 1 : 0;
      const { pos, sequence } = places;
      command(
        code.ROPE,
        ...[rows, heads, kvHeads, headDim, ropeDim, interleaved, rope.at, pos.at, sequence.at],
        ...[f16, page, blockBytes, blockSize, kv.tables.at, maxBlocks, q.at, k.at, v.at],
        ...(headNorms === undefined ? [0, 0, 0] : [...headNorms.map((n) => n.weight.at), bitsOf(headNorms[0].eps)]),
      );
      barrier();
      command(
        code.ATTENTION,
        ...[rows, heads, kvHeads, headDim, pos.at, sequence.at, f16, page, blockBytes, blockSize],
        ...[kv.tables.at, maxBlocks, q.at, out.at, scratch.at, share(scratch)],
      );
      barrier();
    },
    attnOut({ rows, attn, norm, wo, postNorm, x, scratch }) {
      addLinear(wo, prepare(rows, undefined, attn, norm, wo, scratch), rows, postNorm, x, scratch);
    },
    gateUp({ rows, x, norm, inputNorms, gate, up, activation, out, scratch }) {
      alike('gate_up', gate, up);
      const prepared = prepare(rows, undefined, x, norm, gate, scratch, inputNorms);
      const own = inputNorms === undefined ? 0 : preparedBytes(rows, gate);
      const upOut = prepared + own + preparedBytes(rows, gate);
      linear(gate, prepared, rows, out.at, false, scratch);
      linear(up, prepared + own, rows, upOut, false, scratch);
      command(code.GLU, rows, gate.rows, activationCode[activation], out.at, upOut, weightCode[gate.type]);
      barrier();
    },
    down({ rows, h, norm, wdown, postNorm, x, scratch }) {
      addLinear(wdown, prepare(rows, undefined, h, norm, wdown, scratch), rows, postNorm, x, scratch);
    },
    hidden({ outs, dim, index, x, norm, out }) {
      command(code.NORM, outs, index.at, x.at, norm.weight.at, bitsOf(norm.eps), dim, out.at);
      barrier();
    },
    checkTernary({ w, found, at }) {
      if (w.type === 'tl1' || w.type === 'tl2') checkTl(w, found.at + at);
      else if (w.type === 'i2_s' || w.type === 'tq2_0') {
        command(code.CHECK_TERNARY, weightCode[w.type], w.tensor.at, w.rows, w.cols, found.at + at);
      } else throw new Error(`check_ternary: a matrix of ${w.type}`);
      barrier();
    },
    repack({ from, to, found, at }) {
      if (!REPACKS.includes(`${from.type} to ${to.type}`) || from.rows !== to.rows || from.cols !== to.cols) {
        const [a, b] = [from, to].map(({ type, rows, cols }) => `${type} ${rows} x ${cols}`);
        throw new Error(`repack: ${a} to ${b}, expected ${REPACKS.join(', ')} of the same shape`);
      }
      const { tensor, rows, cols } = from;
      const type = weightCode[from.type];
      if (from.type === 'tq1_0') {
        command(code.REPACK, type, tensor.at, rows, cols, weightCode[to.type], to.tensor.at, found.at + at);
      } else {
        repackScratch ??= memory.alloc(threads * kernels.REPACK_BYTES.value);
        checkTl(from, found.at + at);
        command(code.REPACK_TL, type, tensor.at, rows, cols, ...tilesOf(from), to.tensor.at, repackScratch.at);
      }
      barrier();
    },
    buildScreen({ w, copy, scratch }) {
      // In slices: code that an engine has optimised meanwhile is used from the next call on.
      for (let row = 0; row < w.rows; row += BUILD_ROWS) {
        const rows = Math.min(BUILD_ROWS, w.rows - row);
        command(code.SCREEN_BUILD, weightCode[w.type], w.tensor.at, w.rows, w.cols, copy.at, scratch.at, row, rows);
      }
      barrier();
    },
    head({ outs, index, x, norm, w, screen, logits, scratch }) {
      const prepared = prepare(outs, index, x, norm, w, scratch);
      if (screen === undefined) {
        linear(w, prepared, outs, logits.at, false, scratch);
        barrier();
        return;
      }
      const { copy, lower, params, stride } = screen;
      const type = weightCode[w.type];
      const act = prepared + align(outs * rowBytes(w.cols, w.type));
      command(code.SCREEN_PREPARE, outs, w.cols, type, prepared, act);
      barrier();
      command(code.SCREEN, copy.at, w.rows, w.cols, act, outs, logits.at, lower.at, params.at, stride);
      barrier();
      const own = rescoreBytes(w.cols);
      command(
        code.RESCORE,
        ...[type, w.tensor.at, w.rows, w.cols, prepared, outs, copy.at, act, logits.at, lower.at, params.at, stride],
        ...[scratch.at + scratch.bytes - threads * own, own],
      );
      barrier();
    },
    sample({ outs, vocab, logits, params, stride, picks, scratch }) {
      command(code.SAMPLE, outs, vocab, logits.at, params.at, stride, picks.at, PICK_BYTES, scratch.at, share(scratch));
      barrier();
    },
    advance({ outs, picks, tokens, pos, params, stride }) {
      command(code.ADVANCE, outs, picks.at, PICK_BYTES, tokens.at, pos.at, params.at, stride);
      barrier();
    },
  };

  return {
    name: `wasm ${tier}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
    ...sizing,
    tier,
    dot,
    whyFewer,
    why,
    alloc: (bytes) => memory.alloc(bytes),
    free: (tensor) => memory.free(tensor),
    write: memory.write,
    async fill(tensor, read) {
      for (let at = 0; at < tensor.bytes; at += FILL_BYTES) {
        await read(at, memory.view(tensor, at, Math.min(FILL_BYTES, tensor.bytes - at)));
      }
    },
    read: memory.read,
    ops,
    record(build) {
      if (words !== undefined) throw new Error('record() inside record()');
      words = [];
      try {
        build();
        const bytes = new Uint8Array(Int32Array.from([...words, 0]).buffer);
        const list = memory.alloc(bytes.length);
        memory.view(list, 0, bytes.length).set(bytes);
        const scratch = repackScratch;
        repackScratch = undefined;
        const free = () => {
          memory.free(list);
          if (scratch !== undefined) memory.free(scratch);
        };
        const program: WasmProgram = { list, free };
        return program;
      } finally {
        words = undefined;
        if (repackScratch !== undefined) memory.free(repackScratch);
        repackScratch = undefined;
      }
    },
    run: (program) => promised((done) => pool.run((program as WasmProgram).list.at, undefined, done)),
    start(program, repeats, results, done) {
      if (repeats !== 1) throw new RangeError(`start: ${repeats} runs, expected 1`);
      pool.run((program as WasmProgram).list.at, results, done);
    },
    dispose: () => pool.close(),
    memoryUsed: memory.used,
  };
}
