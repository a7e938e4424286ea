import { F16_BIAS, expF32x4, f16High, f16Low, f16Mask, maxF32x4, sumF32x4 } from '../lanes';

// Keys and values lie in blocks of `blockSize` positions: block [layer][K, V][kvHeads][blockSize][headDim].
// `page` below is the address of one head's keys (or values) inside block 0; block n is `blockBytes` further on, n times.

// Sixteen partial sums, added as 8 and 8, 4 and 4 and so on: the order of ggml's AVX-512 dot product. With it the goldens of
// the native engine are met without one int8 rounding that falls the other way.

function dotF32(q: usize, key: usize, headDim: i32): f32 {
  let a = f32x4.splat(0), b = a, c = a, d = a;
  let i = 0;
  for (; i + 16 <= headDim; i += 16) {
    a = f32x4.add(a, f32x4.mul(v128.load(key), v128.load(q)));
    b = f32x4.add(b, f32x4.mul(v128.load(key, 16), v128.load(q, 16)));
    c = f32x4.add(c, f32x4.mul(v128.load(key, 32), v128.load(q, 32)));
    d = f32x4.add(d, f32x4.mul(v128.load(key, 48), v128.load(q, 48)));
    key += 64; q += 64;
  }
  for (; i < headDim; i += 4) {
    a = f32x4.add(a, f32x4.mul(v128.load(key), v128.load(q)));
    key += 16; q += 16;
  }
  return sumF32x4(f32x4.add(f32x4.add(a, c), f32x4.add(b, d)));
}

// A key takes the bias before the product: q is no half, and q times the bias could leave the range of f32.
function dotF16(q: usize, key: usize, headDim: i32): f32 {
  const mask = f16Mask(), bias = f32x4.splat(F16_BIAS);
  let a = f32x4.splat(0), b = a, c = a, d = a;
  let i = 0;
  for (; i + 16 <= headDim; i += 16) {
    const low = v128.load(key), high = v128.load(key, 16);
    a = f32x4.add(a, f32x4.mul(f32x4.mul(f16Low(low, mask), bias), v128.load(q)));
    b = f32x4.add(b, f32x4.mul(f32x4.mul(f16High(low, mask), bias), v128.load(q, 16)));
    c = f32x4.add(c, f32x4.mul(f32x4.mul(f16Low(high, mask), bias), v128.load(q, 32)));
    d = f32x4.add(d, f32x4.mul(f32x4.mul(f16High(high, mask), bias), v128.load(q, 48)));
    key += 32; q += 64;
  }
  for (; i < headDim; i += 4) {
    a = f32x4.add(a, f32x4.mul(f32x4.mul(f16Low(v128.load64_zero(key), mask), bias), v128.load(q)));
    key += 8; q += 16;
  }
  return sumF32x4(f32x4.add(f32x4.add(a, c), f32x4.add(b, d)));
}

/**
 * One head of one row: out f32 [headDim] = softmax(q k / sqrt(headDim)) v over positions 0 … count - 1.
 *
 *   q       f32 [headDim], headDim a multiple of 4
 *   table   i32 [blocks] of the row's sequence
 *   scores  f32 [count rounded up to 4], scratch of this thread
 */
export function attentionHead(
  q: usize, keys: usize, values: usize, table: usize, blockBytes: usize, blockSize: i32, headDim: i32, count: i32,
  f16: i32, scores: usize, out: usize,
): void {
  const scale = <f32>1 / sqrt<f32>(<f32>headDim);
  const stride = <usize>headDim << (f16 ? 1 : 2);
  const mask = f16Mask();

  let top = f32x4.splat(-Infinity);
  for (let from = 0; from < count; from += blockSize) {
    let key = keys + <usize>load<i32>(table + (<usize>(from / blockSize) << 2)) * blockBytes;
    const to = min(from + blockSize, count);
    for (let p = from; p < to; p++) {
      const score = (f16 ? dotF16(q, key, headDim) : dotF32(q, key, headDim)) * scale;
      store<f32>(scores + (<usize>p << 2), score);
      top = f32x4.max(top, f32x4.splat(score));
      key += stride;
    }
  }

  // Softmax. The last group of four is filled up with -infinity, whose exponential is 0.
  const end = scores + (<usize>count << 2);
  for (let p = end; p & 15; p += 4) store<f32>(p, -Infinity);
  const largest = f32x4.splat(maxF32x4(top));
  let low = f64x2.splat(0), high = f64x2.splat(0);
  for (let p = scores; p < end; p += 16) {
    const e = expF32x4(f32x4.sub(v128.load(p), largest));
    v128.store(p, e);
    low = f64x2.add(low, f64x2.promote_low_f32x4(e));
    high = f64x2.add(high, f64x2.promote_low_f32x4(i64x2.shuffle(e, e, 1, 0)));
  }
  low = f64x2.add(low, high);
  const inverse = f32x4.splat(<f32>(1.0 / (f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1))));
  for (let p = scores; p < end; p += 16) v128.store(p, f32x4.mul(v128.load(p), inverse));

  // Weighted sum of the values, 16 columns at a time, positions in order.
  let d = 0;
  for (; d + 16 <= headDim; d += 16) {
    let a = f32x4.splat(0), b = a, c = a, e = a;
    for (let from = 0; from < count; from += blockSize) {
      let value = values + <usize>load<i32>(table + (<usize>(from / blockSize) << 2)) * blockBytes + (<usize>d << (f16 ? 1 : 2));
      const to = min(from + blockSize, count);
      for (let p = from; p < to; p++) {
        const weight = load<f32>(scores + (<usize>p << 2));
        if (f16) {
          const w = f32x4.splat(weight * F16_BIAS);
          a = f32x4.add(a, f32x4.mul(f16Low(v128.load64_zero(value), mask), w));
          b = f32x4.add(b, f32x4.mul(f16Low(v128.load64_zero(value, 8), mask), w));
          c = f32x4.add(c, f32x4.mul(f16Low(v128.load64_zero(value, 16), mask), w));
          e = f32x4.add(e, f32x4.mul(f16Low(v128.load64_zero(value, 24), mask), w));
        } else {
          const w = f32x4.splat(weight);
          a = f32x4.add(a, f32x4.mul(v128.load(value), w));
          b = f32x4.add(b, f32x4.mul(v128.load(value, 16), w));
          c = f32x4.add(c, f32x4.mul(v128.load(value, 32), w));
          e = f32x4.add(e, f32x4.mul(v128.load(value, 48), w));
        }
        value += stride;
      }
    }
    const to = out + (<usize>d << 2);
    v128.store(to, a);
    v128.store(to, b, 16);
    v128.store(to, c, 32);
    v128.store(to, e, 48);
  }
  for (; d < headDim; d += 4) {
    let a = f32x4.splat(0);
    for (let p = 0; p < count; p++) {
      const block = <usize>load<i32>(table + (<usize>(p / blockSize) << 2));
      const value = values + block * blockBytes + <usize>(p % blockSize) * stride + (<usize>d << (f16 ? 1 : 2));
      const weight = load<f32>(scores + (<usize>p << 2));
      if (f16) a = f32x4.add(a, f32x4.mul(f16Low(v128.load64_zero(value), mask), f32x4.splat(weight * F16_BIAS)));
      else a = f32x4.add(a, f32x4.mul(v128.load(value), f32x4.splat(weight)));
    }
    v128.store(out + (<usize>d << 2), a);
  }
}
