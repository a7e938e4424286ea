import type { KvType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXP } from './exp.ts';
import { reduce } from './reduce.ts';
import { cacheUnits, MOST_HEAD_DIM, PLACES, rotation, SHAPE, unitOf, VALUES_BEHIND } from './rope.ts';

// Flash decoding (Dao et al. 2023): a row's positions are cut into chunks, chunk c is seen by split c % splits, and the splits,
// each with its own maximum and sum, are put together by attention_merge. Which numbers meet in which order depends on the
// row's position alone, so its bits are the same in every batch.
//
// Splits see the positions before the row's own, whose key and value attention_merge takes from the op's input: a decoding
// step appends to the cache there, and needs no dispatch for it.
//
//   parts [rows][heads][splits + 1][1 + units] vec4<u32>: of each split {largest score, sum, -, -} and the sums of its
//   values; last {place of the row's own key, its position, -, -} and the query, rotated

/** Positions of a chunk (not tuned on a GPU). */
export const CHUNK = 64;
/** Splits of a row, at most: with 5 kv heads 80 workgroups for one token (not tuned on a GPU). */
export const MOST_SPLITS = 16;
/** Query heads that a workgroup reads keys and values for: lanes of a vec4. */
export const GROUP = 4;

/** Below all scores; of a split that has seen nothing. */
const LOWEST = '-1e30f';

/** Where the parts of a head begin, `row` counted from p.row on, and how they follow each other. */
export const PARTS = /* wgsl */ `
fn recordSize() -> u32 { return 1u + p.units; }
fn partsOf(row: u32, head: u32) -> u32 { return (row * p.heads + head) * (p.splits + 1u) * recordSize(); }
`;

/** vec4<u32> of the parts of a row. */
export const partsOfRow = (heads: number, splits: number, headDim: number): number =>
  heads * (splits + 1) * (1 + headDim / 4);

/** Workgroups of a row: splits by kv heads by groups of the query heads that share one. */
export const groupsOfRow = (heads: number, kvHeads: number, splits: number): number =>
  splits * kvHeads * Math.ceil(heads / kvHeads / GROUP);

/** Queries by the chunks of a split. `normed`: heads of q are normalised before they are rotated. */
export function attention(variant: Variant, type: KvType, normed: boolean): Kernel {
  const each = (text: (h: number) => string, between: string) =>
    Array.from({ length: GROUP }, (_, h) => text(h)).join(between);
  return {
    stem: 'attention',
    code: `${declare(
      variant,
      [
        ...['q: array<f32>', 'rope: array<vec2<f32>>', 'positions: array<u32>', 'sequences: array<u32>'],
        ...['tables: array<u32>', `data: array<${unitOf(type)}>`, '*parts: array<vec4<u32>>'],
        ...(normed ? ['weight: array<f32>'] : []),
      ],
      SHAPE,
    )}${rotation(variant, 'q', normed)}${EXP}${cacheUnits(type)}${PLACES}${VALUES_BEHIND}${PARTS}
${reduce(variant, 'largest', 'vec4<f32>', 'max(a, b)')}
const UNITS = ${MOST_HEAD_DIM / 4}u;
var<workgroup> query: array<vec4<f32>, ${(GROUP * MOST_HEAD_DIM) / 4}>;
var<workgroup> places: array<u32, ${CHUNK}>;
/** Of each key, a lane a head. */
var<workgroup> weights: array<vec4<f32>, ${CHUNK}>;
var<workgroup> partial: array<vec4<f32>, ${THREADS}>;

fn expNeg4(x: vec4<f32>) -> vec4<f32> { return vec4<f32>(expNeg(x.x), expNeg(x.y), expNeg(x.z), expNeg(x.w)); }

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = p.row + group.y;
  let pos = positions[row];
  let sharing = p.heads / p.kvHeads;
  let turns = (sharing + ${GROUP - 1}u) / ${GROUP}u;
  let split = group.x % p.splits;
  let kvHead = group.x / p.splits / turns;
  let turn = group.x / p.splits % turns;
  let head = kvHead * sharing + turn * ${GROUP}u;
  let heads = min(${GROUP}u, sharing - turn * ${GROUP}u);
  let record = recordSize();
  let headParts = partsOf(0u, 1u);
  let to = partsOf(group.y, head) + split * record;
  var most = vec4<f32>(${LOWEST});
  if (split > 0u && split * ${CHUNK}u >= pos) {
    if (thread < heads) { parts[to + thread * headParts] = vec4<u32>(bitcast<u32>(most.x), 0u, 0u, 0u); }
    return;
  }

  let ownHead = min(thread / UNITS, heads - 1u);
  let ownUnit = thread % UNITS;
  let qAt = (row * p.heads + head) * 4u * p.units;
  var scale = 1.0;
  ${
    normed
      ? `for (var h = 0u; h < heads; h++) {
    let scaleOfHead = normOf(qAt + h * 4u * p.units, thread);
    if (h == ownHead) { scale = scaleOfHead; }
  }`
      : ''
  }
  if (ownUnit < p.units) { query[thread] = rotated(qAt + ownHead * 4u * p.units, scale, ownUnit, pos); }
  if (split == 0u && thread < heads * UNITS && ownUnit < p.units) {
    let own = to + ownHead * headParts + p.splits * record;
    parts[own + 1u + ownUnit] = bitcast<vec4<u32>>(query[thread]);
    if (ownUnit == 0u) { parts[own] = vec4<u32>(placeOf(sequences[row], kvHead, pos), pos, 0u, 0u); }
  }

  let keyStep = ${THREADS}u / p.units;
  let valueUnit = valuesBehind() + thread % p.units;
  var sum = vec4<f32>(0.0);
  ${each((h) => `var values${h} = vec4<f32>(0.0);`, ' ')}
  for (var first = split * ${CHUNK}u; first < pos; first += p.splits * ${CHUNK}u) {
    let count = min(${CHUNK}u, pos - first);
    if (thread < ${CHUNK}u) { places[thread] = placeOf(sequences[row], kvHead, first + min(thread, count - 1u)); }
    workgroupBarrier();

    // ${THREADS / CHUNK} threads a key.
    let place = places[thread / ${THREADS / CHUNK}u];
    var dots = vec4<f32>(0.0);
    for (var i = thread % ${THREADS / CHUNK}u; i < p.units; i += ${THREADS / CHUNK}u) {
      let key = numbers(data[place + i]);
      dots += vec4<f32>(${each((h) => `dot(query[${h}u * UNITS + i], key)`, ', ')});
    }
    partial[thread] = dots;
    workgroupBarrier();
    let mine = thread % ${CHUNK}u;
    dots = partial[${THREADS / CHUNK}u * mine];
    for (var i = 1u; i < ${THREADS / CHUNK}u; i++) { dots += partial[${THREADS / CHUNK}u * mine + i]; }
    let score = select(vec4<f32>(${LOWEST}), dots * p.scale, mine < count);
    let before = most;
    most = max(most, largest(score, thread));
    if (thread < ${CHUNK}u) { weights[thread] = expNeg4(score - most); }
    workgroupBarrier();

    // A thread a unit of the values, in steps of as many keys as there are threads for.
    let factor = expNeg4(before - most);
    sum *= factor;
    ${each((h) => `values${h} *= factor[${h}];`, ' ')}
    if (thread < keyStep * p.units) {
      for (var i = thread / p.units; i < count; i += keyStep) {
        let weight = weights[i];
        let value = numbers(data[places[i] + valueUnit]);
        sum += weight;
        ${each((h) => `values${h} += weight[${h}] * value;`, ' ')}
      }
    }
    workgroupBarrier();
  }

  partial[thread] = sum;
  workgroupBarrier();
  if (thread == 0u) {
    for (var i = 1u; i < keyStep; i++) { sum += partial[i * p.units]; }
    for (var h = 0u; h < heads; h++) {
      parts[to + h * headParts] = vec4<u32>(bitcast<u32>(most[h]), bitcast<u32>(sum[h]), 0u, 0u);
    }
  }
  ${each(
    (h) => `workgroupBarrier();
  partial[thread] = values${h};
  workgroupBarrier();
  if (thread < p.units && ${h}u < heads) {
    for (var i = 1u; i < keyStep; i++) { values${h} += partial[i * p.units + thread]; }
    parts[to + ${h}u * headParts + 1u + thread] = bitcast<vec4<u32>>(values${h});
  }`,
    '\n  ',
  )}
}
`,
  };
}
