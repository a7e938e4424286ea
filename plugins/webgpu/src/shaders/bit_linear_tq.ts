import { type BitLinearUse, dot64, partsOf, roomOf } from './bit_linear.ts';
import { declare, type Kernel, THREADS, type Variant } from './declare.ts';
import { HALVES } from './exact.ts';
import { quantizeQ8K } from './quantize_q8_k.ts';

/**
 * Blocks of TQ2_0 in buffers of u32: 66 bytes each, so every other one begins in the middle of a word.
 *
 *   codesOf(which, block, quarter)   64 codes: bytes 16 quarter … of a block, that of the matrix `which` of `matrices`
 *   scaleOf(which, block)            its scale
 *
 * The first quarter of a half sits in the low bits, so dot64 gets the activations in the reverse of I2_S's order.
 */
export function tqBlocks(matrices: readonly string[]): string {
  const others = matrices.slice(1).map((name, i) => `if (which == ${i + 1}u) { return ${name}[i]; }`);
  return `${HALVES}
fn word(which: u32, i: u32) -> u32 {
  ${others.join('\n  ')}
  return ${matrices[0]}[i];
}
fn wordOf(block: u32) -> u32 { return 16u * block + (block >> 1u); }
fn codesOf(which: u32, block: u32, quarter: u32) -> vec4<u32> {
  let i = wordOf(block) + 4u * quarter;
  let v = vec4<u32>(word(which, i), word(which, i + 1u), word(which, i + 2u), word(which, i + 3u));
  if ((block & 1u) == 0u) { return v; }
  return (v >> vec4<u32>(16u)) | (vec4<u32>(v.yzw, word(which, i + 4u)) << vec4<u32>(16u));
}
fn scaleOf(which: u32, block: u32) -> f32 {
  return fromF16((word(which, wordOf(block) + 16u) >> (16u * (block & 1u))) & 0xffffu);
}
`;
}

/**
 * y = W x for one row of x and matrices of TQ2_0, as `bitLinear` does it for I2_S: the same uses, buffers and words.
 *
 * `lanes` threads share a row of W and add up integers a block in workgroup memory. Then blocks are made floats, side by side,
 * and one thread a row adds those up in their order, which decides the bits.
 */
export function bitLinearTq(variant: Variant, use: BitLinearUse, norms: 0 | 1 | 2, cols: number): Kernel {
  const { gated, glu, matrices, outs, place, put } = partsOf(use);
  const [room, lanes, rowsOf] = [roomOf(cols), lanesOf(cols), rowsOfTqGroup(cols)];
  const weights = ['weight', 'weight2'].slice(0, norms);
  const code = `${declare(
    variant,
    [
      ...matrices.map((name) => `${name}: array<u32>`),
      'x: array<vec4<f32>>',
      ...outs.map((name) => `*${name}: array<f32>`),
      ...weights.map((name) => `${name}: array<vec4<f32>>`),
    ],
    ['cols: u32', 'vectors: u32', 'eps: f32', 'eps2: f32', 'rows: u32', 'kRows: u32', 'vRows: u32'],
  )}${quantizeQ8K(variant, norms, room / 256)}${dot64(variant)}${tqBlocks(matrices)}
${glu}
var<workgroup> q: array<vec4<u32>, ${room / 16}>;
var<workgroup> d: array<f32, ${room / 256}>;
// [rows, with a gate those of up behind them][blocks]: i32 sums of codes times q, then f32 products.
var<workgroup> dots: array<atomic<i32>, ${((gated ? 2 : 1) * rowsOf * room) / 256}>;

fn sumOf(row: u32, blocks: u32) -> f32 {
  var sum = 0.0;
  for (var i = row * blocks; i < (row + 1u) * blocks; i++) { sum = rounded(sum + bitcast<f32>(atomicLoad(&dots[i]))); }
  return sum;
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let blocks = p.vectors / 4u;
  readBlocks(0u, thread);
  for (var i = thread; i < p.cols / 16u; i += ${THREADS}u) { q[i] = quantizedBy16(i); }
  if (thread < blocks) { d[thread] = scaleOfBlock(thread); }
  workgroupBarrier();

  ${place(rowsOf)}
  let own = thread / ${lanes}u;
  let at = min(first + own, most - 1u) * blocks;
  for (var i = thread % ${lanes}u; i < p.vectors; i += ${lanes}u) {
    let a = (i >> 1u) * 8u + (i & 1u);
    let a0 = q[a + 6u]; let a1 = q[a + 4u]; let a2 = q[a + 2u]; let a3 = q[a];
    atomicAdd(&dots[own * blocks + i / 4u], dot64(codesOf(which, at + i / 4u, i % 4u), a0, a1, a2, a3));
    ${gated ? `atomicAdd(&dots[(own + ${rowsOf}u) * blocks + i / 4u], dot64(codesOf(1u, at + i / 4u, i % 4u), a0, a1, a2, a3));` : ''}
  }
  workgroupBarrier();
  for (var i = thread; i < ${gated ? 2 * rowsOf : rowsOf}u * blocks; i += ${THREADS}u) {
    let block = i % blocks;
    let line = i / blocks;
    let wBlock = min(first + line % ${rowsOf}u, most - 1u) * blocks + block;
    let scale = rounded(d[block] * scaleOf(${gated ? `line / ${rowsOf}u` : 'which'}, wBlock));
    let dot = f32(atomicLoad(&dots[i]) - atomicLoad(&sums[block]));
    atomicStore(&dots[i], bitcast<i32>(rounded(dot * scale)));
  }
  workgroupBarrier();
  let row = first + thread;
  if (thread >= ${rowsOf}u || row >= most) { return; }
  ${put('sumOf(thread, blocks)', `sumOf(thread + ${rowsOf}u, blocks)`)}
}
`;
  return { stem: 'bit_linear_tq', code };
}

/** Threads that share a row of W. Beside a very long row of x there is room for few rows of W. */
function lanesOf(cols: number): number {
  return cols <= 4096 ? 8 : cols <= 8192 ? 32 : 64;
}

/** Rows of W that a workgroup computes. */
export function rowsOfTqGroup(cols: number): number {
  return THREADS / lanesOf(cols);
}
