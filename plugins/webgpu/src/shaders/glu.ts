import type { Activation } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { EXP } from './exp.ts';

/** Workgroups of `glu`, which share its numbers. */
export const GLU_GROUPS = 256;

/**
 * `glu(g, u)`: act(g) * u, rounded as src/reference/glu.ts where that is exact (relu2). silu and gelu are g / (1 + e^-y) with
 * y = g, or 2 sqrt(2 / pi) (g + 0.044715 g^3). Wants EXACT, and EXP of shaders/exp.ts where the activation has one.
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
  const y = activation === 'silu' ? 'g' : '1.5957691216057308 * (g + 0.044715 * g * g * g)';
  return `
fn glu(g: f32, u: f32) -> f32 {
  let y = ${y};
  let e = expNeg(-abs(y));
  // e^-y / (1 + e^-y) where y is below 0, so that nothing overflows.
  return rounded(divide(select(g, g * e, y < 0.0), 1.0 + e)) * u;
}
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
