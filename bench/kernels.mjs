// The ops that stream weights, at the shapes of BitNet-b1.58-2B-4T, on every tier that this engine runs.
//
// usage: npm run bench -- kernels [--threads N] [--rows N] [--matrices N]
//
// GB/s counts packed weight bytes; the share is of what one thread reads here. --matrices 1 stays in cache, the default
// of 24 (106 MB of I2_S) streams from memory as a model does. --rows is the batch: 1 is decoding.
import { parseArgs } from 'node:util';
import Benchmark from 'benchmark';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { machine, readBandwidth } from './machine.mjs';

const { values } = parseArgs({
  options: {
    threads: { type: 'string', default: '1' },
    rows: { type: 'string', default: '1' },
    matrices: { type: 'string', default: '24' },
  },
});
const threads = Number(values.threads);
const rows = Number(values.rows);
const matrices = Number(values.matrices);
const DIM = 2560;
const FFN = 6912;
const VOCAB = 16_032; // an eighth of 128,256: the rate is the same

const bandwidth = await readBandwidth();
console.log(machine());
console.log(`${threads} threads, ${rows} rows, ${matrices} matrices; one thread reads ${bandwidth.toFixed(1)} GB/s\n`);
console.log('| tier | op | ms (median) | ± | n | GB/s | GMAC/s | of read |');
console.log('|---|---|--:|--:|--:|--:|--:|--:|');

for (const tier of (process.env.TIERS ?? 'revec,relaxed,relaxed_i16,simd').split(',')) {
  let backend;
  try {
    backend = await wasmBackend({ tier, threads });
  } catch (error) {
    console.log(`| ${tier} | ${error.message} | | | | | | |`);
    continue;
  }
  const scratch = backend.alloc(backend.scratchBytes(rows, FFN, 32, VOCAB));
  const x = backend.alloc(rows * FFN * 4);
  const y = backend.alloc(rows * VOCAB * 4);
  const index = backend.alloc(rows * 4);
  backend.write(index, 0, new Uint8Array(Uint32Array.from({ length: rows }, (_, i) => i).buffer));
  backend.write(x, 0, new Uint8Array(Float32Array.from({ length: rows * FFN }, (_, i) => Math.sin(i)).buffer));
  const norm = { weight: backend.alloc(FFN * 4), eps: 1e-5 };
  const i2s = (m, k) => ({ type: 'i2_s', rows: m, cols: k, tensor: backend.alloc((m * k) / 4 + 32) });
  const f16 = (m, k) => ({ type: 'f16', rows: m, cols: k, tensor: backend.alloc(m * k * 2) });

  const down = Array.from({ length: matrices }, () => i2s(DIM, FFN));
  const up = Array.from({ length: Math.ceil(matrices / 2) }, () => [i2s(FFN, DIM), i2s(FFN, DIM)]);
  const head = f16(VOCAB, DIM);
  const ops = [
    ['down', down, (w) => backend.ops.down({ rows, h: x, norm, wdown: w, x: y, scratch }), (DIM * FFN) / 4],
    [
      'gate_up',
      up,
      ([gate, w]) => backend.ops.gateUp({ rows, x, norm, gate, up: w, activation: 'relu2', out: y, scratch }),
      (2 * DIM * FFN) / 4,
    ],
    ['head', [head], (w) => backend.ops.head({ outs: rows, index, x, norm, w, logits: y, scratch }), VOCAB * DIM * 2],
  ];
  for (const [name, weights, op, bytes] of ops) {
    const program = backend.record(() => weights.forEach(op));
    for (let i = 0; i < 3; i++) await backend.run(program);
    const { stats } = await new Promise((resolve, reject) => {
      new Benchmark(name, {
        defer: true,
        fn: (deferred) => void backend.run(program).then(() => deferred.resolve()),
        onComplete: (event) => resolve(event.target),
        onError: (event) => reject(event.target.error),
      }).run({ async: true });
    });
    const times = [...stats.sample].sort((a, b) => a - b);
    const seconds = times[times.length >> 1] / weights.length;
    const macs = rows * bytes * (name === 'head' ? 0.5 : 4);
    const rate = bytes / seconds / 1e9;
    console.log(
      `| ${tier} | ${name} | ${(seconds * 1e3).toFixed(2)} | ${stats.rme.toFixed(1)} % | ${times.length} | ${rate.toFixed(1)} | ${(macs / seconds / 1e9).toFixed(1)} | ${((100 * rate) / bandwidth).toFixed(0)} % |`,
    );
  }
  await backend.dispose();
}
