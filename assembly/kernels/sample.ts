// Picks one token from a row of logits; specification: src/reference/sample.ts, params and pick: src/sampler.ts.
//
// Every filter of the chain keeps a prefix of the same list: the tokens by logit descending, then id ascending. Top-k is the
// prefix of k, top-p the shortest one with a share of the weight, min-p the one down to a threshold, and the draw is the last
// token of the shortest prefix that has the share u. So nothing needs the whole list sorted:
//
//   k <= HEAP    one pass keeps the k best in a heap; that prefix is sorted and walked
//   otherwise    the last token of a prefix is found by its key's bits, 11 at a time, in histograms of weight
//
// Weights are f64, so that the cut falls on the same token in whatever order they are added up. NaN and -Infinity are no
// candidates; +Infinity counts as the largest float.
//
//   scratch  heap       [HEAP] u64          key << 32 | ~id: larger is earlier in the list
//            histogram  [BUCKETS][4] f64    one a lane, so that neighbours do not wait for each other's sums
//            changed    [vocab] {id i32, logit f32, count i32, bias f32}

import { expF32x4, maxF32x4 } from '../lanes';

/** 8 KiB of heap stay in the first cache; people ask for 40 of the best, or for all. */
export const HEAP: i32 = 1024;
const BUCKETS: i32 = 2048;
const HISTOGRAM: usize = HEAP * 8;
const CHANGED: usize = HISTOGRAM + 4 * BUCKETS * 8;

/** Scratch bytes of one call. Only as many of the vocabulary are touched as have a bias or penalty. */
export function sampleScratchBytes(vocab: i32): i32 {
  return <i32>CHANGED + 16 * vocab;
}

/** logits [vocab] f32, the same before and after; pick.id is -1 where no logit is a candidate. */
export function sample(logits: usize, vocab: i32, params: usize, pick: usize, scratch: usize): void {
  const rawPeak = peakOf(logits, vocab);
  const rawTotal = totalOf(logits, vocab, rawPeak);
  const changed = change(logits, params, scratch + CHANGED);
  const id = choose(logits, vocab, params, scratch);
  for (let i = 0, at = scratch + CHANGED; i < changed; i++, at += 16) {
    store<f32>(logits + (<usize>load<i32>(at) << 2), load<f32>(at, 4));
  }

  const logit = id < 0 ? <f32>NaN : load<f32>(logits + (<usize>id << 2));
  const weight = expF64(<f64>min<f32>(logit, f32.MAX_VALUE) - <f64>rawPeak);
  store<i32>(pick, id);
  store<f32>(pick, logit, 4);
  store<f64>(pick, rawTotal > 0 ? weight / rawTotal : 0, 8);
}

/** The id that the chain draws from the logits as they are now, or -1. */
function choose(logits: usize, vocab: i32, params: usize, scratch: usize): i32 {
  const temperature = load<f64>(params, 16);
  const topP = load<f64>(params, 24);
  const topK = temperature > 0 ? load<i32>(params, 12) : 1;
  const k = topK > 0 ? min(topK, vocab) : vocab;

  let n = best(logits, vocab, k <= HEAP ? k : 1, scratch);
  if (n == 0) return -1;
  const peak = logitOf(<u32>(load<u64>(scratch) >> 32));
  const floor = peak + load<f32>(params, 32);
  const u = uniform(load<u64>(params), load<u32>(params, 8));

  if (k <= HEAP) {
    if (topP < 1) n = cutSorted(scratch, n, peak, 1, topP);
    while (n > 1 && logitOf(<u32>(load<u64>(scratch + (<usize>(n - 1) << 3)) >> 32)) < floor) n--;
    if (n > 1) n = cutSorted(scratch, n, peak, temperature, u);
    return ~(<i32>load<u64>(scratch + (<usize>(n - 1) << 3)));
  }

  // At infinite temperature every weight is 1: a cut by count.
  let key: u32 = 0;
  let ties: i32 = i32.MAX_VALUE;
  if (k < vocab) {
    key = cut(logits, vocab, peak, Infinity, k, false, key, ties, scratch);
    ties = load<i32>(scratch);
  }
  if (topP < 1) {
    key = cut(logits, vocab, peak, 1, topP, true, key, ties, scratch);
    ties = load<i32>(scratch);
  }
  if (keyOf(floor) > key) {
    key = keyOf(floor);
    ties = i32.MAX_VALUE;
  }
  cut(logits, vocab, peak, temperature, u, true, key, ties, scratch);
  return load<i32>(scratch, 4);
}

// ---- logits ----

/** Logits i … i + 3: +Infinity as the largest float, -0 as 0, -Infinity beyond the row. */
// @ts-ignore: decorator
@inline function logits4(logits: usize, i: i32, vocab: i32): v128 {
  let z: v128;
  if (i + 4 <= vocab) {
    z = v128.load(logits + (<usize>i << 2));
  } else {
    z = f32x4.replace_lane(f32x4.splat(-Infinity), 0, load<f32>(logits + (<usize>i << 2)));
    if (i + 1 < vocab) z = f32x4.replace_lane(z, 1, load<f32>(logits + (<usize>i << 2), 4));
    if (i + 2 < vocab) z = f32x4.replace_lane(z, 2, load<f32>(logits + (<usize>i << 2), 8));
  }
  return f32x4.add(f32x4.pmin(z, f32x4.splat(f32.MAX_VALUE)), f32x4.splat(0));
}

/** Floats in order as unsigned integers in order: the sign bit flipped, and all others too below 0. */
// @ts-ignore: decorator
@inline function keysOf(z: v128): v128 {
  return v128.xor(z, v128.or(i32x4.shr_s(z, 31), i32x4.splat(0x80000000)));
}

// @ts-ignore: decorator
@inline function keyOf(z: f32): u32 {
  const bits = reinterpret<i32>(z + 0);
  return bits ^ ((bits >> 31) | 0x80000000);
}

// @ts-ignore: decorator
@inline export function logitOf(key: u32): f32 {
  return reinterpret<f32>(key ^ (~(<i32>key >> 31) | 0x80000000));
}

/** The largest logit that is a number, -Infinity if none is. */
function peakOf(logits: usize, vocab: i32): f32 {
  let peak = f32x4.splat(-Infinity);
  for (let i = 0; i < vocab; i += 4) peak = f32x4.pmax(peak, logits4(logits, i, vocab));
  return maxF32x4(peak);
}

/** Sum of e^(logit - peak). Lanes are f32 over 64 logits and f64 from there on: 16 additions cost at most 1e-6. */
function totalOf(logits: usize, vocab: i32, peak: f32): f64 {
  const peaks = f32x4.splat(peak);
  let total = f64x2.splat(0);
  for (let i = 0; i < vocab; ) {
    const end = min(i + 64, vocab);
    let sum = f32x4.splat(0);
    for (; i < end; i += 4) sum = f32x4.add(sum, expF32x4(f32x4.sub(logits4(logits, i, vocab), peaks)));
    total = f64x2.add(total, f64x2.promote_low_f32x4(sum));
    total = f64x2.add(total, f64x2.promote_low_f32x4(i32x4.shuffle(sum, sum, 2, 3, 2, 3)));
  }
  return f64x2.extract_lane(total, 0) + f64x2.extract_lane(total, 1);
}

/**
 * Applies bias and penalties in place and keeps the old logits in `changed`; returns how many ids those are. While the tokens
 * are counted, the logit of an id holds its index in `changed`; an index is believed only if `changed` has that id there
 * (Briggs and Torczon, "An Efficient Representation for Sparse Sets", 1993).
 */
function change(logits: usize, params: usize, changed: usize): i32 {
  const biases = load<i32>(params, 48);
  const recents = load<i32>(params, 52);
  let n = 0;
  let at = params + 64;
  for (let i = 0; i < biases; i++, at += 8) {
    const entry = entryOf(logits, load<i32>(at), n, changed);
    n = max(n, entry + 1);
    store<f32>(changed + (<usize>entry << 4), load<f32>(at, 4), 12);
  }
  for (let i = 0; i < recents; i++, at += 4) {
    const entry = entryOf(logits, load<i32>(at), n, changed);
    n = max(n, entry + 1);
    const count = changed + (<usize>entry << 4) + 8;
    store<i32>(count, load<i32>(count) + 1);
  }

  const repeat = load<f32>(params, 36);
  const frequency = load<f32>(params, 40);
  const presence = load<f32>(params, 44);
  for (let i = 0, entry = changed; i < n; i++, entry += 16) {
    const count = load<i32>(entry, 8);
    const bias = load<f32>(entry, 12);
    let z = abs(bias) == Infinity ? bias : load<f32>(entry, 4) + bias;
    if (count > 0) {
      z = z > 0 ? z / repeat : z * repeat;
      z -= <f32>count * frequency + presence;
    }
    store<f32>(logits + (<usize>load<i32>(entry) << 2), z);
  }
  return n;
}

/** Index of an id in `changed` [n], where it is entered if it is new. */
// @ts-ignore: decorator
@inline function entryOf(logits: usize, id: i32, n: i32, changed: usize): i32 {
  const logit = logits + (<usize>id << 2);
  const seen = load<i32>(logit);
  if (<u32>seen < <u32>n && load<i32>(changed + (<usize>seen << 4)) == id) return seen;
  const entry = changed + (<usize>n << 4);
  store<i32>(entry, id);
  store<i32>(entry, load<i32>(logit), 4);
  store<i64>(entry, 0, 8);
  store<i32>(logit, n);
  return n;
}

// ---- a short prefix: heap and sort ----

/** The k best into heap, best first; returns how many there are. A later equal is no better than what the heap has. */
export function best(logits: usize, vocab: i32, k: i32, heap: usize): i32 {
  let n = 0;
  let threshold: f32 = -Infinity;
  let thresholds = f32x4.splat(threshold);
  for (let i = 0; i < vocab; i += 4) {
    const z = logits4(logits, i, vocab);
    let lanes = i32x4.bitmask(f32x4.gt(z, thresholds));
    if (lanes == 0) continue;
    const keys = keysOf(z);
    if (lanes & 1) n = offer(heap, n, k, i32x4.extract_lane(keys, 0), i);
    if (lanes & 2) n = offer(heap, n, k, i32x4.extract_lane(keys, 1), i + 1);
    if (lanes & 4) n = offer(heap, n, k, i32x4.extract_lane(keys, 2), i + 2);
    if (lanes & 8) n = offer(heap, n, k, i32x4.extract_lane(keys, 3), i + 3);
    if (n == k) thresholds = f32x4.splat(logitOf(<u32>(load<u64>(heap) >> 32)));
  }
  if (n < k) heapify(heap, n);
  for (let last = n - 1; last > 0; last--) {
    const end = heap + (<usize>last << 3);
    const worst = load<u64>(heap);
    store<u64>(heap, load<u64>(end));
    store<u64>(end, worst);
    sink(heap, 0, last);
  }
  return n;
}

/** Appends while there are fewer than k; from then on the heap's root, its worst, gives way to a better one. */
function offer(heap: usize, n: i32, k: i32, key: u32, id: i32): i32 {
  const entry = (<u64>key << 32) | <u64>(<u32>~id);
  if (n < k) {
    store<u64>(heap + (<usize>n << 3), entry);
    if (++n == k) heapify(heap, n);
  } else if (entry > load<u64>(heap)) {
    store<u64>(heap, entry);
    sink(heap, 0, n);
  }
  return n;
}

function heapify(heap: usize, n: i32): void {
  for (let i = (n >> 1) - 1; i >= 0; i--) sink(heap, i, n);
}

/** Moves entry i down a heap whose root is the smallest. */
function sink(heap: usize, i: i32, n: i32): void {
  const entry = load<u64>(heap + (<usize>i << 3));
  for (;;) {
    let child = 2 * i + 1;
    if (child >= n) break;
    let least = load<u64>(heap + (<usize>child << 3));
    if (child + 1 < n) {
      const right = load<u64>(heap + (<usize>child << 3), 8);
      if (right < least) {
        least = right;
        child++;
      }
    }
    if (entry <= least) break;
    store<u64>(heap + (<usize>i << 3), least);
    i = child;
  }
  store<u64>(heap + (<usize>i << 3), entry);
}

/** Length of the shortest prefix of the sorted list [n] that has `share` of its weight at a temperature. */
function cutSorted(list: usize, n: i32, peak: f32, temperature: f64, share: f64): i32 {
  let total: f64 = 0;
  for (let i = 0; i < n; i++) total += weightOf(<u32>(load<u64>(list + (<usize>i << 3)) >> 32), peak, temperature);
  const goal = share * total;
  let sum: f64 = 0;
  for (let i = 0; i < n; i++) {
    sum += weightOf(<u32>(load<u64>(list + (<usize>i << 3)) >> 32), peak, temperature);
    if (sum >= goal) return i + 1;
  }
  return n;
}

// ---- a long prefix: histograms ----

/**
 * The shortest prefix that has weight `goal`, or with `relative` that share of the weight, within a prefix that ends with the
 * `limitTies`-th of the tokens whose key is `limitKey`. Returns the key of its last token and leaves at `scratch` how many
 * tokens of that key it has (i32) and the last one's id (i32).
 */
function cut(
  logits: usize,
  vocab: i32,
  peak: f32,
  temperature: f64,
  goal: f64,
  relative: bool,
  limitKey: u32,
  limitTies: i32,
  scratch: usize,
): u32 {
  const histogram = scratch + HISTOGRAM;
  let key: u32 = 0;
  let above: f64 = 0;
  for (let shift: u32 = 21; ; shift = shift > 10 ? 10 : 0) {
    pour(logits, vocab, peak, temperature, key, shift, limitKey, limitTies, histogram);
    if (shift == 21 && relative) {
      let total: f64 = 0;
      for (let b = BUCKETS - 1; b >= 0; b--) total += bucketOf(histogram, b);
      goal *= total;
    }
    // Rounding may leave the goal out of reach; then it is the last bucket that has any weight.
    let bucket = 0;
    let sum = above;
    for (let b = BUCKETS - 1; b >= 0; b--) {
      const weight = bucketOf(histogram, b);
      if (weight == 0) continue;
      bucket = b;
      above = sum;
      sum += weight;
      if (sum >= goal) break;
    }
    key |= <u32>bucket << shift;
    if (shift == 0) break;
  }

  const keys = i32x4.splat(key);
  const weight = weightOf(key, peak, temperature);
  const most = key == limitKey ? limitTies : i32.MAX_VALUE;
  let ties = 0;
  let id = -1;
  for (let i = 0; i < vocab; i += 4) {
    let lanes = i32x4.bitmask(i32x4.eq(keysOf(logits4(logits, i, vocab)), keys));
    for (; lanes != 0 && ties < most && (ties == 0 || above < goal); lanes &= lanes - 1) {
      id = i + ctz(lanes);
      ties++;
      above += weight;
    }
    if (ties == most || (ties > 0 && above >= goal)) break;
  }
  store<i32>(scratch, ties);
  store<i32>(scratch, id, 4);
  return key;
}

/**
 * Weights of the tokens within the limit whose key has the bits of `key` from shift + 11 up, by their next 11 bits (10 at
 * shift 0). NaN and -Infinity weigh nothing.
 */
function pour(
  logits: usize,
  vocab: i32,
  peak: f32,
  temperature: f64,
  key: u32,
  shift: u32,
  limitKey: u32,
  limitTies: i32,
  histogram: usize,
): void {
  memory.fill(histogram, 0, 4 * BUCKETS * 8);
  const settled = i32x4.splat(shift > 20 ? 0 : -1 << (shift + (shift > 0 ? 11 : 10)));
  const wanted = i32x4.splat(key);
  const limit = i32x4.splat(limitKey);
  const peaks = f64x2.splat(peak);
  const temperatures = f64x2.splat(temperature);
  let ties = 0;
  for (let i = 0; i < vocab; i += 4) {
    const z = logits4(logits, i, vocab);
    const keys = keysOf(z);
    let within = v128.and(i32x4.eq(v128.and(keys, settled), wanted), i32x4.ge_u(keys, limit));
    if (!v128.any_true(within)) continue;
    const tied = v128.and(within, i32x4.eq(keys, limit));
    if (v128.any_true(tied)) {
      const lanes = i32x4.bitmask(tied);
      if (lanes & 1 && ties++ >= limitTies) within = i32x4.replace_lane(within, 0, 0);
      if (lanes & 2 && ties++ >= limitTies) within = i32x4.replace_lane(within, 1, 0);
      if (lanes & 4 && ties++ >= limitTies) within = i32x4.replace_lane(within, 2, 0);
      if (lanes & 8 && ties++ >= limitTies) within = i32x4.replace_lane(within, 3, 0);
    }
    // The others add 0: with a branch a lane, V8 computes the weights anew in each (measured: 4.1 against 1.1 ms a pass).
    const z23 = i32x4.shuffle(z, z, 2, 3, 2, 3);
    let w01 = expF64x2(f64x2.div(f64x2.sub(f64x2.promote_low_f32x4(z), peaks), temperatures));
    let w23 = expF64x2(f64x2.div(f64x2.sub(f64x2.promote_low_f32x4(z23), peaks), temperatures));
    w01 = v128.and(w01, i32x4.shuffle(within, within, 0, 0, 1, 1));
    w23 = v128.and(w23, i32x4.shuffle(within, within, 2, 2, 3, 3));
    add(histogram, i32x4.extract_lane(keys, 0) >>> shift, f64x2.extract_lane(w01, 0));
    add(histogram + 8, i32x4.extract_lane(keys, 1) >>> shift, f64x2.extract_lane(w01, 1));
    add(histogram + 16, i32x4.extract_lane(keys, 2) >>> shift, f64x2.extract_lane(w23, 0));
    add(histogram + 24, i32x4.extract_lane(keys, 3) >>> shift, f64x2.extract_lane(w23, 1));
  }
}

// @ts-ignore: decorator
@inline function add(histogram: usize, bucket: u32, weight: f64): void {
  const at = histogram + (<usize>(bucket & (BUCKETS - 1)) << 5);
  store<f64>(at, load<f64>(at) + weight);
}

// @ts-ignore: decorator
@inline function bucketOf(histogram: usize, b: i32): f64 {
  const pairs = f64x2.add(v128.load(histogram + (<usize>b << 5)), v128.load(histogram + (<usize>b << 5), 16));
  return f64x2.extract_lane(pairs, 0) + f64x2.extract_lane(pairs, 1);
}

// ---- weights and the draw ----

/** e^((logit - peak) / temperature). */
// @ts-ignore: decorator
@inline function weightOf(key: u32, peak: f32, temperature: f64): f64 {
  return expF64((<f64>logitOf(key) - <f64>peak) / temperature);
}

/** e^x for x <= 0, relative error below 1e-14; below -708, where results turn subnormal, and for NaN it gives 0. */
// @ts-ignore: decorator
@inline function expF64x2(x: v128): v128 {
  const least = f64x2.splat(-708);
  // Adding 1.5 * 2^52 rounds to an integer, which the low bits of the sum then are.
  const magic = f64x2.splat(6755399441055744);
  const clamped = f64x2.pmax(least, x);
  const shifted = f64x2.add(f64x2.mul(clamped, f64x2.splat(1.4426950408889634)), magic);
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, n times the first being exact (Cody and Waite).
  const n = f64x2.sub(shifted, magic);
  let r = f64x2.sub(clamped, f64x2.mul(n, f64x2.splat(6.93147180369123816490e-1)));
  r = f64x2.sub(r, f64x2.mul(n, f64x2.splat(1.90821492927058770002e-10)));
  // Taylor to r^11: the next term is at most (ln 2 / 2)^12 / 12! = 7e-15.
  let p = f64x2.splat(1.0 / 39916800);
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 3628800));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 362880));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 40320));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 5040));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 720));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 120));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 24));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1.0 / 6));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(0.5));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1));
  p = f64x2.add(f64x2.mul(p, r), f64x2.splat(1));
  return v128.and(i64x2.add(p, i64x2.shl(shifted, 52)), f64x2.ge(x, least));
}

/** e^x of one number, by the same steps as the lanes. */
function expF64(x: f64): f64 {
  return f64x2.extract_lane(expF64x2(f64x2.splat(x)), 0);
}

/** A number in [0, 1) from a seed and a step: splitmix64's output function, over the seed and then over both. */
function uniform(seed: u64, step: u32): f64 {
  const bits = mix(mix(seed) + step);
  return <f64>(bits >> 11) * 1.1102230246251565e-16;
}

/** Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014: the constants of splitmix64. */
function mix(x: u64): u64 {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
