import type { DenseType, KvCache, Matrix, Norm, Ops, RowPlaces, Screen, Tensor } from '../backend/backend.ts';
import type { Config } from './config.ts';

export interface LayerWeights<T extends Tensor> {
  readonly attnNorm: Norm<T>;
  readonly qkvNorms: readonly [Norm<T>, Norm<T>, Norm<T>] | undefined;
  readonly wq: Matrix<T>;
  readonly wk: Matrix<T>;
  readonly wv: Matrix<T>;
  /** Of the heads of q and k. */
  readonly headNorms: readonly [Norm<T>, Norm<T>] | undefined;
  /** Of the input of wo: a family's sub-norm or its input norm. */
  readonly woNorm: Norm<T> | undefined;
  readonly wo: Matrix<T>;
  readonly postAttnNorm: Norm<T> | undefined;
  readonly ffnNorm: Norm<T>;
  readonly gateUpNorms: readonly [Norm<T>, Norm<T>] | undefined;
  readonly gate: Matrix<T>;
  readonly up: Matrix<T>;
  /** Of the input of down, as woNorm. */
  readonly downNorm: Norm<T> | undefined;
  readonly down: Matrix<T>;
  readonly postFfnNorm: Norm<T> | undefined;
}

export interface ModelWeights<T extends Tensor> {
  readonly layers: readonly LayerWeights<T>[];
  readonly outputNorm: Norm<T>;
  /** None of an embedding model. */
  readonly head: Matrix<T> | undefined;
  readonly embeddingType: DenseType;
}

/** The tensors that a step reads and writes; the host fills the first group. All f32 but where said. */
export interface Activations<T extends Tensor> {
  /** [rows] i32: rows of `table`. */
  readonly tokens: T;
  /** Embedding rows in the type of the file's table: all of it, or those that the host has put there for this step. */
  readonly table: T;
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
 * The forward pass of BitNet b1.58 (arXiv 2402.17764, 2504.12285) and its relatives, which leave out or add norms, for `rows`
 * rows of any sequences and positions; logits of the `outs` rows named in `a.index`, or with a screen those of them that a
 * sampler needs. Of a model without a head `a.logits` gets the hidden states, f32 [outs][dim].
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
  const { x, q, k, v, attn, ffn, scratch, rope, places, index, logits } = a;
  const { heads, ropeDim, ropeStyle, activation } = c;
  ops.embed({ rows, dim: c.dim, type: w.embeddingType, scale: c.embeddingScale, tokens: a.tokens, table: a.table, x });
  for (let layer = 0; layer < c.layers; layer++) {
    const l = w.layers[layer];
    const { wq, wk, wv, wo, gate, up, headNorms } = l;
    ops.qkv({ rows, x, norm: l.attnNorm, inputNorms: l.qkvNorms, wq, wk, wv, q, k, v, scratch });
    ops.attention({ rows, layer, heads, ropeDim, ropeStyle, rope, headNorms, places, kv, q, k, v, out: attn, scratch });
    ops.attnOut({ rows, attn, norm: l.woNorm, wo, postNorm: l.postAttnNorm, x, scratch });
    ops.gateUp({ rows, x, norm: l.ffnNorm, inputNorms: l.gateUpNorms, gate, up, activation, out: ffn, scratch });
    ops.down({ rows, h: ffn, norm: l.downNorm, wdown: l.down, postNorm: l.postFfnNorm, x, scratch });
  }
  if (outs === 0) return;
  if (w.head === undefined) ops.hidden({ outs, dim: c.dim, index, x, norm: w.outputNorm, out: logits });
  else ops.head({ outs, index, x, norm: w.outputNorm, w: w.head, screen, logits, scratch });
}
