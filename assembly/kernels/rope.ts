import { f16Bits } from '../lanes';

/**
 * Rotates one head f32 [headDim] in place: the pairs (i, i + ropeDim / 2), or (2i, 2i + 1) when `interleaved`, by the angles
 * at `table` f32 [ropeDim / 2][cos, sin]. Elements from ropeDim on stay.
 */
export function ropeHead(x: usize, ropeDim: i32, interleaved: i32, table: usize): void {
  const half = <usize>(ropeDim >> 1);
  const step: usize = interleaved ? 8 : 4;
  const other: usize = interleaved ? 4 : half << 2;
  for (let i: usize = 0; i < half; i++) {
    const c = load<f32>(table), s = load<f32>(table, 4);
    const a = load<f32>(x), b = load<f32>(x + other);
    store<f32>(x, a * c - b * s);
    store<f32>(x + other, a * s + b * c);
    table += 8;
    x += step;
  }
}

/** Stores a head f32 [headDim] into the cache, as f16 (round to nearest even) or f32. */
export function storeHead(x: usize, headDim: i32, f16: i32, to: usize): void {
  if (!f16) {
    memory.copy(to, x, <usize>headDim << 2);
    return;
  }
  for (let i: usize = 0; i < <usize>headDim; i++) store<u16>(to + (i << 1), <u16>f16Bits(load<f32>(x + (i << 2))));
}
