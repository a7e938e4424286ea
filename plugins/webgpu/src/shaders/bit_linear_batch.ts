import { dot64 } from './bit_linear.ts';
import { declare, type Kernel, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';

/**
 * Rows of W and rows of x that a workgroup multiplies: each thread four by two, so that what it reads is used more than
 * once, and a decoding batch fills one tile of x (sizes not tuned on a GPU).
 */
export const TILE_ROWS = 64;
export const TILE_TOKENS = 32;

/**
 * y [rows][wRows] = W x, or += with `add`, for prepared rows: q [rows] int8, info [rows] {scale f32, sum i32}. Blocks of 128
 * columns of both tiles are staged in workgroup memory.
 */
export function bitLinearBatch(variant: Variant, add: boolean): Kernel {
  return {
    stem: 'bit_linear_batch',
    code: `${declare(
      variant,
      ['w: array<vec4<u32>>', 'q: array<vec4<u32>>', 'info: array<vec2<u32>>', '*y: array<f32>'],
      ['vectors: u32', 'wRows: u32', 'rows: u32'],
    )}${EXACT}${dot64(variant)}
var<workgroup> tile: array<vec4<u32>, ${TILE_ROWS * 2}>;
var<workgroup> act: array<vec4<u32>, ${TILE_TOKENS * 8}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let n0 = group.x * ${TILE_ROWS}u;
  let m0 = group.y * ${TILE_TOKENS}u;
  let n = thread % 16u;
  let m = thread / 16u;
  var sums: array<vec4<i32>, 2>;
  for (var block = 0u; block < p.vectors; block += 2u) {
    if (thread < ${TILE_ROWS * 2}u) {
      tile[thread] = w[min(n0 + thread / 2u, p.wRows - 1u) * p.vectors + block + thread % 2u];
    }
    act[thread] = q[min(m0 + thread / 8u, p.rows - 1u) * (4u * p.vectors) + 4u * block + thread % 8u];
    workgroupBarrier();
    for (var half = 0u; half < 2u; half++) {
      for (var j = 0u; j < 2u; j++) {
        let a = (m + 16u * j) * 8u + half;
        let a0 = act[a]; let a1 = act[a + 2u]; let a2 = act[a + 4u]; let a3 = act[a + 6u];
        sums[j] += vec4<i32>(
          dot64(tile[2u * n + half], a0, a1, a2, a3),
          dot64(tile[2u * (n + 16u) + half], a0, a1, a2, a3),
          dot64(tile[2u * (n + 32u) + half], a0, a1, a2, a3),
          dot64(tile[2u * (n + 48u) + half], a0, a1, a2, a3),
        );
      }
    }
    workgroupBarrier();
  }
  let scale = bitcast<f32>(w[p.wRows * p.vectors].x);
  for (var j = 0u; j < 2u; j++) {
    let token = m0 + m + 16u * j;
    if (token >= p.rows) { continue; }
    let xInfo = info[token];
    for (var i = 0u; i < 4u; i++) {
      let row = n0 + n + 16u * i;
      if (row >= p.wRows) { continue; }
      let code = sums[j][i] - bitcast<i32>(xInfo.y);
      let product = rounded(divide(f32(code), bitcast<f32>(xInfo.x)) * scale);
      y[token * p.wRows + row] ${add ? '+' : ''}= product;
    }
  }
}
`,
  };
}
