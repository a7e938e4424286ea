import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT } from './exact.ts';
import { EXP } from './exp.ts';
import { reduce } from './reduce.ts';

/** Logits of one workgroup: 4 KiB of keys to sort, and 126 workgroups of a vocabulary of 128,256 (not tuned on a GPU). */
export const SLICE = 1024;
/** Up to so large a topK a slice hands on its best only: people ask for 40. */
export const NARROW = 64;

/**
 * Keys: floats in order as unsigned integers in order, the sign bit flipped, and all others too below 0. +Infinity is
 * the largest float, -0 is 0, and what is no candidate, NaN and -Infinity, has key 0. A compiler may take floats to be
 * finite, so that logits are told apart by their bits alone.
 *
 *   best(value, thread)    of (key, id) the larger key, of equal ones the lower id; 0 where there is none
 *   handed(row)            how many entries a slice hands on: 1 its best, NARROW its best by key, SLICE all by id
 *   relative(z, peak)      e^(z - peak) of finite floats, z no larger
 *
 * Wants EXP and the buffer `params`.
 */
export function keys(variant: Variant): string {
  return `
fn keyOf(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0xff800000u) { return 0u; }
  if (bits >> 31u == 1u) { return select(~bits, 0x80000000u, bits == 0x80000000u); }
  return min(bits, 0x7f7fffffu) | 0x80000000u;
}
fn bitsOf(key: u32) -> u32 { return select(~key, key & 0x7fffffffu, key >> 31u == 1u); }

fn handed(row: u32) -> u32 {
  let temperature = vec2<u32>(params[row + 4u], params[row + 5u]);
  let topK = params[row + 3u];
  if (temperature.y >> 31u == 1u || (temperature.x | temperature.y) == 0u || topK == 1u) { return 1u; }
  return select(${SLICE}u, ${NARROW}u, topK > 0u && topK <= ${NARROW}u);
}

fn relative(z: f32, peak: f32) -> f32 { return exponential(2.0 * max(0.5 * z - 0.5 * peak, -50.0)); }
${reduce(variant, 'best', 'vec2<u32>', 'select(b, a, a.x > b.x || (a.x == b.x && a.y <= b.y))')}
${reduce(variant, 'total', 'f32', 'a + b')}`;
}

/**
 * The first of two dispatches of `sample`: biases and penalties over a slice of the vocabulary, workgroup (slice, out).
 *
 *   slices   [outs][slices] {key and id of the best, key of the raw peak, sum f32 of e^(raw - raw peak)}
 *   entries  [outs][slices][SLICE]: keys by id, or keys [NARROW] from 0 on with their ids from SLICE / 2 on, best first
 *
 * `stride` counts words.
 */
export function sampleSlice(variant: Variant): Kernel {
  const perThread = SLICE / THREADS;
  return {
    stem: 'sample_slice',
    code: `${declare(
      variant,
      ['logits: array<u32>', 'params: array<u32>', '*slices: array<vec4<u32>>', '*entries: array<u32>'],
      ['vocab: u32', 'stride: u32'],
    )}${EXACT}${EXP}${keys(variant)}
var<workgroup> values: array<u32, ${SLICE}>;
var<workgroup> counts: array<atomic<u32>, ${SLICE}>;
var<workgroup> order: array<u32, ${SLICE}>;
var<workgroup> handedOn: u32;

fn isFinite(bits: u32) -> bool { return (bits & 0x7f800000u) != 0x7f800000u; }
/** Adding 0 leaves a subnormal as it is, on devices too that take them for 0. */
fn sum(a: u32, b: u32) -> u32 {
  if ((b & 0x7fffffffu) == 0u) { return a; }
  return bitcast<u32>(rounded(bitcast<f32>(a) + bitcast<f32>(b)));
}

fn biased(z: u32, bias: u32) -> u32 {
  if (!isFinite(bias)) { return bias; }
  if (!isFinite(z)) { return z; }
  return sum(z, bias);
}

fn penalised(z: u32, count: u32, row: u32) -> u32 {
  if (count == 0u || !isFinite(z)) { return z; }
  let repeat = bitcast<f32>(params[row + 9u]);
  let frequency = rounded(f32(count) * bitcast<f32>(params[row + 10u]));
  let penalty = sum(bitcast<u32>(frequency), params[row + 11u]);
  var repeated = z;
  // A subnormal stays as it is.
  if (params[row + 9u] != 0x3f800000u && (z & 0x7f800000u) != 0u) {
    let value = bitcast<f32>(z);
    if (value > 0.0) { repeated = bitcast<u32>(divide(value, repeat)); }
    else { repeated = bitcast<u32>(rounded(value * repeat)); }
  }
  return sum(repeated, penalty ^ 0x80000000u);
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y * p.stride;
  let begin = group.x * ${SLICE}u;
  let length = min(p.vocab - begin, ${SLICE}u);
  var raw: array<u32, ${perThread}>;
  var peak = vec2<u32>(0u);
  for (var j = 0u; j < ${perThread}u; j++) {
    let i = thread + j * ${THREADS}u;
    raw[j] = 0xff800000u;
    if (i < length) { raw[j] = logits[group.y * p.vocab + begin + i]; }
    peak.x = max(peak.x, keyOf(raw[j]));
    values[i] = raw[j];
    atomicStore(&counts[i], 0u);
  }
  peak = best(peak, thread);
  var weight = 0.0;
  for (var j = 0u; j < ${perThread}u; j++) {
    let key = keyOf(raw[j]);
    if (key != 0u) { weight += relative(bitcast<f32>(bitsOf(key)), bitcast<f32>(bitsOf(peak.x))); }
  }
  weight = total(weight, thread);

  let biases = params[row + 12u];
  for (var i = thread; i < biases; i += ${THREADS}u) {
    let id = params[row + 16u + 2u * i] - begin;
    if (id < length) { values[id] = biased(values[id], params[row + 17u + 2u * i]); }
  }
  let recents = params[row + 13u];
  for (var i = thread; i < recents; i += ${THREADS}u) {
    let id = params[row + 16u + 2u * biases + i] - begin;
    if (id < length) { atomicAdd(&counts[id], 1u); }
  }
  workgroupBarrier();

  var first = vec2<u32>(0u, 0xffffffffu);
  for (var j = 0u; j < ${perThread}u; j++) {
    let i = thread + j * ${THREADS}u;
    let key = keyOf(penalised(values[i], atomicLoad(&counts[i]), row));
    values[i] = key;
    order[i] = i;
    first = bestJoin(first, vec2<u32>(key, begin + i));
  }
  first = best(first, thread);
  if (thread == 0u) {
    slices[group.y * groups.x + group.x] = vec4<u32>(first, peak.x, bitcast<u32>(weight));
    handedOn = handed(row);
  }

  let entry = (group.y * groups.x + group.x) * ${SLICE}u;
  let width = workgroupUniformLoad(&handedOn);
  if (width == ${SLICE}u) {
    for (var i = thread; i < ${SLICE}u; i += ${THREADS}u) { entries[entry + i] = values[i]; }
  } else if (width == ${NARROW}u) {
    // A bitonic sort: of each pair the better one comes first where bit \`run\` of its place is 0.
    for (var run = 2u; run <= ${SLICE}u; run <<= 1u) {
      for (var d = run >> 1u; d > 0u; d >>= 1u) {
        for (var j = thread; j < ${SLICE / 2}u; j += ${THREADS}u) {
          let a = 2u * j - (j & (d - 1u));
          let b = a + d;
          let swap = values[b] > values[a] || (values[b] == values[a] && order[b] < order[a]);
          if (swap == ((a & run) == 0u)) {
            let held = vec2<u32>(values[a], order[a]);
            values[a] = values[b];
            order[a] = order[b];
            values[b] = held.x;
            order[b] = held.y;
          }
        }
        workgroupBarrier();
      }
    }
    if (thread < ${NARROW}u) {
      entries[entry + thread] = values[thread];
      entries[entry + ${SLICE / 2}u + thread] = begin + order[thread];
    }
  }
}
`,
  };
}
