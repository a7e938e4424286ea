import { dot64 } from './bit_linear.ts';
import { TILE_ROWS, TILE_TOKENS } from './bit_linear_batch.ts';
import { tqBlocks } from './bit_linear_tq.ts';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';

/**
 * y [rows][wRows] = W x, or += with `add`, for prepared rows and W of TQ2_0: q [rows][cols] int8, info [rows][cols / 256] {d f32,
 * sum i32}. The tiles of `bitLinearBatch`, block by block of 256 columns, so that blocks are added up in order.
 */
export function bitLinearTqBatch(variant: Variant, add: boolean): Kernel {
  return {
    stem: 'bit_linear_tq_batch',
    code: `${declare(
      variant,
      ['w: array<u32>', 'q: array<vec4<u32>>', 'info: array<vec2<u32>>', '*y: array<f32>'],
      ['blocks: u32', 'wRows: u32', 'rows: u32'],
    )}${EXACT}${dot64(variant)}${tqBlocks(['w'])}

// [quarter][row], and [token][16 vectors].
var<workgroup> tile: array<vec4<u32>, ${4 * TILE_ROWS}>;
var<workgroup> scales: array<f32, ${TILE_ROWS}>;
var<workgroup> act: array<vec4<u32>, ${16 * TILE_TOKENS}>;
var<workgroup> infos: array<vec2<u32>, ${TILE_TOKENS}>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let n0 = group.x * ${TILE_ROWS}u;
  let m0 = group.y * ${TILE_TOKENS}u;
  let n = thread % 16u;
  let m = thread / 16u;
  var y4: array<vec4<f32>, 2>;
  for (var block = 0u; block < p.blocks; block++) {
    let wBlock = min(n0 + thread / 4u, p.wRows - 1u) * p.blocks + block;
    tile[thread % 4u * ${TILE_ROWS}u + thread / 4u] = codesOf(0u, wBlock, thread % 4u);
    if (thread % 4u == 3u) { scales[thread / 4u] = scaleOf(0u, wBlock); }
    for (var i = thread; i < ${16 * TILE_TOKENS}u; i += ${THREADS}u) {
      act[i] = q[(min(m0 + i / 16u, p.rows - 1u) * p.blocks + block) * 16u + i % 16u];
    }
    if (thread < ${TILE_TOKENS}u) { infos[thread] = info[min(m0 + thread, p.rows - 1u) * p.blocks + block]; }
    workgroupBarrier();
    // Written out: a mere declaration is zeroed once, not once a block (Dawn on lavapipe).
    var dots = array<vec4<i32>, 2>();
    for (var quarter = 0u; quarter < 4u; quarter++) {
      for (var j = 0u; j < 2u; j++) {
        let a = (m + 16u * j) * 16u + (quarter >> 1u) * 8u + (quarter & 1u);
        let a0 = act[a + 6u]; let a1 = act[a + 4u]; let a2 = act[a + 2u]; let a3 = act[a];
        let own = quarter * ${TILE_ROWS}u + n;
        dots[j] += vec4<i32>(
          dot64(tile[own], a0, a1, a2, a3),
          dot64(tile[own + 16u], a0, a1, a2, a3),
          dot64(tile[own + 32u], a0, a1, a2, a3),
          dot64(tile[own + 48u], a0, a1, a2, a3),
        );
      }
    }
    let scale4 = vec4<f32>(scales[n], scales[n + 16u], scales[n + 32u], scales[n + 48u]);
    for (var j = 0u; j < 2u; j++) {
      let xInfo = infos[m + 16u * j];
      let dot4 = vec4<f32>(dots[j] - vec4<i32>(bitcast<i32>(xInfo.y)));
      y4[j] = rounded4(y4[j] + rounded4(dot4 * rounded4(bitcast<f32>(xInfo.x) * scale4)));
    }
    workgroupBarrier();
  }
  for (var j = 0u; j < 2u; j++) {
    let token = m0 + m + 16u * j;
    if (token >= p.rows) { continue; }
    for (var i = 0u; i < 4u; i++) {
      let row = n0 + n + 16u * i;
      if (row < p.wRows) { y[token * p.wRows + row] ${add ? '+' : ''}= y4[j][i]; }
    }
  }
}
`,
  };
}
