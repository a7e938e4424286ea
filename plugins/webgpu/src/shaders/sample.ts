import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { EXP } from './exp.ts';
import { keys, NARROW, SLICE } from './sample_slice.ts';
import { U64, u64 } from './u64.ts';

/** Terms of e^-h for h up to ln 2 / 8: the next is at most 0.087^9 / 9! = 8e-16. */
const FACTORIALS = [1, 1, 2, 6, 24, 120, 720, 5040, 40320];

/**
 * Weights as integers of 2^-44, whose sums, of up to 2^18 tokens, are the same in whatever order they are added, as
 * those of floats are not. The peak's is 2^44 itself, others are off by little more than a half.
 *
 *   scaleOf(temperature)         log2(e) / temperature = mantissa * 2^(exponent - 63), of an f64 above 0
 *   weightOf(key, peak, scale)   e^((z - z of the peak) / temperature)
 */
const WEIGHTS = /* wgsl */ `
struct Scale { mantissa: vec2<u32>, exponent: i32 }

fn scaleOf(temperature: vec2<u32>) -> Scale {
  let e = (temperature.y >> 20u) & 0x7ffu;
  let fraction = vec2<u32>(temperature.x, (temperature.y & 0xfffffu) | select(0u, 0x100000u, e > 0u));
  let shift = normalShift(fraction);
  let divisor = right(left(fraction, shift), 1u);
  var rest = ${u64(Math.LOG2E * 2 ** 62)};
  var quotient = vec2<u32>(0u);
  for (var i = 0u; i < 64u; i++) {
    quotient = left(quotient, 1u);
    if (!less(rest, divisor)) {
      rest = minus(rest, divisor);
      quotient.x |= 1u;
    }
    rest = left(rest, 1u);
  }
  return Scale(quotient, 1012 + i32(shift) - i32(max(e, 1u)));
}

fn weightOf(key: u32, peak: u32, scale: Scale) -> vec2<u32> {
  if (key == peak) { return ${u64(2 ** 44)}; }
  // Both in units of the last place of the one that has the larger exponent, over 2^39.
  let bits = vec2<u32>(bitsOf(key), bitsOf(peak));
  let e = (bits >> vec2<u32>(23u)) & vec2<u32>(255u);
  let m = (bits & vec2<u32>(0x7fffffu)) | select(vec2<u32>(0u), vec2<u32>(0x800000u), e > vec2<u32>(0u));
  let places = max(e, vec2<u32>(1u));
  let top = max(places.x, places.y);
  let z = right(vec2<u32>(0u, m.x << 7u), top - places.x);
  let first = right(vec2<u32>(0u, m.y << 7u), top - places.y);
  var gap = plus(first, z);
  if (bits.y >> 31u == 1u) { gap = minus(z, first); } else if (bits.x >> 31u == 0u) { gap = minus(first, z); }
  // log2 of the weight: a whole number of halvings and a fraction of 2^-64.
  let shift = normalShift(gap);
  let down = i32(shift) - scale.exponent + 188 - i32(top);
  if (down < 55) { return vec2<u32>(0u); }
  let exponent = timesHigh(left(gap, shift), scale.mantissa);
  let halvings = right(exponent, u32(down)).x;
  if (halvings > 44u) { return vec2<u32>(0u); }
  var fraction = right(exponent, u32(max(down, 64) - 64));
  if (down < 64) { fraction = left(exponent, u32(64 - down)); }
  // e^-h of an eighth of it, to the eighth; 1 is 2^63.
  let h = timesHigh(fraction, ${u64((Math.LN2 / 8) * 2 ** 64)});
  var power = ${u64(2 ** 63 / FACTORIALS[FACTORIALS.length - 1])};
  ${FACTORIALS.slice(0, -1)
    .reverse()
    .map((factorial) => `power = minus(${u64(2 ** 63 / factorial)}, timesHigh(h, power));`)
    .join('\n  ')}
  for (var i = 0u; i < 3u; i++) { power = left(timesHigh(power, power), 1u); }
  return right(plus(power, left(vec2<u32>(1u, 0u), 18u + halvings)), 19u + halvings);
}
`;

/** src/reference/sample.ts: a number in [0, 1), here of 2^-64, by splitmix64. */
const UNIFORM = /* wgsl */ `
fn mix(seed: vec2<u32>) -> vec2<u32> {
  var x = plus(seed, vec2<u32>(0x7f4a7c15u, 0x9e3779b9u));
  x = timesLow(x ^ right(x, 30u), vec2<u32>(0x1ce4e5b9u, 0xbf58476du));
  x = timesLow(x ^ right(x, 27u), vec2<u32>(0x133111ebu, 0x94d049bbu));
  return x ^ right(x, 31u);
}
fn uniform01(seed: vec2<u32>, step: u32) -> vec2<u32> {
  return mix(plus(mix(seed), vec2<u32>(step, 0u))) & vec2<u32>(0xfffff800u, 0xffffffffu);
}
`;

/**
 * The second dispatch of `sample`, a workgroup an out. Each filter keeps a prefix of the tokens by key descending, then
 * id ascending: all above a key, and the first few that have it. The last key of a shorter prefix is found by its bits,
 * 8 at a time, in histograms of weight. Weights of f64, as the reference has them, cut elsewhere only where the goal
 * is next to a prefix's weight: within 2^-44 of the peak's for each token that is summed.
 */
export function sample(variant: Variant): Kernel {
  return {
    stem: 'sample',
    code: `${declare(
      variant,
      [
        'logits: array<u32>',
        'params: array<u32>',
        'slices: array<vec4<u32>>',
        'entries: array<vec4<u32>>',
        '*picks: array<vec4<u32>>',
      ],
      ['vocab: u32', 'stride: u32', 'sliceCount: u32'],
    )}${EXACT}${EXP}${keys(variant)}${U64}${WEIGHTS}${UNIFORM}
/** What the filters do, and what they do it to. */
struct Chain {
  peak: u32,
  firstFour: u32,
  /** Entries of a slice; fours of all slices. */
  width: u32,
  fours: u32,
  topK: u32,
  topP: vec2<u32>,
  cutsByP: u32,
  floor: u32,
  scale: Scale,
  u: vec2<u32>,
}
/** All keys above \`key\` and the first \`ties\` of those that have it. */
struct Prefix { key: u32, ties: u32 }
struct Bucket { index: u32, above: vec2<u32> }

var<workgroup> chain: Chain;
var<workgroup> found: Bucket;
var<workgroup> drawn: u32;
var<workgroup> low: array<atomic<u32>, 256>;
var<workgroup> high: array<atomic<u32>, 256>;
var<workgroup> sums: array<vec2<u32>, 512>;

/** The sum of the values at this and all earlier places. */
fn scan(value: vec2<u32>, place: u32) -> vec2<u32> {
  var sum = value;
  var half = 0u;
  for (var d = 1u; d < 256u; d <<= 1u) {
    sums[half + place] = sum;
    workgroupBarrier();
    if (place >= d) { sum = plus(sum, sums[half + place - d]); }
    half ^= 256u;
  }
  sums[place] = sum;
  workgroupBarrier();
  return sum;
}

/** Where four entries stand that slices have handed on. */
fn placeOf(c: Chain, four: u32) -> u32 {
  let perSlice = c.width / 4u;
  return c.firstFour + (four >> countTrailingZeros(perSlice)) * ${SLICE / 4}u + (four & (perSlice - 1u));
}

/** The topP of an f64 below 1, of 2^-64. */
fn shareOf(bits: vec2<u32>) -> vec2<u32> {
  let e = bits.y >> 20u;
  return right(left(vec2<u32>(bits.x, (bits.y & 0xfffffu) | 0x100000u), 11u), select(64u, 1022u - e, e > 0u));
}

fn readChain(row: u32, first: vec2<u32>) -> Chain {
  var c: Chain;
  c.peak = first.x;
  c.width = handed(row);
  c.fours = p.sliceCount * c.width / 4u;
  c.topK = params[row + 3u];
  c.topP = vec2<u32>(0xffffffffu);
  c.cutsByP = select(0u, 1u, params[row + 7u] < 0x3ff00000u);
  if (c.cutsByP == 1u) { c.topP = shareOf(vec2<u32>(params[row + 6u], params[row + 7u])); }
  // In min-p's sum a 0 leaves a subnormal peak as it is; -Infinity keeps all.
  let minP = params[row + 8u];
  if (minP != 0xff800000u) {
    c.floor = first.x;
    let floor = rounded(bitcast<f32>(bitsOf(first.x)) + bitcast<f32>(minP));
    if ((minP & 0x7fffffffu) != 0u) { c.floor = keyOf(bitcast<u32>(floor)); }
  }
  c.scale = scaleOf(vec2<u32>(params[row + 4u], params[row + 5u]));
  c.u = uniform01(vec2<u32>(params[row], params[row + 1u]), params[row + 2u]);
  return c;
}

/** The shortest prefix within \`limit\` with a share of its weight; where counted, the one of \`share.x\` tokens. */
fn cut(c: Chain, limit: Prefix, counted: bool, scale: Scale, share: vec2<u32>, thread: u32) -> Prefix {
  let one = vec2<u32>(1u, 0u);
  var key = 0u;
  var above = vec2<u32>(0u);
  var goal = vec2<u32>(0u);
  for (var byte = 0u; byte < 4u; byte++) {
    let shift = 24u - 8u * byte;
    let settled = select(0xffffff00u << shift, 0u, byte == 0u);
    atomicStore(&low[thread], 0u);
    atomicStore(&high[thread], 0u);
    workgroupBarrier();
    // Behind the entries come those that have the limit's key, as one.
    for (var i = thread; i <= c.fours; i += ${THREADS}u) {
      var four = vec4<u32>(limit.key, 0u, 0u, 0u);
      if (i < c.fours) { four = entries[placeOf(c, i)]; }
      for (var j = 0u; j < 4u; j++) {
        let entry = four[j];
        var copies = select(0u, 1u, entry > limit.key);
        if (i == c.fours && j == 0u) { copies = limit.ties; }
        if (copies == 0u || (entry & settled) != key) { continue; }
        var weight = one;
        if (!counted) { weight = timesLow(weightOf(entry, c.peak, scale), vec2<u32>(copies, 0u)); }
        let bucket = (entry >> shift) & 255u;
        let before = atomicAdd(&low[bucket], weight.x);
        atomicAdd(&high[bucket], weight.y + select(0u, 1u, before + weight.x < before));
      }
    }
    workgroupBarrier();
    // Thread 0 has the bucket of the largest keys.
    let weight = vec2<u32>(atomicLoad(&low[255u - thread]), atomicLoad(&high[255u - thread]));
    let within = plus(above, scan(weight, thread));
    if (byte == 0u) {
      let whole = sums[255];
      goal = timesHigh(share, whole);
      if (counted) { goal = select(share, whole, less(whole, share)); }
      if (less(goal, one)) { goal = one; }
    }
    if (!less(within, goal) && less(minus(within, weight), goal)) {
      found = Bucket(255u - thread, minus(within, weight));
    }
    let bucket = workgroupUniformLoad(&found);
    key |= bucket.index << shift;
    above = bucket.above;
  }
  // As many as leave the goal out of reach, and one more.
  var weight = one;
  if (!counted) { weight = weightOf(key, c.peak, scale); }
  var ties = 0u;
  for (var bit = 1u << 18u; bit > 0u; bit >>= 1u) {
    if (less(plus(above, timesLow(weight, vec2<u32>(ties + bit, 0u))), goal)) { ties += bit; }
  }
  return Prefix(key, ties + 1u);
}

/** The last token of a prefix. */
fn lastOf(c: Chain, prefix: Prefix, thread: u32) -> u32 {
  let length = (c.fours + ${THREADS - 1}u) / ${THREADS}u;
  let begin = min(thread * length, c.fours);
  let end = min(begin + length, c.fours);
  var own = 0u;
  for (var i = begin; i < end; i++) {
    own += dot(vec4<u32>(entries[placeOf(c, i)] == vec4<u32>(prefix.key)), vec4<u32>(1u));
  }
  let upTo = scan(vec2<u32>(own, 0u), thread).x;
  if (upTo >= prefix.ties && upTo - own < prefix.ties) {
    var ties = upTo - own;
    for (var i = begin; i < end; i++) {
      let place = placeOf(c, i);
      for (var j = 0u; j < 4u; j++) {
        if (entries[place][j] != prefix.key) { continue; }
        ties++;
        if (ties != prefix.ties) { continue; }
        drawn = 4u * i + j;
        if (c.width == ${NARROW}u) { drawn = entries[place + ${SLICE / 8}u][j]; }
      }
    }
  }
  return workgroupUniformLoad(&drawn);
}

fn draw(c: Chain, thread: u32) -> u32 {
  var prefix = Prefix(0u, 0u);
  // Top-k, top-p and the draw; in a loop, as drivers put a function's code wherever it is called.
  for (var stage = 0u; stage < 3u; stage++) {
    if ((stage == 0u && c.topK == 0u) || (stage == 1u && c.cutsByP == 0u)) { continue; }
    if (stage == 2u && c.floor > prefix.key) { prefix = Prefix(c.floor - 1u, 0u); }
    var scale = c.scale;
    var share = c.u;
    if (stage == 0u) { share = vec2<u32>(c.topK, 0u); }
    if (stage == 1u) {
      scale = Scale(${u64(Math.LOG2E * 2 ** 63)}, 0);
      share = c.topP;
    }
    prefix = cut(c, prefix, stage == 0u, scale, share, thread);
  }
  return lastOf(c, prefix, thread);
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.x * p.stride;
  let begin = group.x * p.sliceCount;
  var first = vec2<u32>(0u, 0xffffffffu);
  var peak = vec2<u32>(0u);
  for (var i = thread; i < p.sliceCount; i += ${THREADS}u) {
    let slice = slices[begin + i];
    first = bestJoin(first, slice.xy);
    peak.x = max(peak.x, slice.z);
  }
  first = best(first, thread);
  peak = best(peak, thread);
  let highest = bitcast<f32>(bitsOf(peak.x));
  var weight = 0.0;
  for (var i = thread; i < p.sliceCount; i += ${THREADS}u) {
    let slice = slices[begin + i];
    if (slice.z != 0u) { weight += bitcast<f32>(slice.w) * relative(bitcast<f32>(bitsOf(slice.z)), highest); }
  }
  weight = total(weight, thread);

  if (thread == 0u) {
    chain = readChain(row, first);
    chain.firstFour = begin * ${SLICE / 4}u;
  }
  let c = workgroupUniformLoad(&chain);
  var id = first.y;
  if (c.width > 1u && c.peak != 0u) { id = draw(c, thread); }
  if (thread != 0u) { return; }
  if (first.x == 0u) {
    picks[group.x] = vec4<u32>(0xffffffffu, 0x7fc00000u, 0u, 0u);
    return;
  }
  let logit = logits[group.x * p.vocab + id];
  let key = keyOf(logit);
  var probability = 0u;
  if (key != 0u) { probability = bitcast<u32>(divide(relative(bitcast<f32>(bitsOf(key)), highest), weight)); }
  // An f32, 0 or normal, as f64.
  var wide = vec2<u32>(0u);
  if (probability != 0u) { wide = vec2<u32>(probability << 29u, (probability >> 3u) + (896u << 20u)); }
  picks[group.x] = vec4<u32>(id, logit, wide);
}
`,
  };
}
