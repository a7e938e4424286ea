import type { KvType } from 'ternlm/backend';
import { LOWEST, PARTS } from './attention_scores.ts';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXP } from './exp.ts';
import { cacheUnits, DOT, MOST_HEAD_DIM, PLACES, rotation, SHAPE, unitOf, VALUES_BEHIND } from './rope.ts';

// A row's scores become weights, and those a sum of values, number by number as assembly/kernels/attention.ts does it, so with
// the CPU's bits: chunks of at most 32 positions that never cross a block of the cache, one after another; a chunk's weights
// are relative to the largest score so far, and what is summed before shrinks by a factor where that grows. Positions are
// added one by one: the parallel work of one row is in its heads and their elements.

/** Positions of a chunk, as on the CPU. */
const CHUNK = 32;
/** Chunks whose weights are in workgroup memory at once: 8 KiB. */
const ROUND = 64;

/**
 * out [rows][heads][headDim] of the scores that `attentionScores` left and the row's own key and value, which go into the
 * cache: the first of the heads that share them stores them. A workgroup a row and head.
 */
export function attention(variant: Variant, type: KvType, normed: boolean): Kernel {
  return {
    stem: 'attention',
    code: `${declare(
      variant,
      [
        ...['k: array<f32>', 'v: array<vec4<f32>>', 'rope: array<vec2<f32>>', 'parts: array<u32>'],
        ...['tables: array<u32>', `*data: array<${unitOf(type)}>`, '*out: array<f32>'],
        ...(normed ? ['weight: array<f32>'] : []),
      ],
      SHAPE,
    )}${rotation(variant, 'k', normed)}${EXP}${cacheUnits(type)}${PLACES}${VALUES_BEHIND}${PARTS}${DOT}
var<workgroup> ownKey: array<vec4<f32>, ${MOST_HEAD_DIM / 4}>;
var<workgroup> ownValue: array<vec4<f32>, ${MOST_HEAD_DIM / 4}>;
var<workgroup> partial: array<vec4<f32>, 4>;
var<workgroup> weights: array<f32, ${ROUND * CHUNK}>;
/** Of each chunk: the largest score up to it, the factor of what is before, the sum of its weights, its first value. */
var<workgroup> tops: array<f32, ${ROUND}>;
var<workgroup> factors: array<f32, ${ROUND}>;
var<workgroup> sums: array<vec2<f32>, ${ROUND}>;
var<workgroup> places: array<u32, ${ROUND}>;
var<workgroup> share: f32;

fn chunksOfBlock() -> u32 { return (p.blockSize + ${CHUNK - 1}u) / ${CHUNK}u; }
fn chunkOf(pos: u32) -> u32 { return pos / p.blockSize * chunksOfBlock() + pos % p.blockSize / ${CHUNK}u; }
fn startOf(chunk: u32) -> u32 { return chunk / chunksOfBlock() * p.blockSize + chunk % chunksOfBlock() * ${CHUNK}u; }
/** Positions of a chunk of a row that stands at pos. */
fn sizeOf(chunk: u32, pos: u32) -> u32 {
  let start = startOf(chunk);
  return min(min(${CHUNK}u, (chunk / chunksOfBlock() + 1u) * p.blockSize - start), pos + 1u - start);
}

/** a * b - product, exactly. */
fn productError(a: f32, b: f32, product: f32) -> f32 {
  let a1 = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
  let b1 = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
  let a2 = rounded(a - a1);
  let b2 = rounded(b - b1);
  let high = rounded(rounded(rounded(a1 * b1) - product) + rounded(a1 * b2));
  return rounded(rounded(high + rounded(a2 * b1)) + rounded(a2 * b2));
}
/** A sum in two floats by a factor. */
fn shrunk(s: vec2<f32>, factor: f32) -> vec2<f32> {
  let product = rounded(s.x * factor);
  return vec2<f32>(product, productError(s.x, factor, product) + s.y * factor);
}
/** 1 / (s.x + s.y), by one step of Newton's from 1 / s.x. */
fn reciprocal(s: vec2<f32>) -> f32 {
  let q = divide(1.0, s.x);
  let product = rounded(q * s.x);
  let rest = rounded(1.0 - product) - productError(q, s.x, product) - q * s.y;
  return q + q * rest;
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = p.row + group.y;
  let sharing = p.heads / p.kvHeads;
  let kvHead = group.x / sharing;
  let at = partsOf(group.y, group.x);
  let ownPlace = parts[at + 4u * p.units];
  let pos = parts[at + 4u * p.units + 1u];
  let sequence = parts[at + 4u * p.units + 2u];
  let scores = at + 4u * p.units + 4u;

  let kvAt = (row * p.kvHeads + kvHead) * p.units;
  let scale = normOf(4u * kvAt, thread);
  if (thread < p.units) {
    let key = kept(rotated(4u * kvAt, scale, thread, pos));
    let value = kept(v[kvAt + thread]);
    // In a batch rope has stored the same bits, for rows that see this one.
    if (group.x % sharing == 0u) {
      data[ownPlace + thread] = key;
      data[ownPlace + valuesBehind() + thread] = value;
    }
    ownKey[thread] = numbers(key);
    ownValue[thread] = numbers(value);
  }
  workgroupBarrier();
  if (thread < 4u) {
    var sum = vec4<f32>(0.0);
    for (var i = thread; i < lastOfLane(thread); i = nextOfLane(i)) {
      let query = bitcast<vec4<f32>>(
        vec4<u32>(parts[at + 4u * i], parts[at + 4u * i + 1u], parts[at + 4u * i + 2u], parts[at + 4u * i + 3u]),
      );
      sum = rounded4(sum + rounded4(ownKey[i] * query));
    }
    partial[thread] = sum;
  }
  workgroupBarrier();
  let ownScore = scoreOf(partial[0], partial[1], partial[2], partial[3]);

  let last = chunkOf(pos);
  var before = ${LOWEST};
  var total = vec2<f32>(0.0);
  var all = 0.0;
  for (var round = 0u; round <= last; round += ${ROUND}u) {
    let chunks = min(${ROUND}u, last + 1u - round);
    if (thread < chunks) {
      let start = startOf(round + thread);
      var most = ${LOWEST};
      for (var i = 0u; i < sizeOf(round + thread, pos); i++) {
        most = max(most, select(bitcast<f32>(parts[scores + start + i]), ownScore, start + i == pos));
      }
      tops[thread] = most;
      places[thread] = placeOf(sequence, kvHead, start) + valuesBehind();
    }
    workgroupBarrier();
    if (thread == 0u) {
      for (var i = 0u; i < chunks; i++) {
        let top = max(before, tops[i]);
        factors[i] = select(exponential(rounded(before - top)), 1.0, top == before);
        tops[i] = top;
        before = top;
      }
    }
    workgroupBarrier();
    for (var i = thread; i < chunks * ${CHUNK}u; i += ${THREADS}u) {
      let chunk = round + i / ${CHUNK}u;
      let own = startOf(chunk) + i % ${CHUNK}u;
      if (i % ${CHUNK}u < sizeOf(chunk, pos)) {
        let score = select(bitcast<f32>(parts[scores + own]), ownScore, own == pos);
        weights[i] = exponential(rounded(score - tops[i / ${CHUNK}u]));
      }
    }
    workgroupBarrier();
    if (thread < chunks) {
      var sum = vec2<f32>(0.0);
      for (var i = 0u; i < sizeOf(round + thread, pos); i++) { sum = addTo(sum, weights[thread * ${CHUNK}u + i]); }
      sums[thread] = sum;
    }
    workgroupBarrier();
    if (thread == 0u) {
      for (var i = 0u; i < chunks; i++) {
        if (factors[i] < 1.0) { total = shrunk(total, factors[i]); }
        total = settled(join(total, sums[i]));
      }
      share = reciprocal(total);
    }
    workgroupBarrier();
    // In the last chunk the sum is complete: its weights, and the factor of what is before, come out divided by it.
    if (round + chunks > last && thread < sizeOf(last, pos)) {
      let i = (chunks - 1u) * ${CHUNK}u + thread;
      weights[i] = rounded(weights[i] * share);
      if (thread == 0u) { factors[chunks - 1u] = rounded(factors[chunks - 1u] * share); }
    }
    workgroupBarrier();
    if (thread < 4u * p.units) {
      for (var chunk = 0u; chunk < chunks; chunk++) {
        all = rounded(all * factors[chunk]);
        let size = sizeOf(round + chunk, pos);
        let own = round + chunk == last;
        let place = places[chunk] + thread / 4u;
        for (var i = 0u; i < size - select(0u, 1u, own); i++) {
          all += rounded(weights[chunk * ${CHUNK}u + i] * numbers(data[place + i * p.units])[thread % 4u]);
        }
        if (own) { all += rounded(weights[chunk * ${CHUNK}u + size - 1u] * ownValue[thread / 4u][thread % 4u]); }
      }
    }
    workgroupBarrier();
  }
  if (thread < 4u * p.units) { out[(row * p.heads + group.x) * 4u * p.units + thread] = all; }
}
`,
  };
}
