import type { KvType } from 'ternlm/backend';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { EXACT, HALVES } from './exact.ts';
import { normScale } from './rms_norm.ts';

// What the kernels of attention share. Heads and cache are seen in units of four numbers: `units` = headDim / 4.

/** Words of the uniform block, the same of all three kernels; `row` is the first of the batch that they are to see. */
export const SHAPE: readonly string[] = [
  ...['row', 'heads', 'kvHeads', 'units', 'ropeDim', 'interleaved', 'blockSize', 'maxBlocks', 'splits'].map(
    (name) => `${name}: u32`,
  ),
  ...['scale: f32', 'qEps: f32', 'kEps: f32'],
];

/** Widest heads: each of a workgroup's threads reads at most one number of one. */
export const MOST_HEAD_DIM: number = THREADS;

/** Elements of a layer's cache. */
export const unitOf = (type: KvType): string => (type === 'f16' ? 'vec2<u32>' : 'vec4<f32>');

/**
 *   kept(x)       four numbers as the cache keeps them
 *   numbers(u)    and back
 */
export function cacheUnits(type: KvType): string {
  if (type === 'f32') {
    return `
fn kept(x: vec4<f32>) -> vec4<f32> { return x; }
fn numbers(u: vec4<f32>) -> vec4<f32> { return u; }
`;
  }
  return `${HALVES}
fn kept(x: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(f16Bits(x.x) | (f16Bits(x.y) << 16u), f16Bits(x.z) | (f16Bits(x.w) << 16u));
}
fn numbers(u: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(u.x), unpack2x16float(u.y)); }
`;
}

/**
 * `placeOf(sequence, kvHead, pos)`: the first unit of a key in data [block][K, V][kvHeads][blockSize][units]; its value lies
 * `valuesBehind()` further on. Wants tables: array<u32>.
 */
export const PLACES = /* wgsl */ `
fn placeOf(sequence: u32, kvHead: u32, pos: u32) -> u32 {
  let block = tables[sequence * p.maxBlocks + pos / p.blockSize];
  return ((block * 2u * p.kvHeads + kvHead) * p.blockSize + pos % p.blockSize) * p.units;
}
`;
export const VALUES_BEHIND = /* wgsl */ `
fn valuesBehind() -> u32 { return p.kvHeads * p.blockSize * p.units; }
`;

/**
 * Heads of x: array<f32>, rotated by rope: array<vec2<f32>>, [context][ropeDim / 2] {cos, sin}. Products and sums are rounded
 * one by one, so that every kernel that rotates a key gets the same bits.
 *
 *   normOf(at, thread)               the head's own scale, where heads are normalised; all threads have to call it
 *   rotated(at, scale, unit, pos)    four numbers of the head that begins at x[at]
 *
 * With `normed` it wants weight: array<f32>.
 */
export function rotation(variant: Variant, x: 'q' | 'k', normed: boolean): string {
  const norm = `${normed ? normScale(variant) : ''}
fn normOf(at: u32, thread: u32) -> f32 {${
    normed
      ? `
  var squares = vec2<f32>(0.0);
  if (thread < 4u * p.units) { squares.x = rounded(${x}[at + thread] * ${x}[at + thread]); }
  return normScale(squares, 4u * p.units, p.${x}Eps, thread);`
      : ' return 1.0;'
  } }
fn element(at: u32, scale: f32, i: u32) -> f32 {
  return ${normed ? `rounded(rounded(${x}[at + i] * scale) * weight[i])` : `${x}[at + i]`};
}`;
  return `${EXACT}${norm}
fn rotatedOne(at: u32, scale: f32, i: u32, pos: u32) -> f32 {
  if (i >= p.ropeDim) { return element(at, scale, i); }
  let half = p.ropeDim / 2u;
  let pair = select(select(i - half, i, i < half), i / 2u, p.interleaved == 1u);
  let first = select(pair, 2u * pair, p.interleaved == 1u);
  let a = element(at, scale, first);
  let b = element(at, scale, first + select(half, 1u, p.interleaved == 1u));
  let angle = rope[pos * half + pair];
  if (i == first) { return rounded(rounded(a * angle.x) - rounded(b * angle.y)); }
  return rounded(rounded(a * angle.y) + rounded(b * angle.x));
}
fn rotated(at: u32, scale: f32, unit: u32, pos: u32) -> vec4<f32> {
  let i = 4u * unit;
  return vec4<f32>(
    rotatedOne(at, scale, i, pos), rotatedOne(at, scale, i + 1u, pos),
    rotatedOne(at, scale, i + 2u, pos), rotatedOne(at, scale, i + 3u, pos),
  );
}
`;
}

/**
 * The dot product of a query and a key as assembly/kernels/attention.ts adds it up: sixteen sums, element i in sum i % 16, four of
 * them in each lane's vector; the units that do not fill all lanes go to the first.
 *
 *   nextOfLane(i), lastOfLane(lane)    the units of a lane, from unit `lane` on
 *   scoreOf(a, b, c, d)                the lanes' sums joined, by p.scale
 */
export const DOT = /* wgsl */ `
fn nextOfLane(i: u32) -> u32 { return select(i + 4u, i + 1u, i >= p.units - p.units % 4u); }
fn lastOfLane(lane: u32) -> u32 { return select(p.units - p.units % 4u, p.units, lane == 0u); }
fn scoreOf(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
  let s = rounded4(rounded4(a + c) + rounded4(b + d));
  return rounded(rounded(rounded(s.x + s.z) + rounded(s.y + s.w)) * p.scale);
}
`;

/** Keys, normalised and rotated, and values of a batch into the cache, a workgroup a row and kv head. */
export function rope(variant: Variant, type: KvType, normed: boolean): Kernel {
  return {
    stem: 'rope',
    code: `${declare(
      variant,
      [
        ...['k: array<f32>', 'v: array<vec4<f32>>', 'rope: array<vec2<f32>>', 'positions: array<u32>'],
        ...['sequences: array<u32>', 'tables: array<u32>', `*data: array<${unitOf(type)}>`],
        ...(normed ? ['weight: array<f32>'] : []),
      ],
      SHAPE,
    )}${rotation(variant, 'k', normed)}${cacheUnits(type)}${PLACES}${VALUES_BEHIND}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let at = (group.y * p.kvHeads + group.x) * p.units;
  let scale = normOf(4u * at, thread);
  let pos = positions[group.y];
  let place = placeOf(sequences[group.y], group.x, pos);
  if (thread < p.units) {
    data[place + thread] = kept(rotated(4u * at, scale, thread, pos));
    data[place + valuesBehind() + thread] = kept(v[at + thread]);
  }
}
`,
  };
}
