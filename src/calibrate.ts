// What the matrices of a model see: the mean square of each column of their inputs over a text.
import type { Backend, KvType, Matrix, Norm, Ops, Program, Results, Tensor } from './backend/backend.ts';
import { chunksOf, evaluate, ROWS, type Subject } from './evaluate.ts';

export interface ActivationsOptions {
  /** Tokens that are seen at once. Default 512. */
  readonly contextSize?: number;
  /** How keys and values are stored. Default: as the model was loaded. */
  readonly kv?: KvType;
  readonly onProgress?: (progress: { readonly tokens: number; readonly total: number }) => void;
  readonly signal?: AbortSignal;
}

/**
 * Mean squares f32 [cols] of the input of each of the seven matrices of each layer, all its norms included, by the matrix's
 * name in GGUF. The text is cut as `perplexity` cuts it.
 *
 * @param tokens at least one, `bos` included
 * @param live throws when the model is gone
 */
export async function activations<T extends Tensor>(
  { backend, config, weights }: Subject<T>,
  tokens: ArrayLike<number>,
  bos: number | undefined,
  { contextSize = 512, kv = 'f16', onProgress, signal }: ActivationsOptions,
  live: () => void,
): Promise<Map<string, Float32Array>> {
  const sums = new Map<Matrix<T>, Float64Array>();
  const watching = watched(backend, sums, () => {
    live();
    signal?.throwIfAborted();
  });
  // No logits are asked for, so that a head would only take memory.
  const headless = { ...config, headTensor: undefined };
  const subject = { backend: watching, config: headless, weights: { ...weights, head: undefined, screen: undefined } };
  const chunks = chunksOf(tokens, bos, contextSize);
  let done = 0;
  for (const chunk of chunks) {
    await evaluate(subject, [chunk], { kv, rows: ROWS, wanted: () => false, onOut() {} });
    done += chunk.length;
    onProgress?.({ tokens: done, total: chunks.length * chunk.length });
  }
  const names = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'];
  return new Map(
    weights.layers.flatMap(({ wq, wk, wv, wo, gate, up, down }, layer) =>
      [wq, wk, wv, wo, gate, up, down].map((w, i): [string, Float32Array] => {
        const squares = sums.get(w) as Float64Array;
        return [`blk.${layer}.${names[i]}.weight`, Float32Array.from(squares, (sum) => sum / done)];
      }),
    ),
  );
}

/** A tensor that is looked at before the op that reads it. */
interface Look<T extends Tensor> {
  readonly rows: number;
  readonly x: T;
  readonly norm: Norm<T> | undefined;
  /** That see x through `norm` and a norm of their own. */
  readonly matrices: readonly (readonly [w: Matrix<T>, inputNorm: Norm<T> | undefined])[];
}

/** Ops that run together, after a look. */
interface Part<T extends Tensor> {
  readonly look: Look<T> | undefined;
  readonly enqueue: (() => void)[];
}

interface WatchedProgram<T extends Tensor> extends Program {
  readonly parts: readonly { look: Look<T> | undefined; program: Program }[];
}

/**
 * The same backend, whose programs halt before each block with matrices to add up the squares of what comes in.
 * @param sums get Σ x_j² [cols] of each matrix
 * @param live called before each halt; throws to end the run
 */
function watched<T extends Tensor>(
  backend: Backend<T>,
  sums: Map<Matrix<T>, Float64Array>,
  live: () => void,
): Backend<T> {
  let parts: Part<T>[] | undefined;
  const add = (enqueue: () => void, look?: Look<T>) => {
    if (parts === undefined) throw new Error('ops are called inside record()');
    const last = parts.at(-1);
    if (last === undefined || look !== undefined) parts.push({ look, enqueue: [enqueue] });
    else last.enqueue.push(enqueue);
  };
  const inner = backend.ops;
  const ops: Ops<T> = {
    ...inner,
    embed: (op) => add(() => inner.embed(op)),
    qkv(op) {
      const { rows, x, norm, inputNorms: own, wq, wk, wv } = op;
      const matrices = [[wq, own?.[0]] as const, [wk, own?.[1]] as const, [wv, own?.[2]] as const];
      add(() => inner.qkv(op), { rows, x, norm, matrices });
    },
    attention: (op) => add(() => inner.attention(op)),
    attnOut(op) {
      add(() => inner.attnOut(op), { rows: op.rows, x: op.attn, norm: op.norm, matrices: [[op.wo, undefined]] });
    },
    gateUp(op) {
      const { rows, x, norm, inputNorms: own, gate, up } = op;
      add(() => inner.gateUp(op), { rows, x, norm, matrices: [[gate, own?.[0]] as const, [up, own?.[1]] as const] });
    },
    down(op) {
      add(() => inner.down(op), { rows: op.rows, x: op.h, norm: op.norm, matrices: [[op.wdown, undefined]] });
    },
  };
  const read = async (tensor: T, count: number): Promise<Float32Array> => {
    const values = new Float32Array(count);
    await backend.read(tensor, 0, new Uint8Array(values.buffer));
    return values;
  };
  const normWeights = new Map<T, Float32Array>();
  const weightOf = async ({ weight }: Norm<T>, cols: number): Promise<Float32Array> => {
    const known = normWeights.get(weight) ?? (await read(weight, cols));
    normWeights.set(weight, known);
    return known;
  };

  async function see({ rows, x, norm, matrices }: Look<T>): Promise<void> {
    const [[{ cols }]] = matrices;
    const values = await read(x, rows * cols);
    if (norm !== undefined) normalize(values, await weightOf(norm, cols), norm.eps);
    for (const [w, inputNorm] of matrices) {
      const seen = inputNorm === undefined ? values : values.slice();
      if (inputNorm !== undefined) normalize(seen, await weightOf(inputNorm, cols), inputNorm.eps);
      const sum = sums.get(w) ?? new Float64Array(cols);
      sums.set(w, sum);
      for (let at = 0; at < seen.length; at += cols) for (let i = 0; i < cols; i++) sum[i] += seen[at + i] ** 2;
    }
  }

  async function run(program: Program): Promise<void> {
    for (const { look, program: part } of (program as WatchedProgram<T>).parts) {
      live();
      if (look !== undefined) await see(look);
      await backend.run(part);
    }
  }

  async function runs(program: Program, repeats: number, results: Results<T> | undefined): Promise<void> {
    for (let i = 0; i < repeats; i++) {
      await run(program);
      if (results === undefined) continue;
      await backend.read(results.from, 0, results.into.subarray(i * results.bytes, (i + 1) * results.bytes));
    }
  }

  return {
    ...backend,
    ops,
    record(build) {
      const recorded: Part<T>[] = [];
      parts = recorded;
      try {
        build();
      } finally {
        parts = undefined;
      }
      const programs = recorded.map(({ look, enqueue }) => {
        return { look, program: backend.record(() => enqueue.forEach((call) => void call())) };
      });
      const program: WatchedProgram<T> = {
        parts: programs,
        free: () => programs.forEach((part) => void part.program.free()),
      };
      return program;
    },
    run,
    start: (program, repeats, results, done) => void runs(program, repeats, results).then(() => done(), done),
  };
}

/** Each row of x [rows][cols] to RMSNorm(x) * weight. */
function normalize(x: Float32Array, weight: Float32Array, eps: number): void {
  const cols = weight.length;
  for (let at = 0; at < x.length; at += cols) {
    let squares = 0;
    for (let i = at; i < at + cols; i++) squares += x[i] * x[i];
    const scale = 1 / Math.sqrt(squares / cols + eps);
    for (let i = 0; i < cols; i++) x[at + i] *= scale * weight[i];
  }
}
