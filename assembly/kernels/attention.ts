import { F16_BIAS, expF32x4, f16Mask, maxF32x4 } from '../lanes';

// Keys and values lie in blocks of `blockSize` positions: block [layer][K, V][kvHeads][blockSize][headDim].
// `keys` and `values` below are the addresses of one kv head's inside block 0; those of block n are n * `blockBytes` further on.
//
// Attention goes over the positions once (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135), in chunks
// that never cross a block. A chunk of one kv head becomes f32 once and serves every query of the tile: heads of its group,
// times rows of consecutive positions. What a query computes, and in which order, depends on its position alone: its bits are
// the same in every tile, on every thread and in every tier. So products are never fused with sums.
//
//   scratch   f32 [CHUNK][headDim]   keys, then values, of a chunk stored as f16
//             f32 [CHUNK][8]         partial sums of one query's scores
//             f32 [QUERIES][CHUNK]   scores, then weights
//             [QUERIES] f32, f32, f64   state: largest score so far, factor of what is summed so far, sum of the exponentials
//
// V8's revectoriser (--experimental-wasm-revectorize) makes one 256-bit op of two that do the same to adjacent halves of 32
// bytes and end in adjacent stores. Hence the pairs (a, b), (c, d) in the loops below.

/** Positions of a chunk, at most: at headDim 128 its keys are 16 KiB and stay in the first cache. */
const CHUNK: i32 = 32;
/**
 * Queries of a tile, at most. 128 rows of 20 heads on 5, one thread, Node 24 on a Xeon with AVX-512, November 2026: 16 are
 * 2 to 4 % slower, 64 between equal and 3 % faster.
 */
const QUERIES: i32 = 32;

const PARTIAL_BYTES: usize = 32;
const WEIGHT_BYTES: usize = 4 * CHUNK;
const STATE_BYTES: usize = 16;

/** Scratch of one thread. */
export function attentionScratchBytes(headDim: i32): i32 {
  return CHUNK * 4 * headDim + CHUNK * <i32>PARTIAL_BYTES + QUERIES * <i32>(WEIGHT_BYTES + STATE_BYTES);
}

/** Rows of a tile, at most, where `heads` share a kv head. */
export function tileRows(heads: i32): i32 {
  return max(QUERIES / heads, 1);
}

/** Heads of a tile of so many rows, at most. */
export function tileHeads(rows: i32): i32 {
  return QUERIES / rows;
}

// Not by load16x4_s: of two, the upper one loaded first (as Binaryen orders them), the revectoriser of V8 13.6 makes a 256-bit
// load from the upper address.

/** Halves 0..3 of v as f32, each too small by F16_BIAS. */
// @ts-ignore: decorator
@inline function low(v: v128, mask: v128): v128 {
  return v128.and(i32x4.shl(i32x4.extend_low_i16x8_s(v), 13), mask);
}

/** Halves 4..7 of v as f32, each too small by F16_BIAS. */
// @ts-ignore: decorator
@inline function high(v: v128, mask: v128): v128 {
  return v128.and(i32x4.shl(i32x4.extend_high_i16x8_s(v), 13), mask);
}

/** f32 [n] = f16 [n], n a multiple of 4. `bias` is F16_BIAS: as a literal V8 would build it anew at every use. */
function widen(from: usize, n: i32, bias: f32, to: usize): void {
  const mask = f16Mask(), biases = f32x4.splat(bias);
  const end = to + (<usize>n << 2);
  for (; to + 64 <= end; to += 64) {
    const v = v128.load(from), w = v128.load(from, 16);
    v128.store(to, f32x4.mul(low(v, mask), biases)); v128.store(to, f32x4.mul(high(v, mask), biases), 16);
    v128.store(to, f32x4.mul(low(w, mask), biases), 32); v128.store(to, f32x4.mul(high(w, mask), biases), 48);
    from += 32;
  }
  for (; to < end; to += 16) {
    v128.store(to, f32x4.mul(low(v128.load64_zero(from), mask), biases));
    from += 8;
  }
}

/** As `widen`, but each number too small by F16_BIAS. */
function widenSmall(from: usize, n: i32, to: usize): void {
  const mask = f16Mask();
  const end = to + (<usize>n << 2);
  for (; to + 64 <= end; to += 64) {
    const v = v128.load(from), w = v128.load(from, 16);
    v128.store(to, low(v, mask)); v128.store(to, high(v, mask), 16);
    v128.store(to, low(w, mask), 32); v128.store(to, high(w, mask), 48);
    from += 32;
  }
  for (; to < end; to += 16) {
    v128.store(to, low(v128.load64_zero(from), mask));
    from += 8;
  }
}

// A score has sixteen partial sums, added as 8 and 8, 4 and 4 and so on: the order of ggml's AVX-512 dot product. With it the
// goldens of the native engine are met without one int8 rounding that falls the other way. They are four vectors a, b, c, d;
// `dots` leaves (a + c, b + d) for `weigh` to join.

/**
 * partials f32 [count][8] of q f32 [headDim] and keys f32 [count][headDim], headDim a multiple of 16. Two keys at a time: of
 * an odd count, what lies behind the last key is read too.
 */
function dots(q: usize, key: usize, headDim: i32, count: i32, partials: usize): void {
  const bytes = <usize>headDim << 2;
  const end = partials + <usize>count * PARTIAL_BYTES, qEnd = q + bytes;
  for (; partials < end; partials += 2 * PARTIAL_BYTES) {
    let a0 = f32x4.splat(0), b0 = f32x4.splat(0), c0 = f32x4.splat(0), d0 = f32x4.splat(0);
    let a1 = f32x4.splat(0), b1 = f32x4.splat(0), c1 = f32x4.splat(0), d1 = f32x4.splat(0);
    let next = key + bytes;
    for (let x = q; x < qEnd; x += 64) {
      const qa = v128.load(x), qb = v128.load(x, 16);
      a0 = f32x4.add(a0, f32x4.mul(v128.load(key), qa));
      b0 = f32x4.add(b0, f32x4.mul(v128.load(key, 16), qb));
      a1 = f32x4.add(a1, f32x4.mul(v128.load(next), qa));
      b1 = f32x4.add(b1, f32x4.mul(v128.load(next, 16), qb));
      const qc = v128.load(x, 32), qd = v128.load(x, 48);
      c0 = f32x4.add(c0, f32x4.mul(v128.load(key, 32), qc));
      d0 = f32x4.add(d0, f32x4.mul(v128.load(key, 48), qd));
      c1 = f32x4.add(c1, f32x4.mul(v128.load(next, 32), qc));
      d1 = f32x4.add(d1, f32x4.mul(v128.load(next, 48), qd));
      key += 64; next += 64;
    }
    v128.store(partials, f32x4.add(a0, c0));
    v128.store(partials, f32x4.add(b0, d0), 16);
    v128.store(partials, f32x4.add(a1, c1), 32);
    v128.store(partials, f32x4.add(b1, d1), 48);
    key = next;
  }
}

/** As `dots`, headDim a multiple of 4. */
function dotsOfFours(q: usize, key: usize, headDim: i32, count: i32, partials: usize): void {
  for (let p = 0; p < count; p++) {
    let a = f32x4.splat(0), b = a, c = a, d = a;
    let x = q, i = 0;
    for (; i + 16 <= headDim; i += 16) {
      a = f32x4.add(a, f32x4.mul(v128.load(key), v128.load(x)));
      b = f32x4.add(b, f32x4.mul(v128.load(key, 16), v128.load(x, 16)));
      c = f32x4.add(c, f32x4.mul(v128.load(key, 32), v128.load(x, 32)));
      d = f32x4.add(d, f32x4.mul(v128.load(key, 48), v128.load(x, 48)));
      key += 64; x += 64;
    }
    for (; i < headDim; i += 4) {
      a = f32x4.add(a, f32x4.mul(v128.load(key), v128.load(x)));
      key += 16; x += 16;
    }
    v128.store(partials, f32x4.add(a, c));
    v128.store(partials, f32x4.add(b, d), 16);
    partials += PARTIAL_BYTES;
  }
}

/**
 * The online softmax: from `partials` of `count` keys to weights f32 [count], each times `unit`, and the state after them.
 * In the `last` chunk of a query the sum is complete: weights and factor come out divided by it.
 */
function weigh(partials: usize, count: i32, scale: f32, unit: f32, last: bool, state: usize, weights: usize): void {
  const end = weights + (<usize>count << 2);
  const scales = f32x4.splat(scale);
  for (let p = weights; p < end; p += 16) {
    // Four scores at once, each (0 + 2) + (1 + 3) of its lanes as in sumF32x4.
    const s0 = f32x4.add(v128.load(partials), v128.load(partials, 16));
    const s1 = f32x4.add(v128.load(partials, 32), v128.load(partials, 48));
    const s2 = f32x4.add(v128.load(partials, 64), v128.load(partials, 80));
    const s3 = f32x4.add(v128.load(partials, 96), v128.load(partials, 112));
    const s01 = f32x4.add(i32x4.shuffle(s0, s1, 0, 1, 4, 5), i32x4.shuffle(s0, s1, 2, 3, 6, 7));
    const s23 = f32x4.add(i32x4.shuffle(s2, s3, 0, 1, 4, 5), i32x4.shuffle(s2, s3, 2, 3, 6, 7));
    const s = f32x4.add(i32x4.shuffle(s01, s23, 0, 2, 4, 6), i32x4.shuffle(s01, s23, 1, 3, 5, 7));
    v128.store(p, f32x4.mul(s, scales));
    partials += 4 * PARTIAL_BYTES;
  }
  // The last group of four is filled up with -infinity, whose exponential is 0.
  for (let p = end; p & 15; p += 4) store<f32>(p, -Infinity);

  const before = load<f32>(state);
  let top = f32x4.splat(before);
  for (let p = weights; p < end; p += 16) top = f32x4.pmax(top, v128.load(p));
  const largest = maxF32x4(top);
  top = f32x4.splat(largest);
  let low = f64x2.splat(0), high = f64x2.splat(0);
  for (let p = weights; p < end; p += 16) {
    const e = expF32x4(f32x4.sub(v128.load(p), top));
    v128.store(p, e);
    low = f64x2.add(low, f64x2.promote_low_f32x4(e));
    high = f64x2.add(high, f64x2.promote_low_f32x4(i64x2.shuffle(e, e, 1, 0)));
  }
  low = f64x2.add(low, high);
  let sum = f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1);

  let factor: f32 = 1;
  if (largest != before) factor = f32x4.extract_lane(expF32x4(f32x4.splat(before - largest)), 0);
  sum += load<f64>(state, 8) * <f64>factor;
  const share = last ? <f32>(1.0 / sum) : 1;
  for (let p = weights; p < end; p += 16) {
    v128.store(p, f32x4.mul(f32x4.mul(v128.load(p), f32x4.splat(share)), f32x4.splat(unit)));
  }
  store<f32>(state, largest);
  store<f32>(state, factor * share, 4);
  store<f64>(state, sum, 8);
}

/** out f32 [headDim] = out * factor + the sum of weights [count] times values f32 [count][headDim], in order. */
function addValues(weights: usize, count: i32, value: usize, headDim: i32, factor: f32, out: usize): void {
  const bytes = <usize>headDim << 2;
  const end = weights + (<usize>count << 2);
  const outEnd = out + bytes;
  const f = f32x4.splat(factor);
  for (; out + 128 <= outEnd; out += 128) {
    let a = f32x4.mul(v128.load(out), f), b = f32x4.mul(v128.load(out, 16), f);
    let c = f32x4.mul(v128.load(out, 32), f), d = f32x4.mul(v128.load(out, 48), f);
    let e = f32x4.mul(v128.load(out, 64), f), g = f32x4.mul(v128.load(out, 80), f);
    let h = f32x4.mul(v128.load(out, 96), f), i = f32x4.mul(v128.load(out, 112), f);
    let v = value;
    for (let p = weights; p < end; p += 4) {
      const w = v128.load32_splat(p);
      a = f32x4.add(a, f32x4.mul(v128.load(v), w));
      b = f32x4.add(b, f32x4.mul(v128.load(v, 16), w));
      c = f32x4.add(c, f32x4.mul(v128.load(v, 32), w));
      d = f32x4.add(d, f32x4.mul(v128.load(v, 48), w));
      e = f32x4.add(e, f32x4.mul(v128.load(v, 64), w));
      g = f32x4.add(g, f32x4.mul(v128.load(v, 80), w));
      h = f32x4.add(h, f32x4.mul(v128.load(v, 96), w));
      i = f32x4.add(i, f32x4.mul(v128.load(v, 112), w));
      v += bytes;
    }
    v128.store(out, a); v128.store(out, b, 16);
    v128.store(out, c, 32); v128.store(out, d, 48);
    v128.store(out, e, 64); v128.store(out, g, 80);
    v128.store(out, h, 96); v128.store(out, i, 112);
    value += 128;
  }
  for (; out < outEnd; out += 16) {
    let a = f32x4.mul(v128.load(out), f);
    let v = value;
    for (let p = weights; p < end; p += 4) {
      a = f32x4.add(a, f32x4.mul(v128.load(v), v128.load32_splat(p)));
      v += bytes;
    }
    v128.store(out, a);
    value += 16;
  }
}

/**
 * A tile of queries: out f32 = softmax(q k / sqrt(headDim)) v. Row r of `rows` stands at position pos + r and sees the
 * positions up to it.
 *
 *   q, out    f32 [rows][heads][headDim], rows `rowBytes` apart, headDim a multiple of 4; rows * heads at most QUERIES
 *   table     i32 [blocks] of the rows' sequence
 *   f16       whether keys and values are f16, else f32
 */
export function attentionTile(
  q: usize, out: usize, rows: i32, heads: i32, headDim: i32, rowBytes: usize, pos: i32,
  keys: usize, values: usize, table: usize, blockBytes: usize, blockSize: i32, f16: i32, scratch: usize,
): void {
  const headBytes = <usize>headDim << 2;
  const partials = scratch + CHUNK * headBytes;
  const weights = partials + CHUNK * PARTIAL_BYTES;
  const states = weights + QUERIES * WEIGHT_BYTES;
  const scale = <f32>1 / sqrt<f32>(<f32>headDim);
  // The bias of f16 values stands in their weights, which are fewer.
  const unit = f16 ? F16_BIAS : <f32>1;

  for (let i = 0; i < rows * heads; i++) {
    const state = states + <usize>i * STATE_BYTES;
    store<f32>(state, -Infinity);
    store<f64>(state, 0, 8);
    memory.fill(out + <usize>(i / heads) * rowBytes + <usize>(i % heads) * headBytes, 0, headBytes);
  }

  const count = pos + rows;
  for (let from = 0, size = 0; from < count; from += size) {
    const inBlock = from % blockSize;
    size = min(min(CHUNK, blockSize - inBlock), count - from);
    const block = <usize>load<i32>(table + (<usize>(from / blockSize) << 2)) * blockBytes;
    const at = block + (<usize>(inBlock * headDim) << (f16 ? 1 : 2));
    let chunk = keys + at;
    if (f16) {
      widen(chunk, size * headDim, unit, scratch);
      chunk = scratch;
    }
    for (let i = 0; i < rows * heads; i++) {
      const left = pos + i / heads + 1 - from;
      if (left <= 0) continue;
      const query = q + <usize>(i / heads) * rowBytes + <usize>(i % heads) * headBytes;
      const seen = min(size, left);
      if (headDim & 15) dotsOfFours(query, chunk, headDim, seen, partials);
      else dots(query, chunk, headDim, seen, partials);
      weigh(partials, seen, scale, unit, left <= size, states + <usize>i * STATE_BYTES, weights + <usize>i * WEIGHT_BYTES);
    }
    chunk = values + at;
    if (f16) {
      widenSmall(chunk, size * headDim, scratch);
      chunk = scratch;
    }
    for (let i = 0; i < rows * heads; i++) {
      const left = pos + i / heads + 1 - from;
      if (left <= 0) continue;
      const to = out + <usize>(i / heads) * rowBytes + <usize>(i % heads) * headBytes;
      const factor = load<f32>(states + <usize>i * STATE_BYTES, 4);
      addValues(weights + <usize>i * WEIGHT_BYTES, min(size, left), chunk, headDim, factor, to);
    }
  }
}
