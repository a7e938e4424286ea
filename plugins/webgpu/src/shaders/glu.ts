import type { Activation } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { EXP } from './exp.ts';

/** Workgroups of `glu`, which share its numbers: some for every core of a large GPU (not tuned). */
export const GLU_GROUPS = 256;

/**
 * `glu(g, u)`: act(g) * u, rounded step by step as assembly/kernels/glu.ts does it, so with the CPU's bits. silu and gelu are
 * g / (1 + e^x) with x = -g, or -2 sqrt(2 / pi) (g + 0.044715 g^3). Wants EXACT, and EXP where the activation has one.
 */
export function gluFunction(activation: Activation): string {
  if (activation === 'relu2') {
    return `
fn glu(g: f32, u: f32) -> f32 {
  let on = max(g, 0.0);
  return rounded(on * on) * u;
}
`;
  }
  const x = activation === 'silu' ? '-g' : 'rounded(g * rounded(-1.5957691 + rounded(rounded(g * g) * -0.07135481)))';
  return `
fn glu(g: f32, u: f32) -> f32 { return divide(g, rounded(1.0 + exponential(${x}))) * u; }
`;
}

/** y = act(y) * up, of `count` numbers. */
export function glu(variant: Variant, activation: Activation): Kernel {
  return {
    stem: 'glu',
    code: `${declare(variant, ['*y: array<f32>', 'up: array<f32>'], ['count: u32'])}${EXACT}${activation === 'relu2' ? '' : EXP}
${gluFunction(activation)}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  for (var i = group.x * ${THREADS}u + thread; i < p.count; i += ${GLU_GROUPS * THREADS}u) { y[i] = glu(y[i], up[i]); }
}
`,
  };
}
