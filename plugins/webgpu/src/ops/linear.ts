import type { Matrix, Norm, Ops } from 'ternlm/backend';
import type { GpuTensor } from '../memory.ts';
import { type Bound, bitsOf, type Recorder } from '../recorder.ts';
import { type BitLinearUse, bitLinear, MOST_COLS, rowsOfGroup } from '../shaders/bit_linear.ts';
import { bitLinearTq, rowsOfTqGroup } from '../shaders/bit_linear_tq.ts';
import { GLU_GROUPS, glu } from '../shaders/glu.ts';
import { rmsNorm } from '../shaders/rms_norm.ts';
import { vectorsOf } from './i2_s.ts';
import { multiplierOf, type Rows } from './multiply.ts';

type T = GpuTensor;

/** Products of matrices. A decoding step by I2_S or TQ2_0 is one dispatch an op; all else is put together from prepared rows. */
export function linearOps(g: Recorder): Pick<Ops<T>, 'qkv' | 'attnOut' | 'gateUp' | 'down' | 'hidden'> {
  const fused = (rows: number, ...matrices: Matrix<T>[]) => {
    const [{ type, cols }] = matrices;
    if (rows !== 1 || cols > MOST_COLS || (type !== 'i2_s' && type !== 'tq2_0')) return false;
    return matrices.every((w) => w.type === type && w.cols === cols);
  };

  /** One row of x, through a norm where there is one. */
  function single(
    op: string,
    use: BitLinearUse,
    matrices: readonly Matrix<T>[],
    x: T,
    norm: Norm<T> | undefined,
    outs: readonly Bound[],
  ): void {
    const [{ type, cols }] = matrices;
    const [kernel, rowsOf] = type === 'tq2_0' ? [bitLinearTq, rowsOfTqGroup] : [bitLinear, rowsOfGroup];
    const rows = (use === 'qkv' ? matrices : matrices.slice(0, 1)).map((w) => w.rows);
    g.dispatch(
      // Profiles tell the blocks of a layer apart.
      { ...kernel(g.variant, use, norm === undefined ? 0 : 1, cols), stem: op },
      [...matrices.map((w) => w.tensor), x, ...outs, ...(norm === undefined ? [] : [norm.weight])],
      [cols, vectorsOf(cols), bitsOf(norm?.eps ?? 0), 0, rows[0], rows[1] ?? 0, rows[2] ?? 0],
      [rows.reduce((sum, n) => sum + Math.ceil(n / rowsOf(cols)), 0)],
    );
  }

  /** Each matrix by the rows of x, through the norm and, where there are, an input norm of its own. */
  function each(
    source: Pick<Rows, 'rows' | 'x' | 'scratch'>,
    norm: Norm<T> | undefined,
    inputNorms: readonly Norm<T>[] | undefined,
    products: readonly (readonly [w: Matrix<T>, y: T | GPUBuffer])[],
    add: boolean,
  ): void {
    const prepare = ({ type, cols }: Matrix<T>, i: number) => {
      const norms = [norm, inputNorms?.[i]].filter((one) => one !== undefined);
      return multiplierOf(type).prepare(g, type, { ...source, cols, index: undefined, norms, name: `prepared ${i}` });
    };
    const [[first]] = products;
    const alike = inputNorms === undefined && products.every(([w]) => w.type === first.type);
    const shared = alike ? prepare(first, 0) : undefined;
    for (const [i, [w, y]] of products.entries()) {
      multiplierOf(w.type).multiply(g, w, shared ?? prepare(w, i), add, y);
    }
  }

  /** x += W norm(y), through `postNorm` where there is one. */
  function addTo(
    op: string,
    rows: number,
    y: T,
    norm: Norm<T> | undefined,
    w: Matrix<T>,
    postNorm: Norm<T> | undefined,
    x: T,
    scratch: T,
  ): void {
    if (postNorm === undefined && fused(rows, w)) {
      single(op, 'add', [w], y, norm, [x]);
      return;
    }
    const product = postNorm === undefined ? x : g.part(scratch, 'product', rows * w.rows * 4);
    each({ rows, x: y, scratch }, norm, undefined, [[w, product]], postNorm === undefined);
    if (postNorm === undefined) return;
    g.dispatch(
      rmsNorm(g.variant, 'add'),
      [product as GPUBuffer, postNorm.weight, x],
      [w.rows, bitsOf(postNorm.eps)],
      [rows],
    );
  }

  return {
    qkv({ rows, x, norm, inputNorms, wq, wk, wv, q, k, v, scratch }) {
      if (inputNorms === undefined && fused(rows, wq, wk, wv)) single('qkv', 'qkv', [wq, wk, wv], x, norm, [q, k, v]);
      else {
        const products = [[wq, q] as const, [wk, k] as const, [wv, v] as const];
        each({ rows, x, scratch }, norm, inputNorms, products, false);
      }
    },
    attnOut: ({ rows, attn, norm, wo, postNorm, x, scratch }) =>
      addTo('attn_out', rows, attn, norm, wo, postNorm, x, scratch),
    gateUp({ rows, x, norm, inputNorms, gate, up, activation, out, scratch }) {
      if (inputNorms === undefined && fused(rows, gate, up)) {
        single('gate_up', activation, [gate, up], x, norm, [out]);
        return;
      }
      const upOut = g.part(scratch, 'up', rows * up.rows * 4);
      each({ rows, x, scratch }, norm, inputNorms, [[gate, out] as const, [up, upOut] as const], false);
      g.dispatch(glu(g.variant, activation), [out, upOut], [rows * gate.rows], [GLU_GROUPS]);
    },
    down: ({ rows, h, norm, wdown, postNorm, x, scratch }) => addTo('down', rows, h, norm, wdown, postNorm, x, scratch),
    hidden({ outs, dim, index, x, norm, out }) {
      g.dispatch(rmsNorm(g.variant, 'store'), [x, norm.weight, out, index], [dim, bitsOf(norm.eps)], [outs]);
    },
  };
}
