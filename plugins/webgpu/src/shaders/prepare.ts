import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { reduce } from './reduce.ts';
import { normScale } from './rms_norm.ts';

/**
 * Functions that read a row of x as a ternary matrix sees it, in the order and with the roundings of src/reference: norms,
 * then int8. `norms` of them stand before it (a family's norm, and that of the input of one matrix).
 *
 *   readScales(row, thread)   from the row itself the scales of its norms, and of the quantisation into `xScale`
 *   activations(i)            elements 4 i … 4 i + 3 after the norms
 *   quantized(i)              the same as int8, -128 … 127
 *
 * Wants x, weight, weight2: array<vec4<f32>>, and p.cols, p.eps, p.eps2.
 */
export function readRow(variant: Variant, norms: 0 | 1 | 2): string {
  const squares = (value: string, scale: string): string => `
  var ${scale}Squares = vec2<f32>(0.0);
  for (var i = thread; i < p.cols / 4u; i += ${THREADS}u) {
    let v = ${value};
    let squares = v * v;
    for (var j = 0u; j < 4u; j++) { ${scale}Squares = addTo(${scale}Squares, rounded(squares[j])); }
  }
  ${scale} = normScale(${scale}Squares, p.cols, p.${scale === 'scale' ? 'eps' : 'eps2'}, thread);`;
  return `${EXACT}${norms > 0 ? normScale(variant) : ''}
${reduce(variant, 'largest', 'f32', 'max(a, b)')}
var<private> rowAt: u32;
var<private> scale: f32;
var<private> scale2: f32;
var<private> xScale: f32;

fn normedOnce(i: u32) -> vec4<f32> {
  ${norms > 0 ? 'return rounded4(rounded4(x[rowAt + i] * scale) * weight[i]);' : 'return x[rowAt + i];'}
}
fn activations(i: u32) -> vec4<f32> {
  ${norms > 1 ? 'return rounded4(rounded4(normedOnce(i) * scale2) * weight2[i]);' : 'return normedOnce(i);'}
}
fn readNorms(row: u32, thread: u32) {
  rowAt = row * (p.cols / 4u);${norms > 0 ? squares('x[rowAt + i]', 'scale') : ''}${norms > 1 ? squares('normedOnce(i)', 'scale2') : ''}
}
fn readScales(row: u32, thread: u32) {
  readNorms(row, thread);
  var most = 0.0;
  for (var i = thread; i < p.cols / 4u; i += ${THREADS}u) {
    let v = abs(activations(i));
    most = max(max(most, max(v.x, v.y)), max(v.z, v.w));
  }
  most = largest(most, thread);
  // 127 / max|x| with max|x| at least 1e-5, in f64: below it the scale is 12,700,000.
  if (most > 0.00000999999974) { xScale = divide(127.0, most); } else { xScale = 12700000.0; }
}
fn quantized(i: u32) -> vec4<i32> {
  return vec4<i32>(clamp(round(rounded4(activations(i) * xScale)), vec4<f32>(-128.0), vec4<f32>(127.0)));
}
`;
}

/** Four int8 in a word, the first in its lowest byte. */
export const PACK = /* wgsl */ `
fn packed(v: vec4<i32>) -> u32 {
  let b = bitcast<vec4<u32>>(v) & vec4<u32>(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
`;

/**
 * Rows of x, or those named in `index`, as int8 for a batch: `q` [rows][paddedCols] int8, padded with 0, `info` [rows] {scale f32,
 * sum i32}. A workgroup a row.
 */
export function prepareI8(variant: Variant, norms: 0 | 1 | 2): Kernel {
  const weights = ['weight: array<vec4<f32>>', 'weight2: array<vec4<f32>>'].slice(0, norms);
  return {
    stem: 'prepare',
    code: `${declare(
      variant,
      ['x: array<vec4<f32>>', '*q: array<u32>', '*info: array<vec2<u32>>', ...weights],
      ['cols: u32', 'paddedCols: u32', 'eps: f32', 'eps2: f32'],
    )}${readRow(variant, norms)}${PACK}
var<workgroup> sum: atomic<i32>;
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.x;
  readScales(row, thread);
  var own = 0;
  for (var i = thread; i < p.paddedCols / 4u; i += ${THREADS}u) {
    var v = vec4<i32>(0);
    if (i < p.cols / 4u) { v = quantized(i); }
    q[row * (p.paddedCols / 4u) + i] = packed(v);
    own += v.x + v.y + v.z + v.w;
  }
  atomicAdd(&sum, own);
  workgroupBarrier();
  if (thread == 0u) { info[row] = vec2<u32>(bitcast<u32>(xScale), bitcast<u32>(atomicLoad(&sum))); }
}
`,
  };
}
