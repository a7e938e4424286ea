import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { reduce } from './reduce.ts';

/**
 * `normScale(squares, cols, eps, thread)`: the scale of RMSNorm, 1 / sqrt(mean + eps), from each thread's sum of squares in two
 * floats; rounded as src/reference/rms_norm.ts rounds it, so that x * scale * weight has the same bits. Wants EXACT.
 */
export function normScale(variant: Variant): string {
  return `${reduce(variant, 'sumSquares', 'vec2<f32>', 'join(a, b)')}
fn normScale(squares: vec2<f32>, cols: u32, eps: f32, thread: u32) -> f32 {
  let mean = divideSum(settled(sumSquares(squares, thread)), f32(cols));
  return divide(1.0, squareRoot(rounded(mean + eps)));
}
`;
}

/**
 * Rows of x through a norm, a workgroup a row.
 *
 *   store   y [rows][cols] = norm(x[index])
 *   add     y += norm(x)
 */
export function rmsNorm(variant: Variant, use: 'store' | 'add'): Kernel {
  const indexed = use === 'store';
  return {
    stem: 'rms_norm',
    code: `${declare(
      variant,
      ['x: array<f32>', 'weight: array<f32>', '*y: array<f32>', ...(indexed ? ['index: array<u32>'] : [])],
      ['cols: u32', 'eps: f32'],
    )}${EXACT}${normScale(variant)}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = ${indexed ? 'index[group.x]' : 'group.x'} * p.cols;
  var squares = vec2<f32>(0.0);
  for (var i = thread; i < p.cols; i += ${THREADS}u) { squares = addTo(squares, rounded(x[first + i] * x[first + i])); }
  let scale = normScale(squares, p.cols, p.eps, thread);
  for (var i = thread; i < p.cols; i += ${THREADS}u) {
    y[group.x * p.cols + i] ${indexed ? '' : '+'}= rounded(rounded(x[first + i] * scale) * weight[i]);
  }
}
`,
  };
}
