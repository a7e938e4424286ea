import { F16_BIAS } from '../lanes';
import { BF16, F16 } from './prepare';

/** x f32 [dim] = one embedding row of `type`, dim a multiple of 4. */
export function embedRow(staged: usize, type: i32, dim: i32, x: usize): void {
  if (type == F16) {
    for (let i: usize = 0; i < <usize>dim; i++) {
      const half = <u32>load<u16>(staged + (i << 1));
      store<f32>(x + (i << 2), reinterpret<f32>(((half & 0x8000) << 16) | ((half & 0x7fff) << 13)) * F16_BIAS);
    }
  } else if (type == BF16) {
    for (let i: usize = 0; i < <usize>dim; i++) store<u32>(x + (i << 2), <u32>load<u16>(staged + (i << 1)) << 16);
  } else memory.copy(x, staged, <usize>dim << 2);
}
