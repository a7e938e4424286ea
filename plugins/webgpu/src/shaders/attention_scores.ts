import type { KvType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { cacheUnits, DOT, MOST_HEAD_DIM, PLACES, rotation, SHAPE, unitOf } from './rope.ts';

// A row's positions are cut into runs of KEYS, run r is seen by split r % splits. What a score is made of hangs on its position
// alone, so its bits are the same in every batch.
//
// Scores are those of the positions before the row's own, whose key and value `attention` takes from the op's input: a
// decoding step appends to the cache there, and needs no dispatch for it.
//
//   parts [rows][heads] words: the query, rotated, f32 [headDim]; {place of the row's own key, its position, its sequence, -};
//   a score for each position, f32 [context]

/** Keys that a workgroup takes at once (not tuned on a GPU). */
export const KEYS = 64;
/** Splits of a row, at most: with 5 kv heads 80 workgroups for one token (not tuned on a GPU). */
export const MOST_SPLITS = 16;
/** Query heads that a workgroup reads keys for. */
export const GROUP = 4;

/** Below all scores. */
export const LOWEST = '-1e30f';

/** Where the parts of a head begin, `row` counted from p.row on. */
export const PARTS = /* wgsl */ `
fn partsOf(row: u32, head: u32) -> u32 {
  return (row * p.heads + head) * (4u * p.units + 4u + p.maxBlocks * p.blockSize);
}
`;

/** Bytes of the parts of a row. */
export const partsBytes = (heads: number, headDim: number, context: number): number =>
  4 * heads * (headDim + 4 + context);

/** Workgroups of a row: splits by kv heads by groups of the query heads that share one. */
export const groupsOfRow = (heads: number, kvHeads: number, splits: number): number =>
  splits * kvHeads * Math.ceil(heads / kvHeads / GROUP);

/** Queries by the keys of a split's runs. `normed`: heads of q are normalised before they are rotated. */
export function attentionScores(variant: Variant, type: KvType, normed: boolean): Kernel {
  const each = (text: (h: number) => string, between = '\n    ') =>
    Array.from({ length: GROUP }, (_, h) => text(h)).join(between);
  return {
    stem: 'attention_scores',
    code: `${declare(
      variant,
      [
        ...['q: array<f32>', 'rope: array<vec2<f32>>', 'positions: array<u32>', 'sequences: array<u32>'],
        ...['tables: array<u32>', `data: array<${unitOf(type)}>`, '*parts: array<u32>'],
        ...(normed ? ['weight: array<f32>'] : []),
      ],
      SHAPE,
    )}${rotation(variant, 'q', normed)}${cacheUnits(type)}${PLACES}${PARTS}${DOT}
const UNITS = ${MOST_HEAD_DIM / 4}u;
var<workgroup> query: array<vec4<f32>, ${(GROUP * MOST_HEAD_DIM) / 4}>;
var<workgroup> places: array<u32, ${KEYS}>;
var<workgroup> partial: array<vec4<f32>, ${THREADS}>;

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
  if (split > 0u && split * ${KEYS}u >= pos) { return; }

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
    let at = partsOf(group.y, head + ownHead);
    for (var i = 0u; i < 4u; i++) { parts[at + 4u * ownUnit + i] = bitcast<u32>(query[thread][i]); }
    if (ownUnit == 0u) {
      parts[at + 4u * p.units] = placeOf(sequences[row], kvHead, pos);
      parts[at + 4u * p.units + 1u] = pos;
      parts[at + 4u * p.units + 2u] = sequences[row];
    }
  }

  for (var first = split * ${KEYS}u; first < pos; first += p.splits * ${KEYS}u) {
    let count = min(${KEYS}u, pos - first);
    if (thread < ${KEYS}u) { places[thread] = placeOf(sequences[row], kvHead, first + min(thread, count - 1u)); }
    workgroupBarrier();

    // Four threads a key, each a vector of sums for each head.
    let place = places[thread / 4u];
    let lane = thread % 4u;
    ${each((h) => `var sum${h} = vec4<f32>(0.0);`, ' ')}
    for (var i = lane; i < lastOfLane(lane); i = nextOfLane(i)) {
      let key = numbers(data[place + i]);
      ${each((h) => `sum${h} = rounded4(sum${h} + rounded4(key * query[${h}u * UNITS + i]));`, '\n      ')}
    }
    ${each(
      (h) => `partial[thread] = sum${h};
    workgroupBarrier();
    if (thread < count && ${h}u < heads) {
      let at = 4u * thread;
      parts[partsOf(group.y, head + ${h}u) + 4u * p.units + 4u + first + thread] =
        bitcast<u32>(scoreOf(partial[at], partial[at + 1u], partial[at + 2u], partial[at + 3u]));
    }
    workgroupBarrier();`,
    )}
  }
}
`,
  };
}
