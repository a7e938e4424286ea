import { expF32x4 } from '../lanes';

export const RELU2: i32 = 0;
export const SILU: i32 = 1;

/** gate[i] = act(gate[i]) * up[i] for i in [begin, end), act being relu(g)^2 or g / (1 + e^-g). */
export function glu(gate: usize, up: usize, activation: i32, begin: i32, end: i32): void {
  for (let i = begin; i < end; i++) {
    const at = <usize>i << 2;
    const g = load<f32>(gate + at), u = load<f32>(up + at);
    if (activation == RELU2) {
      const r = max<f32>(g, 0);
      store<f32>(gate + at, r * r * u);
    } else {
      const e = f32x4.extract_lane(expF32x4(f32x4.splat(-g)), 0);
      store<f32>(gate + at, g / (<f32>1 + e) * u);
    }
  }
}
