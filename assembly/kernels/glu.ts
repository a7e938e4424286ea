import { expF32x4 } from '../lanes';

export const RELU2: i32 = 0;
export const SILU: i32 = 1;
export const GELU: i32 = 2;

// @ts-ignore: decorator
@inline function gated(g: v128, u: v128, activation: i32): v128 {
  if (activation == RELU2) {
    const r = f32x4.max(g, f32x4.splat(0));
    return f32x4.mul(f32x4.mul(r, r), u);
  }
  let x = f32x4.neg(g);
  if (activation == GELU) {
    // (1 + tanh y) / 2 = 1 / (1 + e^-2y): SiLU of another slope. -2 sqrt(2 / pi) and the same times 0.044715.
    x = f32x4.mul(g, f32x4.add(f32x4.splat(-1.5957691), f32x4.mul(f32x4.mul(g, g), f32x4.splat(-0.07135481))));
  }
  return f32x4.mul(f32x4.div(g, f32x4.add(f32x4.splat(1), expF32x4(x))), u);
}

/** gate[i] = act(gate[i]) * up[i] for i in [begin, end), act being relu(g)^2, g / (1 + e^-g) or GELU in its tanh form. */
export function glu(gate: usize, up: usize, activation: i32, begin: i32, end: i32): void {
  let i = begin;
  for (; i + 4 <= end; i += 4) {
    const at = <usize>i << 2;
    v128.store(gate + at, gated(v128.load(gate + at), v128.load(up + at), activation));
  }
  for (; i < end; i++) {
    const at = <usize>i << 2;
    v128.store32_lane(gate + at, gated(v128.load32_splat(gate + at), v128.load32_splat(up + at), activation), 0);
  }
}
