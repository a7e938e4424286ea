import { PICK_BYTES } from '../../sampler.ts';
import { type Backend, type Matrix, type Norm, type Ops, type Program, promised, type WeightType } from '../backend.ts';
import { instantiate } from './abi.ts';
import { createMemory, type WasmTensor } from './memory.ts';
import { defaultThreads, inlinePool, workerPool } from './pool.ts';
import { chooseTier, type Tier } from './tier.ts';

export interface WasmOptions {
  /** 1 runs inline, on the caller's thread; more start that many workers. Default: the physical cores, at most 16. */
  readonly threads?: number;
  /** Default 'auto': the best tier that works here. */
  readonly tier?: Tier | 'auto';
}

export interface WasmBackend extends Backend<WasmTensor> {
  readonly tier: Tier;
  readonly threads: number;
  /** Why this tier, a line for each that was looked at. */
  readonly why: readonly string[];
  /** Bytes allocated now, and bytes of memory held. */
  memoryUsed(): { allocated: number; held: number };
}

interface WasmProgram extends Program {
  readonly list: WasmTensor;
}

/** Pieces in which `fill` hands out memory: large enough to hide the call, small enough for progress and cancelling. */
const FILL_BYTES = 8 << 20;

const align = (bytes: number) => Math.ceil(bytes / 64) * 64;

/**
 * CPU kernels in WebAssembly. Ops become commands of a program (assembly/program.ts) in linear memory that every thread
 * walks; the host writes only positions and lengths between two runs.
 */
export async function wasmBackend(options: WasmOptions = {}): Promise<WasmBackend> {
  const threads = options.threads ?? (await defaultThreads());
  if (!Number.isInteger(threads) || threads < 1 || threads > 256) {
    throw new RangeError(`threads: got ${threads}, expected a whole number from 1 to 256`);
  }
  const { tier, module, why } = await chooseTier(options.tier ?? 'auto');
  const memory = createMemory();
  const kernels = instantiate(module, memory.memory, 0);
  const pool = threads === 1 ? inlinePool(kernels) : await workerPool(module, memory.memory, kernels, threads);

  const code = Object.fromEntries(
    ['BARRIER', 'EMBED', 'PREPARE', 'LINEAR', 'GLU', 'ROPE', 'ATTENTION', 'SAMPLE', 'RELU2', 'SILU'].map((name) => [
      name,
      kernels[name as Uppercase<string>].value as number,
    ]),
  );
  const weightCode: Record<WeightType, number> = {
    i2_s: kernels.I2_S.value,
    f16: kernels.F16.value,
    bf16: kernels.BF16.value,
    f32: kernels.F32.value,
    q8_0: kernels.Q8_0.value,
    q6_k: kernels.Q6_K.value,
  };

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

  const rowBytes = (cols: number, type: WeightType) => kernels.preparedBytes(cols, weightCode[type]);

  /** Normalised rows for a matmul, into scratch; returns the address of the prepared rows. */
  function prepare(
    rows: number,
    index: WasmTensor | undefined,
    x: WasmTensor,
    norm: Norm<WasmTensor> | undefined,
    w: Matrix<WasmTensor>,
    scratch: WasmTensor,
  ): number {
    const prepared = scratch.at + align(rows * w.cols * 4);
    const weight = norm === undefined ? 0 : norm.weight.at;
    const eps = norm === undefined ? 0 : norm.eps;
    const type = weightCode[w.type];
    command(
      code.PREPARE,
      rows,
      index === undefined ? 0 : index.at,
      x.at,
      weight,
      bitsOf(eps),
      w.cols,
      type,
      scratch.at,
      prepared,
    );
    barrier();
    return prepared;
  }

  function linear(
    w: Matrix<WasmTensor>,
    prepared: number,
    rows: number,
    y: number,
    add: boolean,
    scratch: WasmTensor,
  ): void {
    // The end of scratch: four unpacked rows or a decoded one for each thread.
    const own = scratch.at + scratch.bytes - threads * align(w.cols * 4);
    command(
      code.LINEAR,
      ...[weightCode[w.type], w.tensor.at, w.rows, w.cols, prepared, rows, y, w.rows, add ? 1 : 0, own],
    );
  }

  function alike(op: string, ...matrices: Matrix<WasmTensor>[]): void {
    const [first, ...others] = matrices;
    for (const w of others) {
      if (w.type !== first.type || w.cols !== first.cols) {
        throw new Error(
          `${op}: matrices of ${first.type} x ${first.cols} and ${w.type} x ${w.cols} columns, expected alike`,
        );
      }
    }
  }

  const ops: Ops<WasmTensor> = {
    embed({ rows, dim, type, staged, x }) {
      command(code.EMBED, rows, dim, weightCode[type], staged.at, x.at);
      barrier();
    },
    qkv({ rows, x, norm, wq, wk, wv, q, k, v, scratch }) {
      alike('qkv', wq, wk, wv);
      const prepared = prepare(rows, undefined, x, norm, wq, scratch);
      linear(wq, prepared, rows, q.at, false, scratch);
      linear(wk, prepared, rows, k.at, false, scratch);
      linear(wv, prepared, rows, v.at, false, scratch);
      barrier();
    },
    attention({ rows, layer, heads, ropeDim, ropeStyle, rope, places, kv, q, k, v, out, scratch }) {
      const { kvHeads, headDim, blockSize, maxBlocks } = kv;
      const f16 = kv.type === 'f16' ? 1 : 0;
      const layerBytes = 2 * kvHeads * blockSize * headDim * (f16 ? 2 : 4);
      const page = kv.data.at + layer * layerBytes;
      const blockBytes = kv.layers * layerBytes;
      const interleaved = ropeStyle === 'norm' ? 1 : 0;
      const { pos, sequence } = places;
      command(
        code.ROPE,
        ...[rows, heads, kvHeads, headDim, ropeDim, interleaved, rope.at, pos.at, sequence.at],
        ...[f16, page, blockBytes, blockSize, kv.tables.at, maxBlocks, q.at, k.at, v.at],
      );
      barrier();
      command(
        code.ATTENTION,
        ...[rows, heads, kvHeads, headDim, pos.at, sequence.at, f16, page, blockBytes, blockSize],
        ...[kv.tables.at, maxBlocks, q.at, out.at, scratch.at, share(scratch)],
      );
      barrier();
    },
    attnOut({ rows, attn, norm, wo, x, scratch }) {
      linear(wo, prepare(rows, undefined, attn, norm, wo, scratch), rows, x.at, true, scratch);
      barrier();
    },
    gateUp({ rows, x, norm, gate, up, activation, out, scratch }) {
      alike('gate_up', gate, up);
      const prepared = prepare(rows, undefined, x, norm, gate, scratch);
      const upOut = prepared + align(rows * rowBytes(gate.cols, gate.type));
      linear(gate, prepared, rows, out.at, false, scratch);
      linear(up, prepared, rows, upOut, false, scratch);
      command(code.GLU, rows, gate.rows, activation === 'relu2' ? code.RELU2 : code.SILU, out.at, upOut);
      barrier();
    },
    down({ rows, h, norm, wdown, x, scratch }) {
      linear(wdown, prepare(rows, undefined, h, norm, wdown, scratch), rows, x.at, true, scratch);
      barrier();
    },
    head({ outs, index, x, norm, w, logits, scratch }) {
      linear(w, prepare(outs, index, x, norm, w, scratch), outs, logits.at, false, scratch);
      barrier();
    },
    sample({ outs, vocab, logits, params, stride, picks, scratch }) {
      command(code.SAMPLE, outs, vocab, logits.at, params.at, stride, picks.at, PICK_BYTES, scratch.at, share(scratch));
      barrier();
    },
  };

  return {
    name: `wasm ${tier}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
    tier,
    threads,
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
    scratchBytes(rows, cols, context, vocab) {
      const widest = Math.max(...(['i2_s', 'f32'] as const).map((type) => rowBytes(cols, type)));
      const matmul = 2 * align(rows * cols * 4) + align(rows * widest) + threads * align(cols * 4);
      const thread = Math.max(align(context * 4 + 16), align(kernels.sampleScratchBytes(vocab)));
      return Math.max(matmul, threads * thread);
    },
    ops,
    record(build) {
      if (words !== undefined) throw new Error('record() inside record()');
      words = [];
      try {
        build();
        const bytes = new Uint8Array(Int32Array.from([...words, 0]).buffer);
        const list = memory.alloc(bytes.length);
        memory.view(list, 0, bytes.length).set(bytes);
        const program: WasmProgram = { list, free: () => memory.free(list) };
        return program;
      } finally {
        words = undefined;
      }
    },
    run: (program) => promised((done) => pool.run((program as WasmProgram).list.at, done)),
    start: (program, done) => pool.run((program as WasmProgram).list.at, done),
    dispose: () => pool.close(),
    memoryUsed: memory.used,
  };
}
