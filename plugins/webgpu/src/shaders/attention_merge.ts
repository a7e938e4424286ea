import type { KvType } from 'ternlm/backend';
import { MOST_SPLITS, PARTS } from './attention.ts';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXP } from './exp.ts';
import { reduce } from './reduce.ts';
import { cacheUnits, MOST_HEAD_DIM, rotation, SHAPE, unitOf, VALUES_BEHIND } from './rope.ts';

/**
 * out [rows][heads][headDim] of the parts that `attention` left and the row's own key and value, which go into the cache: the
 * first of the heads that share them stores them. A workgroup a row and head.
 */
export function attentionMerge(variant: Variant, type: KvType, normed: boolean): Kernel {
  return {
    stem: 'attention_merge',
    code: `${declare(
      variant,
      [
        ...['k: array<f32>', 'v: array<vec4<f32>>', 'rope: array<vec2<f32>>', 'parts: array<vec4<u32>>'],
        ...[`*data: array<${unitOf(type)}>`, '*out: array<vec4<f32>>'],
        ...(normed ? ['weight: array<f32>'] : []),
      ],
      SHAPE,
    )}${rotation(variant, 'k', normed)}${EXP}${cacheUnits(type)}${VALUES_BEHIND}${PARTS}
${reduce(variant, 'sumAll', 'f32', 'a + b')}
const UNITS = ${MOST_HEAD_DIM / 4}u;
/** Of each split {largest score, sum}, then {factor, sum}. */
var<workgroup> splits: array<vec2<f32>, ${MOST_SPLITS}>;
var<workgroup> partial: array<vec4<f32>, ${THREADS}>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = p.row + group.y;
  let sharing = p.heads / p.kvHeads;
  let record = recordSize();
  let at = partsOf(group.y, group.x);
  let own = at + p.splits * record;
  if (thread < p.splits) { splits[thread] = bitcast<vec2<f32>>(parts[at + thread * record].xy); }

  let kvAt = (row * p.kvHeads + group.x / sharing) * p.units;
  let scale = normOf(4u * kvAt, thread);
  var product = 0.0;
  var value = vec4<f32>(0.0);
  if (thread < p.units) {
    let key = kept(rotated(4u * kvAt, scale, thread, parts[own].y));
    let keptValue = kept(v[kvAt + thread]);
    if (group.x % sharing == 0u) {
      data[parts[own].x + thread] = key;
      data[parts[own].x + valuesBehind() + thread] = keptValue;
    }
    product = dot(bitcast<vec4<f32>>(parts[own + 1u + thread]), numbers(key));
    value = numbers(keptValue);
  }
  let score = sumAll(product, thread) * p.scale;
  var most = score;
  for (var i = 0u; i < p.splits; i++) { most = max(most, splits[i].x); }
  let ownWeight = expNeg(score - most);
  var sum = ownWeight;
  for (var i = 0u; i < p.splits; i++) { sum += splits[i].y * expNeg(splits[i].x - most); }

  // A thread a unit, and every fourth of the splits.
  let unit = thread % UNITS;
  var all = ownWeight * value;
  if (unit < p.units) {
    for (var i = thread / UNITS; i < p.splits; i += ${THREADS}u / UNITS) {
      // The values of a split that has seen nothing are not written.
      if (splits[i].y > 0.0) {
        all += expNeg(splits[i].x - most) * bitcast<vec4<f32>>(parts[at + i * record + 1u + unit]);
      }
    }
  }
  partial[thread] = all;
  workgroupBarrier();
  if (thread < p.units) {
    for (var i = UNITS; i < ${THREADS}u; i += UNITS) { all += partial[thread + i]; }
    out[(row * p.heads + group.x) * p.units + thread] = all * divide(1.0, sum);
  }
}
`,
  };
}
