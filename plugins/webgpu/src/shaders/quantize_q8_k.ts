import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { PACK, readRow } from './prepare.ts';

/** Columns of a row that is prepared for a batch, at most: its blocks of 256 are held in workgroup memory. */
export const MOST_TQ_COLS = 65_536;

/**
 * Functions that read a row of x as a TQ2_0 matrix sees it, with the roundings of src/reference/quantize_q8_k.ts: norms as in
 * readRow, then int8 in blocks of 256 with a scale each. They are to be called in this order, by all threads:
 *
 *   readBlocks(row, thread)   the scales of the norms, and the largest number of each block
 *   quantizedBy16(i)          elements 16 i … 16 i + 15 as int8, which are added to `sums` of their block
 *   scaleOfBlock(block)       d
 *
 * A block has q = 0 and d = 0 where d would be below 2^-126, a number that a GPU may flush to 0. The reference has them so
 * only where the inverse scale is infinite, which is a quarter of that.
 *
 * Wants what readRow wants; rows are of at most `blocks` blocks.
 */
export function quantizeQ8K(variant: Variant, norms: 0 | 1 | 2, blocks: number): string {
  return `${readRow(variant, norms)}${PACK}
// Bits of floats that are not negative are in the order of the floats.
var<workgroup> largestBits: array<atomic<u32>, ${blocks}>;
var<workgroup> sums: array<atomic<i32>, ${blocks}>;

fn readBlocks(row: u32, thread: u32) {
  readNorms(row, thread);
  for (var i = thread; i < p.cols / 16u; i += ${THREADS}u) {
    var v = abs(activations(4u * i));
    for (var j = 1u; j < 4u; j++) { v = max(v, abs(activations(4u * i + j))); }
    atomicMax(&largestBits[i / 16u], bitcast<u32>(max(max(v.x, v.y), max(v.z, v.w))));
  }
  workgroupBarrier();
}
fn inverseOfBlock(block: u32) -> f32 {
  let bits = atomicLoad(&largestBits[block]);
  if (bits < 0x03fe0000u) { return 0.0; } // 127 * 2^-126
  return divide(127.0, bitcast<f32>(bits));
}
fn scaleOfBlock(block: u32) -> f32 {
  let inverse = inverseOfBlock(block);
  if (inverse == 0.0) { return 0.0; }
  return divide(1.0, inverse);
}
fn quantizedBy16(i: u32) -> vec4<u32> {
  let inverse = inverseOfBlock(i / 16u);
  var words = vec4<u32>(0u);
  var sum = 0;
  for (var j = 0u; j < 4u; j++) {
    let v = vec4<i32>(round(rounded4(activations(4u * i + j) * inverse)));
    words[j] = packed(v);
    sum += v.x + v.y + v.z + v.w;
  }
  atomicAdd(&sums[i / 16u], sum);
  return words;
}
`;
}

/**
 * Rows of x as int8 in blocks for a batch: `q` [rows][cols] int8, `info` [rows][cols / 256] {d f32, sum i32}. A workgroup a
 * row.
 */
export function prepareQ8K(variant: Variant, norms: 0 | 1 | 2): Kernel {
  const weights = ['weight: array<vec4<f32>>', 'weight2: array<vec4<f32>>'].slice(0, norms);
  return {
    stem: 'quantize_q8_k',
    code: `${declare(
      variant,
      ['x: array<vec4<f32>>', '*q: array<vec4<u32>>', '*info: array<vec2<u32>>', ...weights],
      ['cols: u32', 'eps: f32', 'eps2: f32'],
    )}${quantizeQ8K(variant, norms, MOST_TQ_COLS / 256)}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  readBlocks(group.x, thread);
  for (var i = thread; i < p.cols / 16u; i += ${THREADS}u) { q[group.x * (p.cols / 16u) + i] = quantizedBy16(i); }
  workgroupBarrier();
  let blocks = p.cols / 256u;
  for (var i = thread; i < blocks; i += ${THREADS}u) {
    info[group.x * blocks + i] = vec2<u32>(bitcast<u32>(scaleOfBlock(i)), bitcast<u32>(atomicLoad(&sums[i])));
  }
}
`,
  };
}
