// A program is a list of commands in linear memory that every thread walks: each takes its share of a command's items, and
// a barrier stands between commands that depend on each other. With one thread the same list runs inline.
//
//   command   +0 opcode   +4 words of the whole command   +8 arguments, a word each (i32, f32 or address)
//   end       opcode 0
//
// Low memory, below all allocations:
//
//   2048  barrier between the threads of a program
//   2112  start signal: value = number of the run, from 0 round to 2^31 - 1, or -1 to end; +8 address of the program; +12 threads
//   4096  constants and accumulators of each thread (lanes.ts)

import { barrier, signal, waitWhile } from './barrier';
import { F16_BIAS } from './lanes';
import { advance } from './kernels/advance';
import { attentionTile, tileHeads, tileRows } from './kernels/attention';
import { checkTernary } from './kernels/check_ternary';
import { bitLinear, bitLinearScratchBytes, TILE_ROWS } from './kernels/bit_linear';
import { bitLinearTq, bitLinearTqScratchBytes } from './kernels/bit_linear_tq';
import { decodeRow } from './kernels/decode_row';
import { denseLinear } from './kernels/dense_linear';
import { glu } from './kernels/glu';
import { F16, I2_S, paddedCols, prepareRow, preparedBytes, TL1, TL2, TQ1_0, TQ2_0 } from './kernels/prepare';
import { repackTq1, TQ1_BYTES, TQ2_BYTES } from './kernels/repack';
import { checkNibbles, REPACK_BYTES, repackRows, repackScale } from './kernels/repack_tl';
import { buildTables, lookupLinear, lookupScratchBytes, tableUnits } from './kernels/lookup';
import { addRmsNorm, rmsNorm } from './kernels/rms_norm';
import { ropeHead, storeHead } from './kernels/rope';
import { HEAP, sample } from './kernels/sample';
import { buildScreen, prepareScreened, rescore, screenRowBytes, screenRows } from './kernels/screen';
import { indexBytes, pairsAt, tailAt, tripleCols } from './kernels/tl';

export const BARRIER: i32 = 1;
export const EMBED: i32 = 2;
export const PREPARE: i32 = 3;
export const LINEAR: i32 = 4;
export const GLU: i32 = 5;
export const ROPE: i32 = 6;
export const ATTENTION: i32 = 7;
export const SAMPLE: i32 = 8;
export const SCREEN_BUILD: i32 = 9;
export const SCREEN_PREPARE: i32 = 10;
export const SCREEN: i32 = 11;
export const RESCORE: i32 = 12;
export const CHECK_TERNARY: i32 = 13;
export const NORM: i32 = 14;
export const ADD_NORM: i32 = 15;
export const REPACK: i32 = 16;
export const CHECK_TL: i32 = 17;
export const REPACK_TL: i32 = 18;
export const TABLES: i32 = 19;
export const ADVANCE: i32 = 20;

const BARRIER_AT: usize = 2048;
const START_AT: usize = 2112;

/** Runs the program at `list` as thread `index` of `threads`. */
export function runProgram(list: usize, index: i32, threads: i32): void {
  while (true) {
    const op = load<i32>(list);
    if (op == 0) return;
    if (op == BARRIER) barrier(BARRIER_AT, threads);
    else if (op == EMBED) runEmbed(list + 8, index, threads);
    else if (op == PREPARE) runPrepare(list + 8, index, threads);
    else if (op == LINEAR) runLinear(list + 8, index, threads);
    else if (op == GLU) runGlu(list + 8, index, threads);
    else if (op == ROPE) runRope(list + 8, index, threads);
    else if (op == ATTENTION) runAttention(list + 8, index, threads);
    else if (op == SAMPLE) runSample(list + 8, index, threads);
    else if (op == SCREEN_BUILD) runScreenBuild(list + 8, index, threads);
    else if (op == SCREEN_PREPARE) runScreenPrepare(list + 8, index, threads);
    else if (op == SCREEN) runScreen(list + 8, index, threads);
    else if (op == RESCORE) runRescore(list + 8, index, threads);
    else if (op == CHECK_TERNARY) runCheckTernary(list + 8, index, threads);
    else if (op == NORM) runNorm(list + 8, index, threads);
    else if (op == ADD_NORM) runAddNorm(list + 8, index, threads);
    else if (op == CHECK_TL) runCheckTl(list + 8, index, threads);
    else if (op == TABLES) runTables(list + 8, index, threads);
    else if (op == REPACK_TL) runRepackTl(list + 8, index, threads);
    else if (op == REPACK) runRepack(list + 8, index, threads);
    else if (op == ADVANCE) runAdvance(list + 8, index, threads);
    else unreachable();
    list += <usize>load<i32>(list, 4) << 2;
  }
}

/** Starts the program at `list` on all `threads` that are in `serve`. */
export function start(list: usize, threads: i32): void {
  store<usize>(START_AT, list, 8);
  store<i32>(START_AT, threads, 12);
  signal(START_AT, (atomic.load<i32>(START_AT) + 1) & 0x7fffffff);
}

/** Ends every `serve`. */
export function stop(): void {
  signal(START_AT, -1);
}

/** Waits for a run other than `last`, takes part in it, and returns its number when all threads are done; -1 for the end. */
export function serve(index: i32, last: i32): i32 {
  const run = waitWhile(START_AT, last);
  if (run == -1) return -1;
  const threads = load<i32>(START_AT, 12);
  runProgram(load<usize>(START_AT, 8), index, threads);
  barrier(BARRIER_AT, threads);
  return run;
}

// @ts-ignore: decorator
@inline function arg(at: usize, word: i32): i32 {
  return load<i32>(at + (<usize>word << 2));
}

/** First item of thread `index`, items split evenly in runs; that of `index + 1` is its end. */
// @ts-ignore: decorator
@inline function share(items: i32, index: i32, threads: i32): i32 {
  return <i32>(<i64>items * index / threads);
}

/** The same in fours, as glu takes four columns at a time and its share has to be that of the matrices before it. */
// @ts-ignore: decorator
@inline function shareOf4(items: i32, index: i32, threads: i32): i32 {
  return min(share((items + 3) >> 2, index, threads) << 2, items);
}

/** Share of the rows of a matrix: in fours, or in the groups of 32 that TL1 and TL2 keep together. */
// @ts-ignore: decorator
@inline function shareOfRows(type: i32, rows: i32, index: i32, threads: i32): i32 {
  return type == TL1 || type == TL2 ? share(rows >> 5, index, threads) << 5 : shareOf4(rows, index, threads);
}

// [rows, dim, type, tokens, table, x, scale]
function runEmbed(a: usize, index: i32, threads: i32): void {
  const dim = arg(a, 1), type = arg(a, 2), scale = load<f32>(a, 24);
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    const x = <usize>(arg(a, 5) + r * dim * 4);
    decodeRow(type, <usize>arg(a, 4), load<i32>(<usize>(arg(a, 3) + 4 * r)), dim, x);
    if (scale == 1) continue;
    for (let i = x; i < x + (<usize>dim << 2); i += 4) store<f32>(i, load<f32>(i) * scale);
  }
}

// [rows, index, x, weight, eps, dim, out]
function runNorm(a: usize, index: i32, threads: i32): void {
  const dim = arg(a, 5);
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    const from = load<i32>(<usize>(arg(a, 1) + r * 4));
    rmsNorm(<usize>(arg(a, 2) + from * dim * 4), <usize>arg(a, 3), load<f32>(a, 16), dim, <usize>(arg(a, 6) + r * dim * 4));
  }
}

// [rows, y, weight, eps, dim, x]
function runAddNorm(a: usize, index: i32, threads: i32): void {
  const dim = arg(a, 4);
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    addRmsNorm(<usize>(arg(a, 1) + r * dim * 4), <usize>arg(a, 2), load<f32>(a, 12), dim, <usize>(arg(a, 5) + r * dim * 4));
  }
}

// [rows, index or 0, x, weight or 0, eps, dim, weight type, h, prepared, second weight or 0]
function runPrepare(a: usize, index: i32, threads: i32): void {
  const pick = <usize>arg(a, 1), dim = arg(a, 5), type = arg(a, 6);
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    const from = pick ? load<i32>(pick + (<usize>r << 2)) : r;
    prepareRow(
      <usize>(arg(a, 2) + from * dim * 4), <usize>arg(a, 3), <usize>arg(a, 9), load<f32>(a, 16), dim, type, arg(a, 0) >= TILE_ROWS,
      <usize>(arg(a, 7) + r * dim * 4), <usize>(arg(a, 8) + r * preparedBytes(dim, type)),
    );
  }
}

// [rows, cols, weight type, tile cols, prepared]
function runTables(a: usize, index: i32, threads: i32): void {
  const cols = arg(a, 1), type = arg(a, 2), tileCols = arg(a, 3);
  const units = tableUnits(type, cols, tileCols), all = arg(a, 0) * units;
  const end = share(all, index + 1, threads);
  for (let i = share(all, index, threads); i < end; i++) {
    buildTables(type, <usize>(arg(a, 4) + i / units * preparedBytes(cols, type)), cols, tileCols, i % units);
  }
}

/** Bytes that a thread of LINEAR unpacks or decodes into. */
export function linearScratchBytes(cols: i32, batch: i32): i32 {
  const ternary = max(max(bitLinearScratchBytes(cols, batch), lookupScratchBytes(cols, batch)), bitLinearTqScratchBytes(cols, batch));
  return (max(ternary, 4 * cols) + 63) & ~63;
}

// [weight type, w, rows of w, cols, prepared, batch, y, stride, add, scratch, tile rows, tile cols, sub]
// `scratch` has linearScratchBytes(cols, batch) a thread: unpacked ternary rows and sums, or a decoded row.
function runLinear(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), rows = arg(a, 2);
  const begin = shareOfRows(type, rows, index, threads), end = shareOfRows(type, rows, index + 1, threads);
  const w = <usize>arg(a, 1), cols = arg(a, 3), prepared = <usize>arg(a, 4), batch = arg(a, 5);
  const y = <usize>arg(a, 6), stride = arg(a, 7), add = arg(a, 8);
  const scratch = <usize>(arg(a, 9) + index * linearScratchBytes(cols, batch));
  if (type == I2_S) bitLinear(w, rows, cols, prepared, batch, y, stride, add, begin, end, scratch);
  else if (type == TL1 || type == TL2) {
    lookupLinear(
      type, w, rows, cols, arg(a, 10), arg(a, 11), arg(a, 12), prepared, batch, y, stride, add, begin, end, scratch,
    );
  } else if (type == TQ1_0 || type == TQ2_0) bitLinearTq(type, w, cols, prepared, batch, y, stride, add, begin, end, scratch);
  else denseLinear(w, cols, type, prepared, batch, y, stride, add, begin, end, scratch);
}

// [batch, cols, activation, gate, up, weight type]; shares as LINEAR's over its rows, so that no barrier is needed between
function runGlu(a: usize, index: i32, threads: i32): void {
  const cols = arg(a, 1);
  const begin = shareOfRows(arg(a, 5), cols, index, threads), end = shareOfRows(arg(a, 5), cols, index + 1, threads);
  for (let b = 0; b < arg(a, 0); b++) {
    glu(<usize>(arg(a, 3) + b * cols * 4), <usize>(arg(a, 4) + b * cols * 4), arg(a, 2), begin, end);
  }
}

// [rows, heads, kvHeads, headDim, ropeDim, interleaved, rope, pos, sequence, f16, page, blockBytes, blockSize, tables,
//  maxBlocks, q, k, v, weight of q's norm or 0, of k's, eps]
// `page`: the layer's keys in block 0. Items are the heads of q, k and v of every row.
function runRope(a: usize, index: i32, threads: i32): void {
  const heads = arg(a, 1), kvHeads = arg(a, 2), headDim = arg(a, 3), ropeDim = arg(a, 4);
  const all = heads + 2 * kvHeads;
  const f16 = arg(a, 9), headBytes = <usize>(arg(a, 12) * headDim) << (f16 ? 1 : 2);
  const end = share(arg(a, 0) * all, index + 1, threads);
  for (let i = share(arg(a, 0) * all, index, threads); i < end; i++) {
    const r = i / all;
    let h = i % all;
    const pos = load<i32>(<usize>(arg(a, 7) + 4 * r));
    const angles = <usize>(arg(a, 6) + pos * ropeDim * 4);
    if (h < heads) {
      const q = <usize>(arg(a, 15) + (r * heads + h) * headDim * 4);
      if (arg(a, 18)) rmsNorm(q, <usize>arg(a, 18), load<f32>(a, 80), headDim, q);
      ropeHead(q, ropeDim, arg(a, 5), angles);
      continue;
    }
    h -= heads;
    const sequence = load<i32>(<usize>(arg(a, 8) + 4 * r));
    const block = load<i32>(<usize>(arg(a, 13) + (sequence * arg(a, 14) + pos / arg(a, 12)) * 4));
    let to = <usize>arg(a, 10) + <usize>block * <usize>arg(a, 11) + (<usize>((pos % arg(a, 12)) * headDim) << (f16 ? 1 : 2));
    let from: usize;
    if (h < kvHeads) {
      from = <usize>(arg(a, 16) + (r * kvHeads + h) * headDim * 4);
      if (arg(a, 19)) rmsNorm(from, <usize>arg(a, 19), load<f32>(a, 80), headDim, from);
      ropeHead(from, ropeDim, arg(a, 5), angles);
      to += <usize>h * headBytes;
    } else {
      from = <usize>(arg(a, 17) + (r * kvHeads + h - kvHeads) * headDim * 4);
      to += <usize>h * headBytes; // the values follow the kvHeads keys
    }
    storeHead(from, headDim, f16, to);
  }
}

// [rows, heads, kvHeads, headDim, pos, sequence, f16, page, blockBytes, blockSize, tables, maxBlocks, q, out, scratch, stride]
// `scratch` has one piece of `stride` bytes a thread. A tile is consecutive rows of one sequence at consecutive positions, so
// that they share the work on its keys. Shares are of the (tile, head) pairs in order, cut by the positions that their rows
// see: a late row of a prompt costs more than an early one. Even where a cut parts the heads of a kv head and both threads
// convert its keys, that costs less than a share which is larger by a group: one row of 20 heads is 10 a thread of two.
function runAttention(a: usize, index: i32, threads: i32): void {
  const rows = arg(a, 0), heads = arg(a, 1), kvHeads = arg(a, 2), headDim = arg(a, 3), f16 = arg(a, 6);
  const rowBytes = heads * headDim * 4, blockSize = arg(a, 9), group = heads / kvHeads;
  const headBytes = <usize>(blockSize * headDim) << (f16 ? 1 : 2);
  let total: i64 = 0;
  for (let r = 0; r < rows; r++) total += <i64>(load<i32>(<usize>(arg(a, 4) + 4 * r)) + 1) * heads;
  const begin = total * index / threads, end = total * (index + 1) / threads;
  let tile = 0;
  for (let r = 0, at: i64 = 0; r < rows && at < end; r += tile) {
    const pos = load<i32>(<usize>(arg(a, 4) + 4 * r)), sequence = load<i32>(<usize>(arg(a, 5) + 4 * r));
    const most = min(tileRows(group), rows - r);
    for (tile = 1; tile < most; tile++) {
      if (load<i32>(<usize>(arg(a, 4) + 4 * (r + tile))) != pos + tile) break;
      if (load<i32>(<usize>(arg(a, 5) + 4 * (r + tile))) != sequence) break;
    }
    const cost = <i64>tile * (pos + 1) + (tile * (tile - 1) >> 1);
    // The heads whose start lies between the cuts.
    let h = <i32>max<i64>((begin - at + cost - 1) / cost, 0);
    const last = <i32>min<i64>((end - at + cost - 1) / cost, heads);
    while (h < last) {
      const kvHead = h / group;
      const some = min(min(last, (kvHead + 1) * group) - h, tileHeads(tile));
      const first = <usize>(r * rowBytes + h * headDim * 4);
      const keys = <usize>arg(a, 7) + <usize>kvHead * headBytes;
      attentionTile(
        <usize>arg(a, 12) + first, <usize>arg(a, 13) + first, tile, some, headDim, rowBytes, pos,
        keys, keys + <usize>kvHeads * headBytes, <usize>(arg(a, 10) + sequence * arg(a, 11) * 4), <usize>arg(a, 8), blockSize,
        f16, <usize>(arg(a, 14) + index * arg(a, 15)),
      );
      h += some;
    }
    at += cost * heads;
  }
}

// [rows, vocab, logits, params, stride, picks, bytes of a pick, scratch, scratch bytes of a thread]
function runSample(a: usize, index: i32, threads: i32): void {
  const vocab = arg(a, 1);
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    sample(
      <usize>(arg(a, 2) + r * vocab * 4), vocab, <usize>(arg(a, 3) + r * arg(a, 4)), <usize>(arg(a, 5) + r * arg(a, 6)),
      <usize>(arg(a, 7) + index * arg(a, 8)),
    );
  }
}

// [outs, picks, bytes of a pick, tokens, pos, params, stride]
function runAdvance(a: usize, index: i32, threads: i32): void {
  const end = share(arg(a, 0), index + 1, threads);
  for (let r = share(arg(a, 0), index, threads); r < end; r++) {
    advance(
      <usize>(arg(a, 1) + r * arg(a, 2)), <usize>(arg(a, 3) + 4 * r), <usize>(arg(a, 4) + 4 * r), <usize>(arg(a, 5) + r * arg(a, 6)),
    );
  }
}

// [weight type, w, rows, cols, screen, decoded, first row, rows to do]
// `decoded` has 4 * cols bytes a thread, padded to 64.
function runScreenBuild(a: usize, index: i32, threads: i32): void {
  const cols = arg(a, 3), first = arg(a, 6);
  const decoded = <usize>(arg(a, 5) + index * ((4 * cols + 63) & ~63));
  const begin = first + share(arg(a, 7), index, threads), end = first + share(arg(a, 7), index + 1, threads);
  buildScreen(arg(a, 0), <usize>arg(a, 1), arg(a, 2), cols, <usize>arg(a, 4), begin, end, decoded);
}

// [batch, cols, weight type, prepared, act]
function runScreenPrepare(a: usize, index: i32, threads: i32): void {
  const cols = arg(a, 1), type = arg(a, 2);
  const unit: f32 = type == F16 ? <f32>1 / F16_BIAS : 1; // as prepare.ts leaves it
  const end = share(arg(a, 0), index + 1, threads);
  for (let b = share(arg(a, 0), index, threads); b < end; b++) {
    prepareScreened(<usize>(arg(a, 3) + b * preparedBytes(cols, type) + 64), unit, cols, <usize>(arg(a, 4) + b * screenRowBytes(cols)));
  }
}

// [screen, rows, cols, act, batch, z, lower, params, stride]
function runScreen(a: usize, index: i32, threads: i32): void {
  const rows = arg(a, 1);
  const begin = shareOf4(rows, index, threads), end = shareOf4(rows, index + 1, threads);
  screenRows(
    <usize>arg(a, 0), rows, arg(a, 2), <usize>arg(a, 3), arg(a, 4), <usize>arg(a, 5), <usize>arg(a, 6), <usize>arg(a, 7), <usize>arg(a, 8),
    begin, end,
  );
}

// [weight type, w, rows, cols, prepared, batch, screen, act, z, lower, params, stride, scratch, scratch bytes of a thread]
function runRescore(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), rows = arg(a, 2), cols = arg(a, 3);
  const begin = shareOf4(rows, index, threads), end = shareOf4(rows, index + 1, threads);
  const heap = <usize>(arg(a, 12) + index * arg(a, 13));
  for (let b = 0; b < arg(a, 5); b++) {
    const logits = b * rows * 4;
    rescore(
      type, <usize>arg(a, 1), rows, cols, <usize>(arg(a, 4) + b * preparedBytes(cols, type)), <usize>arg(a, 6),
      <usize>(arg(a, 7) + b * screenRowBytes(cols)), <usize>(arg(a, 8) + logits), <usize>(arg(a, 9) + logits),
      <usize>(arg(a, 10) + b * arg(a, 11)), begin, end, heap, heap + HEAP * 8,
    );
  }
}

// [weight type, w, rows, cols, found]
// `found` u32, all ones before: the least of what the threads find.
function runCheckTernary(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), w = <usize>arg(a, 1), rows = arg(a, 2), cols = arg(a, 3);
  const rowBytes = type == TQ2_0 ? (cols >> 8) * TQ2_BYTES : paddedCols(cols) >> 2;
  const begin = <u32>(share(rows, index, threads) * rowBytes), end = <u32>(share(rows, index + 1, threads) * rowBytes);
  let bad: u32 = -1;
  if (type == I2_S) bad = checkTernary(w, begin, end);
  else for (let block = begin; block < end && bad == -1; block += TQ2_BYTES) bad = checkTernary(w, block, block + 64);
  tellFirst(<usize>arg(a, 4), bad);
}

// [type, w, rows, cols, type to, to, found]
// `found` as CHECK_TERNARY's.
function runRepack(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), w = <usize>arg(a, 1), rows = arg(a, 2), cols = arg(a, 3), to = <usize>arg(a, 5);
  const begin = share(rows, index, threads), end = share(rows, index + 1, threads);
  const blocks = cols >> 8, done = begin * blocks;
  if (type == TQ1_0) repackTq1(w + <usize>(done * TQ1_BYTES), (end - begin) * blocks, to + <usize>(done * TQ2_BYTES));
  else unreachable();
}

// [weight type, w, rows, cols, tile cols, found]
function runCheckTl(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), rows = arg(a, 2), cols = arg(a, 3);
  const triples = tripleCols(type, cols, arg(a, 4)), pairs = pairsAt(rows, triples);
  const padding = pairs + rows * ((cols - triples) >> 2);
  checkShare(a, 0, indexBytes(rows, triples), 13, index, threads);
  checkShare(a, pairs, padding, 8, index, threads);
  checkShare(a, padding, tailAt(type, rows, cols), 0, index, threads);
}

// @ts-ignore: decorator
@inline function checkShare(a: usize, from: i32, to: i32, most: i32, index: i32, threads: i32): void {
  const begin = <u32>(from + share(to - from, index, threads)), end = <u32>(from + share(to - from, index + 1, threads));
  tellFirst(<usize>arg(a, 5), checkNibbles(<usize>arg(a, 1), begin, end, most));
}

// [weight type, w, rows, cols, tile rows, tile cols, sub, to, scratch]
// `scratch` has REPACK_BYTES a thread. Items are groups of 32 rows.
function runRepackTl(a: usize, index: i32, threads: i32): void {
  const type = arg(a, 0), rows = arg(a, 2), cols = arg(a, 3);
  const w = <usize>arg(a, 1), to = <usize>arg(a, 7), rowBytes = <usize>(paddedCols(cols) >> 2);
  const end = share(rows >> 5, index + 1, threads) << 5;
  for (let row = share(rows >> 5, index, threads) << 5; row < end; row += 32) {
    repackRows(
      type, w, rows, cols, arg(a, 4), arg(a, 5), arg(a, 6), row, to + <usize>row * rowBytes, rowBytes,
      <usize>(arg(a, 8) + index * REPACK_BYTES),
    );
  }
  if (index == 0) repackScale(type, w, rows, cols, to);
}

/** The least of what the threads find goes to `found`. */
function tellFirst(found: usize, bad: u32): void {
  for (let old = atomic.load<u32>(found); bad < old; ) {
    const seen = atomic.cmpxchg<u32>(found, old, bad);
    if (seen == old) return;
    old = seen;
  }
}
