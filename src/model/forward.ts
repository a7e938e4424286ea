import type { DenseType, KvCache, Matrix, Norm, Ops, RowPlaces, Screen, Tensor } from '../backend/backend.ts';
import type { Config } from './config.ts';

export interface LayerWeights<T extends Tensor> {
  readonly attnNorm: Norm<T>;
  readonly wq: Matrix<T>;
  readonly wk: Matrix<T>;
  readonly wv: Matrix<T>;
  readonly attnSubNorm: Norm<T> | undefined;
  readonly wo: Matrix<T>;
  readonly ffnNorm: Norm<T>;
  readonly gate: Matrix<T>;
  readonly up: Matrix<T>;
  readonly ffnSubNorm: Norm<T> | undefined;
  readonly down: Matrix<T>;
}

export interface ModelWeights<T extends Tensor> {
  readonly layers: readonly LayerWeights<T>[];
  readonly outputNorm: Norm<T>;
  readonly head: Matrix<T>;
  readonly embeddingType: DenseType;
}

/** The tensors that a step reads and writes; the host fills the first group. All f32 but where said. */
export interface Activations<T extends Tensor> {
  /** [rows][dim] embedding rows, in the type of the file's table. */
  readonly staged: T;
  readonly places: RowPlaces<T>;
  /** [outs] i32: the rows whose logits are wanted. */
  readonly index: T;
  /** [context][ropeDim / 2][cos, sin]. */
  readonly rope: T;

  /** [rows][dim], the residual stream. */
  readonly x: T;
  /** [rows][heads * headDim]. */
  readonly q: T;
  /** [rows][kvHeads * headDim]. */
  readonly k: T;
  readonly v: T;
  /** [rows][heads * headDim]. */
  readonly attn: T;
  /** [rows][ffnDim]. */
  readonly ffn: T;
  /** [outs][vocab]. */
  readonly logits: T;
  readonly scratch: T;
}

/**
 * The forward pass of BitNet b1.58 (arXiv 2402.17764, 2504.12285), for `rows` rows of any sequences and positions; logits of
 * the `outs` rows named in `a.index`, or with a screen those of them that a sampler needs.
 */
export function forward<T extends Tensor>(
  ops: Ops<T>,
  c: Config,
  w: ModelWeights<T>,
  kv: KvCache<T>,
  a: Activations<T>,
  rows: number,
  outs: number,
  screen?: Screen<T>,
): void {
  const { x, q, k, v, attn, ffn, scratch, rope, places } = a;
  const { heads, ropeDim, ropeStyle, activation } = c;
  ops.embed({ rows, dim: c.dim, type: w.embeddingType, staged: a.staged, x });
  for (let layer = 0; layer < c.layers; layer++) {
    const l = w.layers[layer];
    ops.qkv({ rows, x, norm: l.attnNorm, wq: l.wq, wk: l.wk, wv: l.wv, q, k, v, scratch });
    ops.attention({ rows, layer, heads, ropeDim, ropeStyle, rope, places, kv, q, k, v, out: attn, scratch });
    ops.attnOut({ rows, attn, norm: l.attnSubNorm, wo: l.wo, x, scratch });
    ops.gateUp({ rows, x, norm: l.ffnNorm, gate: l.gate, up: l.up, activation, out: ffn, scratch });
    ops.down({ rows, h: ffn, norm: l.ffnSubNorm, wdown: l.down, x, scratch });
  }
  if (outs > 0) ops.head({ outs, index: a.index, x, norm: w.outputNorm, w: w.head, screen, logits: a.logits, scratch });
}
