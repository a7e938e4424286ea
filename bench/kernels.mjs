// The ops that stream weights, at the shapes of BitNet-b1.58-2B-4T, on every tier that this engine runs.
//
// usage: npm run bench -- kernels [--threads N] [--rows 1,2,4,8,16,64] [--matrices N] [--tiers revec,relaxed,simd] [--runs 9]
//
// GB/s counts packed weight bytes; the share is of what as many threads read here. --matrices 1 stays in cache, the default
// of 120 (531 MB of I2_S) streams from memory as a model does. --rows is the batch: 1 is decoding; a batch of n takes n times
// fewer matrices, down to 8. Tiers take turns, each after passes over memory by the bandwidth probe.
import { parseArgs } from 'node:util';
import Benchmark from 'benchmark';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { openBandwidthProbe, pairedRatio, summary } from './machine.mjs';
import { opsOf } from './ops.mjs';
import { COLOR, numbers, percent, progress, rooflineChart, short, spread, startReport } from './report.mjs';

const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: '1' },
    rows: { type: 'string', default: '1,2,4,8,16,64' },
    matrices: { type: 'string', default: '120' },
    tiers: { type: 'string', default: 'revec,relaxed,simd' },
    runs: { type: 'string', default: '9' },
  },
});
const threads = Number(values.threads);
const batches = numbers(values.rows);
const matrices = Number(values.matrices);
const runs = Number(values.runs);
/** A turn takes at least so long. */
const TURN_MS = 100;
/** Matrices of a large batch: 35 MB, more than a core's own cache. */
const FEWEST = Math.min(8, matrices);

const report = startReport(`kernels-${threads}t`);
const notes = [];
const tiers = [];
for (const tier of values.tiers.split(',')) {
  try {
    const backend = await wasmBackend({ tier, threads, revectorize: true });
    tiers.push({ backend, list: opsOf(backend, Math.max(...batches), matrices) });
  } catch (error) {
    notes.push(`Left out, tier ${tier}: ${error.message}.`);
  }
}
const probe = await openBandwidthProbe(threads);

/** Seconds of one op in one turn: the mean over all its matrices, as often as fill TURN_MS. */
function turn({ op, backend, program, count }) {
  const seconds = TURN_MS / 1000;
  return new Promise((resolve, reject) => {
    new Benchmark(op, {
      ...{ defer: true, minSamples: 1, minTime: seconds, maxTime: seconds },
      fn: (deferred) => void backend.run(program).then(() => deferred.resolve(), reject),
      onComplete: ({ target }) => resolve(target.stats.mean / count),
      onError: ({ target }) => reject(target.error),
    }).run({ async: true });
  });
}

const rows = [];
for (const batch of batches) {
  for (const i of tiers[0]?.list.keys() ?? []) {
    const ones = [];
    for (const { backend, list } of tiers) {
      const [op, bytes, macsPerByte, call, all] = list[i];
      const weights = all.slice(
        0,
        Math.max(1, Math.ceil((all.length * Math.max(matrices / batch, FEWEST)) / matrices)),
      );
      const one = { backend, op, bytes, macsPerByte, count: weights.length, seconds: [], reads: [] };
      one.program = backend.record(() => weights.forEach(call(batch)));
      await turn(one); // warm
      ones.push(one);
    }
    for (let run = 0; run < runs; run++) {
      progress(`${ones[0].op}, ${batch} rows: run ${run + 1} of ${runs}`);
      for (const one of ones) {
        one.reads.push(await probe.read());
        one.seconds.push(await turn(one));
      }
    }
    for (const { backend, op, bytes, macsPerByte, seconds, reads } of ones) {
      const macs = batch * bytes * macsPerByte;
      const ms = summary(seconds.map((s) => s * 1e3));
      rows.push({
        ...{ tier: backend.tier, op, threads, rows: batch, matrices, ms, GBps: bytes / ms.median / 1e6 },
        ...{ GMACps: macs / ms.median / 1e6, macsPerByte: batch * macsPerByte, readGBps: summary(reads) },
        share: pairedRatio(
          seconds.map((s) => bytes / s / 1e9),
          reads,
        ),
        toFirst: pairedRatio(ones[0].seconds, seconds),
      });
    }
  }
}
await probe.dispose();
for (const { backend } of tiers) await backend.dispose();
if (rows.length === 0) throw new Error(notes.join('\n'));

const read = Math.max(...rows.map((r) => r.readGBps.max));
const of = `${threads} thread${threads > 1 ? 's' : ''}`;
await report.finish({
  columns: [
    ['kernels, op', (r) => `${r.tier}, ${r.op}`],
    ['rows', (r) => r.rows],
    ['ms', (r) => spread(r.ms)],
    ['n', (r) => r.ms.n],
    ['GB/s', (r) => r.GBps.toFixed(1)],
    ['GMAC/s', (r) => r.GMACps.toFixed(1)],
    ['of read', (r) => percent(r.share)],
    [`speed to ${rows[0].tier}`, (r) => r.toFirst.toFixed(2)],
  ],
  rows,
  notes: [...notes, `${of}, ${matrices} matrices; as many threads read ${short(read)} GB/s at best.`],
  chart: {
    title: 'Multiplications a second against the memory roof',
    caption: `${of}; ${matrices} matrices of the 2B-4T shape; at a point: rows of the batch. Medians of ${runs} turns.`,
    ...rooflineChart(
      // All tiers run the same code for the head.
      rows
        .filter((r) => r.op === 'down' || (r.op === 'head' && r.tier === rows[0].tier))
        .map((r) => ({
          ...{ x: r.macsPerByte, y: r.GMACps, text: r.tier === rows[0].tier ? String(r.rows) : '' },
          line: r.op === 'head' ? 'F16 head' : `ternary, ${r.tier}`,
          color: r.op === 'head' ? COLOR.other : r.tier === rows[0].tier ? COLOR.ours : COLOR.second,
        })),
      read,
    ),
  },
});
