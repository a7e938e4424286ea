import type { DenseType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { HALVES } from './exact.ts';
import { readRow } from './prepare.ts';

/** Word `rounding` of prepareDense: to what a matrix of `type` rounds what it meets. */
export function roundingOf(type: DenseType): number {
  return { f16: 1, bf16: 2, f32: 0, q8_0: 0, q6_k: 0, q4_0: 0 }[type];
}

/**
 * y [rows][cols] f32 = rows of x, or those named in `index`, through `norms` norms and rounded as src/reference/dense_linear.ts
 * rounds them. A workgroup a row.
 */
export function prepareDense(variant: Variant, norms: 0 | 1 | 2, indexed: boolean): Kernel {
  const weights = ['weight: array<vec4<f32>>', 'weight2: array<vec4<f32>>'].slice(0, norms);
  return {
    stem: 'prepare_dense',
    code: `${declare(
      variant,
      ['x: array<vec4<f32>>', '*y: array<vec4<f32>>', ...weights, ...(indexed ? ['index: array<u32>'] : [])],
      ['cols: u32', 'eps: f32', 'eps2: f32', 'rounding: u32'],
    )}${readRow(variant, norms)}${HALVES}
fn seen(v: f32) -> f32 {
  if (p.rounding == 1u) { return fromF16(f16Bits(v)); }
  let bits = bitcast<u32>(v);
  if (p.rounding == 0u || (bits & 0x7fffffffu) > 0x7f800000u) { return v; }
  return bitcast<f32>((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u);
}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  readNorms(${indexed ? 'index[group.x]' : 'group.x'}, thread);
  for (var i = thread; i < p.cols / 4u; i += ${THREADS}u) {
    let v = activations(i);
    y[group.x * (p.cols / 4u) + i] = vec4<f32>(seen(v.x), seen(v.y), seen(v.z), seen(v.w));
  }
}
`,
  };
}
