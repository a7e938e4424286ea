import type { DenseType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { decodeRow, loaded } from './decode_row.ts';
import { EXACT, HALVES } from './exact.ts';

/** Windows of a table that one dispatch sees: with tokens and x they stay below 8 buffers. */
export const MOST_WINDOWS = 4;

/**
 * x [rows][dim] = scale * rows `tokens` of a table that is bound in `windows` of `each` rows, from row `first` on; tokens outside
 * of them are left to other dispatches. A row and THREADS times eight columns a workgroup.
 */
export function embed(variant: Variant, type: DenseType, windows: number): Kernel {
  const names = Array.from({ length: windows }, (_, i) => `table${i}`);
  const [last] = names.slice(-1);
  return {
    stem: 'embed',
    code: `${declare(
      variant,
      ['tokens: array<u32>', '*x: array<vec4<f32>>', ...names.map((name) => `${name}: array<${loaded(type)}>`)],
      ['dim: u32', 'scale: f32', 'rowBytes: u32', 'first: u32', 'each: u32'],
    )}${EXACT}${HALVES}
var<private> window: u32;
fn load(i: u32) -> ${loaded(type)} {
  ${names
    .slice(0, -1)
    .map((name, i) => `if (window == ${i}u) { return ${name}[i]; }`)
    .join('\n  ')}
  return ${last}[i];
}
${decodeRow(type)}
fn scaledBy(v: vec4<f32>, scale: f32) -> vec4<f32> {
  return vec4<f32>(rounded(v.x), rounded(v.y), rounded(v.z), rounded(v.w)) * scale;
}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = group.y * ${THREADS}u + thread;
  // Rows before the first are beyond the last this way too.
  let row = tokens[group.x] - p.first;
  window = row / p.each;
  if (i >= p.dim / 8u || window >= ${windows}u) { return; }
  let v = eight((row % p.each) * p.rowBytes, i);
  let at = group.x * (p.dim / 4u) + 2u * i;
  x[at] = scaledBy(v.a, p.scale);
  x[at + 1u] = scaledBy(v.b, p.scale);
}
`,
  };
}
