import type { DenseType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { decodeRow, loaded } from './decode_row.ts';
import { HALVES } from './exact.ts';
import { sumLanes } from './reduce.ts';

/** Threads that share rows of W, of which each of them reads eight weights at a time. Not tuned on a GPU. */
const LANES = 32;
/** Rows of W that they go through at once: as many loads on their way, and x is read once for all of them. */
const ROWS = 4;
/** Rows of x that are multiplied at once where there are several: four sums each are kept in registers. */
const TOKENS = 4;
const GROUPS = THREADS / LANES;
/**
 * Most tiles of TOKENS that a workgroup has: they read the same weights at about the same time; 16 rows are the
 * most that ask for logits at once. Not tuned on a GPU.
 */
const MOST_TILES = 4;

/** How many rows of x and of W a workgroup multiplies where there are `rows` of x. */
export function tileOf(rows: number): {
  readonly single: boolean;
  readonly tiles: number;
  readonly wRows: number;
  readonly xRows: number;
} {
  const single = rows === 1;
  const xTile = single ? 1 : TOKENS;
  const tiles = Math.min(MOST_TILES, 2 ** Math.ceil(Math.log2(Math.ceil(rows / xTile))));
  return { single, tiles, wRows: (GROUPS / tiles) * ROWS, xRows: tiles * xTile };
}

/**
 * y [rows][stride] = W x, or += where `add` is 1, for a window of W: `wRows` rows of `rowBytes`, which are rows `first` … of all
 * `stride`. x [rows][cols] is prepared: one row or, in `tiles` a workgroup, several. Either way the same lanes add up the same
 * products in the same order.
 */
export function denseLinear(variant: Variant, type: DenseType, single: boolean): Kernel {
  const tokens = single ? 1 : TOKENS;
  const each = (count: number, text: (i: number) => string) => Array.from({ length: count }, (_, i) => text(i));
  return {
    stem: 'dense_linear',
    code: `${declare(
      variant,
      [`w: array<${loaded(type)}>`, 'x: array<vec4<f32>>', '*y: array<f32>'],
      ['cols: u32', 'rowBytes: u32', 'wRows: u32', 'first: u32', 'stride: u32', 'rows: u32', 'tiles: u32', 'add: u32'],
    )}${HALVES}
fn load(i: u32) -> ${loaded(type)} { return w[i]; }
${decodeRow(type)}${sumLanes(variant, 'sumLanes', 'vec4<f32>', LANES)}
fn plus(s: f32, v: Eight, a: vec4<f32>, b: vec4<f32>) -> f32 {
  let half = fma(v.a.w, a.w, fma(v.a.z, a.z, fma(v.a.y, a.y, fma(v.a.x, a.x, s))));
  return fma(v.b.w, b.w, fma(v.b.z, b.z, fma(v.b.y, b.y, fma(v.b.x, b.x, half))));
}
fn put(token: u32, row: u32, sums: vec4<f32>) {
  if (token >= p.rows) { return; }
  for (var j = 0u; j < min(${ROWS}u, p.wRows - row); j++) {
    let at = token * p.stride + p.first + row + j;
    if (p.add == 1u) { y[at] += sums[j]; } else { y[at] = sums[j]; }
  }
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let lane = thread % ${LANES}u;
  let place = thread / ${LANES}u;
  let row = (group.y * (${GROUPS}u / p.tiles) + place / p.tiles) * ${ROWS}u;
  ${each(ROWS, (j) => `let row${j} = min(row + ${j}u, p.wRows - 1u) * p.rowBytes;`).join('\n  ')}
  let token = (group.x * p.tiles + place % p.tiles) * ${tokens}u;
  ${each(tokens, (t) => `var sums${t} = vec4<f32>(0.0);\n  let x${t} = min(token + ${t}u, p.rows - 1u) * (p.cols / 4u);`).join('\n  ')}
  for (var i = lane; i < p.cols / 8u; i += ${LANES}u) {
    ${each(ROWS, (j) => `let w${j} = eight(row${j}, i);`).join('\n    ')}
    ${each(
      tokens,
      (t) => `{
      let a = x[x${t} + 2u * i];
      let b = x[x${t} + 2u * i + 1u];
      sums${t} = vec4<f32>(${each(ROWS, (j) => `plus(sums${t}[${j}], w${j}, a, b)`).join(', ')});
    }`,
    ).join('\n    ')}
  }
  ${each(tokens, (t) => `sums${t} = sumLanes(sums${t}, thread);`).join('\n  ')}
  if (lane > 0u || row >= p.wRows) { return; }
  ${each(tokens, (t) => `put(token + ${t}u, row, sums${t});`).join('\n  ')}
}
`,
  };
}
