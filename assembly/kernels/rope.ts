import { f16BitsX4 } from '../lanes';

/**
 * Rotates one head f32 [headDim] in place: the pairs (i, i + ropeDim / 2), or (2i, 2i + 1) when `interleaved`, by the angles
 * at `table` f32 [ropeDim / 2][cos, sin]. Elements from ropeDim on stay.
 */
export function ropeHead(x: usize, ropeDim: i32, interleaved: i32, table: usize): void {
  const half = ropeDim >> 1;
  const step: usize = interleaved ? 8 : 4;
  const other: usize = interleaved ? 4 : <usize>half << 2;
  let i = 0;
  for (; i + 4 <= half; i += 4) {
    const t = v128.load(table), u = v128.load(table, 16);
    const c = i32x4.shuffle(t, u, 0, 2, 4, 6), s = i32x4.shuffle(t, u, 1, 3, 5, 7);
    const v = v128.load(x), w = v128.load(interleaved ? x + 16 : x + other);
    const a = interleaved ? i32x4.shuffle(v, w, 0, 2, 4, 6) : v;
    const b = interleaved ? i32x4.shuffle(v, w, 1, 3, 5, 7) : w;
    const y = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const z = f32x4.add(f32x4.mul(a, s), f32x4.mul(b, c));
    if (interleaved) {
      v128.store(x, i32x4.shuffle(y, z, 0, 4, 1, 5));
      v128.store(x, i32x4.shuffle(y, z, 2, 6, 3, 7), 16);
    } else {
      v128.store(x, y);
      v128.store(x + other, z);
    }
    table += 32;
    x += 4 * step;
  }
  for (; i < half; i++) {
    const c = load<f32>(table), s = load<f32>(table, 4);
    const a = load<f32>(x), b = load<f32>(x + other);
    store<f32>(x, a * c - b * s);
    store<f32>(x + other, a * s + b * c);
    table += 8;
    x += step;
  }
}

/** Stores a head f32 [headDim], headDim a multiple of 4, into the cache, as f16 (round to nearest even) or f32. */
export function storeHead(x: usize, headDim: i32, f16: i32, to: usize): void {
  if (!f16) {
    memory.copy(to, x, <usize>headDim << 2);
    return;
  }
  for (const end = x + (<usize>headDim << 2); x < end; x += 16) {
    v128.store64_lane(to, i16x8.narrow_i32x4_u(f16BitsX4(v128.load(x)), i32x4.splat(0)), 0);
    to += 8;
  }
}
