import type { Activation } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXP } from './exp.ts';
import { gluFunction } from './glu.ts';
import { PACK, readRow } from './prepare.ts';
import { sumLanes } from './reduce.ts';

/**
 * `dot64(w, a0, a1, a2, a3)`: 64 codes 0, 1, 2 of I2_S, half a block (src/reference/bit_linear.ts draws it), by the 64 int8 that
 * they meet: byte i of w holds elements i, 32 + i, 64 + i and 96 + i of the block from its top bits down, so the four
 * activation vectors lie 32 apart.
 *
 * Packed, two of the four fields are met where a mask alone finds them, four times too large, and divided at the end,
 * exactly: one shift of w, not three.
 */
export function dot64({ dot }: Variant): string {
  const each = (text: (field: number, word: number) => string) =>
    [0, 1, 2, 3].map((field) => [0, 1, 2, 3].map((word) => text(field, word)).join(' ')).join('\n  ');
  if (dot === 'packed') {
    return `
fn dot64(w: vec4<u32>, a0: vec4<u32>, a1: vec4<u32>, a2: vec4<u32>, a3: vec4<u32>) -> i32 {
  let high = vec4<u32>(0x0c0c0c0cu);
  let low = vec4<u32>(0x03030303u);
  let shifted = w >> vec4<u32>(4u);
  let c0 = shifted & high; let c1 = shifted & low; let c2 = w & high; let c3 = w & low;
  var sum = 0; var sum4 = 0;
  ${each((f, i) => `${f % 2 === 0 ? 'sum4' : 'sum'} += dot4I8Packed(c${f}[${i}], a${f}[${i}]);`)}
  return sum + (sum4 >> 2u);
}
`;
  }
  return `
fn codes(w: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(3u)); }
fn bytes(a: u32) -> vec4<f32> { return vec4<f32>((bitcast<vec4<i32>>(vec4<u32>(a) << vec4<u32>(24u, 16u, 8u, 0u))) >> vec4<u32>(24u)); }
fn dot64(w: vec4<u32>, a0: vec4<u32>, a1: vec4<u32>, a2: vec4<u32>, a3: vec4<u32>) -> i32 {
  let c0 = w >> vec4<u32>(6u); let c1 = w >> vec4<u32>(4u); let c2 = w >> vec4<u32>(2u); let c3 = w;
  var sum = 0.0;
  ${each((f, i) => `sum += dot(codes(c${f}[${i}]), bytes(a${f}[${i}]));`)}
  return i32(sum);
}
`;
}

/** What is done with the products of one row of activations. */
export type BitLinearUse = 'store' | 'add' | 'qkv' | Activation;

/** int8 of a row that a workgroup holds: classes, so that few kernels are made. With what reductions need they stay below 16 KiB. */
const ROOM = [4096, 8192, 11_264] as const;
export const MOST_COLS: number = ROOM[ROOM.length - 1];

/** Bytes of the class that a row belongs to. */
export function roomOf(cols: number): number {
  return ROOM.find((bytes) => cols <= bytes) ?? MOST_COLS;
}

/** What differs between uses; texts are WGSL. */
export interface UseParts {
  readonly gated: boolean;
  /** The function `glu` and what it calls, where it is used. */
  readonly glu: string;
  /** Names of the buffers of matrices, and of what is written. */
  readonly matrices: readonly string[];
  readonly outs: readonly string[];
  /** Which matrix and which of its rows a workgroup of `rowsOf` takes: `which`, its `first`, and the matrix's rows as `most`. */
  readonly place: (rowsOf: number) => string;
  /** Where `product` of `row` goes, for a gated one together with that of `up`. */
  readonly put: (product: string, up: string) => string;
}

export function partsOf(use: BitLinearUse): UseParts {
  const activation = use === 'store' || use === 'add' || use === 'qkv' ? undefined : use;
  const gated = activation !== undefined;
  return {
    gated,
    glu: gated ? gluFunction(activation) + (activation === 'relu2' ? '' : EXP) : '',
    matrices: use === 'qkv' ? ['w', 'wk', 'wv'] : gated ? ['w', 'wUp'] : ['w'],
    outs: use === 'qkv' ? ['y', 'k', 'v'] : ['y'],
    place: (rowsOf) => `var which = 0u; var first = group.x * ${rowsOf}u; var most = p.rows;
  ${
    use === 'qkv'
      ? `let qGroups = (p.rows + ${rowsOf - 1}u) / ${rowsOf}u;
  let kGroups = (p.kRows + ${rowsOf - 1}u) / ${rowsOf}u;
  if (group.x >= qGroups + kGroups) { which = 2u; first = (group.x - qGroups - kGroups) * ${rowsOf}u; most = p.vRows; }
  else if (group.x >= qGroups) { which = 1u; first = (group.x - qGroups) * ${rowsOf}u; most = p.kRows; }`
      : ''
  }`,
    put(product, up) {
      if (use === 'qkv') {
        return `if (which == 0u) { y[row] = ${product}; } else if (which == 1u) { k[row] = ${product}; } else { v[row] = ${product}; }`;
      }
      if (gated) return `y[row] = glu(${product}, ${up});`;
      return `y[row] ${use === 'add' ? '+=' : '='} ${product};`;
    },
  };
}

/**
 * y = W x for one row of x, norms and quantisation included: each workgroup reads the whole row, as int8 into its own memory,
 * and some rows of W, `lanes` threads a row.
 *
 *   store     y = W x                          w, x, y
 *   add       y += W x
 *   qkv       q, k, v = their matrices by x    w, wk, wv, x, y, k, v; groups of `rows`, then of `kRows`, then of `vRows`
 *   relu2 …   y = act(W x) * (Wup x)           w, wUp, x, y
 */
export function bitLinear(variant: Variant, use: BitLinearUse, norms: 0 | 1 | 2, cols: number): Kernel {
  const { gated, glu, matrices, outs, place, put } = partsOf(use);
  const lanes = lanesOf(cols);
  const rowsOf = THREADS / lanes;
  const matrix = 'array<vec4<u32>>';
  const weights = ['weight', 'weight2'].slice(0, norms);
  const code = `${declare(
    variant,
    [
      ...matrices.map((name) => `${name}: ${matrix}`),
      'x: array<vec4<f32>>',
      ...outs.map((name) => `*${name}: array<f32>`),
      ...weights.map((name) => `${name}: array<vec4<f32>>`),
    ],
    ['cols: u32', 'vectors: u32', 'eps: f32', 'eps2: f32', 'rows: u32', 'kRows: u32', 'vRows: u32'],
  )}${readRow(variant, norms)}${PACK}${dot64(variant)}${sumLanes(variant, 'sumLanes', 'i32', lanes)}
${glu}
var<workgroup> q: array<vec4<u32>, ${roomOf(cols) / 16}>;
var<workgroup> total: atomic<i32>;

${
  use === 'qkv'
    ? `fn weights(which: u32, i: u32) -> vec4<u32> {
  if (which == 0u) { return w[i]; }
  if (which == 1u) { return wk[i]; }
  return wv[i];
}`
    : 'fn weights(which: u32, i: u32) -> vec4<u32> { return w[i]; }'
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  readScales(0u, thread);
  var own = 0;
  for (var i = thread; i < p.vectors * 4u; i += ${THREADS}u) {
    var word = vec4<u32>(0u);
    for (var j = 0u; j < 4u; j++) {
      if (i * 4u + j < p.cols / 4u) {
        let v = quantized(i * 4u + j);
        word[j] = packed(v);
        own += v.x + v.y + v.z + v.w;
      }
    }
    q[i] = word;
  }
  atomicAdd(&total, own);
  workgroupBarrier();
  let sum = atomicLoad(&total);

  ${place(rowsOf)}
  let row = first + thread / ${lanes}u;
  let at = min(row, most - 1u) * p.vectors;
  var code = 0;
  ${gated ? 'var codeUp = 0;' : ''}
  for (var i = thread % ${lanes}u; i < p.vectors; i += ${lanes}u) {
    let a = (i >> 1u) * 8u + (i & 1u);
    let a0 = q[a]; let a1 = q[a + 2u]; let a2 = q[a + 4u]; let a3 = q[a + 6u];
    code += dot64(weights(which, at + i), a0, a1, a2, a3);
    ${gated ? 'codeUp += dot64(wUp[at + i], a0, a1, a2, a3);' : ''}
  }
  code = sumLanes(code, thread);
  ${gated ? 'codeUp = sumLanes(codeUp, thread);' : ''}
  if (thread % ${lanes}u > 0u || row >= most) { return; }
  // The scale of a matrix stands behind its codes.
  let product = rounded(divide(f32(code - sum), xScale) * bitcast<f32>(weights(which, most * p.vectors).x));
  ${put('product', 'rounded(divide(f32(codeUp - sum), xScale) * bitcast<f32>(wUp[most * p.vectors].x))')}
}
`;
  return { stem: 'bit_linear', code };
}

/**
 * Threads that share a row of W: a short one has few vectors of 64 weights to go round (2560 columns: 40), a long one few rows for
 * all cores (not tuned on a GPU).
 */
function lanesOf(cols: number): number {
  return cols <= 4096 ? 8 : 32;
}

/** Rows of W that a workgroup computes. */
export function rowsOfGroup(cols: number): number {
  return THREADS / lanesOf(cols);
}
