// The screened output head against the exact one, at the shape of BitNet-b1.58-2B-4T: equal tokens, and what it saves.
//
// usage: npm run bench -- screen [--states 1000] [--threads N] [--tier T]
//
// A head of random F16 rows and random hidden states, every other one with outliers as real models have them. Random rows are
// the worst case: their largest logits lie close together, so that more rows can still win.
import { parseArgs } from 'node:util';
import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { f16Bits } from '../dist/gguf/layouts/f16.js';
import { host } from '../dist/host/node.js';
import { PICK_BYTES, paramsBytes, resolveSampler, writeParams } from '../dist/sampler.js';
import { machine, median } from './machine.mjs';

const { values } = parseArgs({
  options: {
    states: { type: 'string', default: '1000' },
    threads: { type: 'string' },
    tier: { type: 'string', default: 'auto' },
  },
});
const VOCAB = 128_256;
const DIM = 2560;
const BATCH = 8;
const threads = values.threads === undefined ? await host.defaultThreads() : Number(values.threads);
const backend = await wasmBackend({ threads, tier: values.tier });

let state = 1;
const uniform = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return (state + 0.5) / 2 ** 32;
};
const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());

const w = { type: 'f16', rows: VOCAB, cols: DIM, tensor: backend.alloc(VOCAB * DIM * 2) };
const halves = Uint16Array.from({ length: 8192 }, () => f16Bits(0.02 * normal()));
await backend.fill(w.tensor, async (_at, into) => {
  const to = new Uint16Array(into.buffer, into.byteOffset, into.length / 2);
  for (let i = 0; i < to.length; i += 2) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    to[i] = halves[state >>> 19];
    to[i + 1] = halves[(state >>> 6) & 8191];
  }
});

const alloc = (bytes) => backend.alloc(bytes);
const write = (tensor, array) => backend.write(tensor, 0, new Uint8Array(array.buffer));
const stride = paramsBytes(0);
const [x, index, logits, exact] = [BATCH * DIM * 4, BATCH * 4, BATCH * VOCAB * 4, BATCH * VOCAB * 4].map(alloc);
const [lower, params, picks] = [BATCH * VOCAB * 4, BATCH * stride, BATCH * PICK_BYTES].map(alloc);
const copy = alloc(backend.screenBytes(VOCAB, DIM));
const scratch = alloc(backend.scratchBytes(BATCH, DIM, 1, VOCAB));
const norm = { weight: alloc(DIM * 4), eps: 1e-5 };
write(norm.weight, new Float32Array(DIM).fill(1));
write(
  index,
  Int32Array.from({ length: BATCH }, (_, i) => i),
);
const row = new Uint8Array(stride);
writeParams(new DataView(row.buffer), resolveSampler({ temperature: 0, seed: 0 }, VOCAB), 0, [], 0);
for (let i = 0; i < BATCH; i++) backend.write(params, i * stride, row);

const build = backend.record(() => backend.ops.buildScreen({ w, copy, scratch }));
const started = performance.now();
await backend.run(build);
const buildMs = performance.now() - started;

const program = (outs, to, screen) =>
  backend.record(() => {
    backend.ops.head({ outs, index, x, norm, w, screen, logits: to, scratch });
    backend.ops.sample({ outs, vocab: VOCAB, logits: to, params, stride, picks, scratch });
  });
const screen = { copy, lower, params, stride };
const [one, oneExact] = [program(1, logits, screen), program(1, exact, undefined)];
const [many, manyExact] = [program(BATCH, logits, screen), program(BATCH, exact, undefined)];

const pickOf = async (run) => {
  await backend.run(run);
  const bytes = new Uint8Array(BATCH * PICK_BYTES);
  await backend.read(picks, 0, bytes);
  return new DataView(bytes.buffer);
};
const read = async (tensor) => {
  const z = new Float32Array(VOCAB);
  await backend.read(tensor, 0, new Uint8Array(z.buffer));
  return z;
};

let [equal, total] = [0, 0];
const [rescored, ratios, times] = [[], [], []];
for (; total < Number(values.states); total += BATCH) {
  const hidden = new Float32Array(BATCH * DIM).map(normal);
  for (let i = DIM; i < hidden.length; i += 2 * DIM) for (let k = 0; k < DIM; k += 500) hidden[i + k] *= 30;
  write(x, hidden);
  const [a, b] = [await pickOf(many), await pickOf(manyExact)];
  for (let i = 0; i < BATCH; i++) {
    const at = i * PICK_BYTES;
    if (a.getInt32(at, true) === b.getInt32(at, true) && a.getFloat32(at + 4, true) === b.getFloat32(at + 4, true))
      equal++;
  }
  const [s, e] = [await read(logits), await read(exact)];
  rescored.push(s.reduce((n, z, i) => n + (z === e[i] ? 1 : 0), 0));
  // The same for one row, as in decoding: in turn.
  const start = performance.now();
  await backend.run(one);
  const middle = performance.now();
  await backend.run(oneExact);
  const end = performance.now();
  times.push(middle - start);
  ratios.push((end - middle) / (middle - start));
}
console.log(machine());
console.log(
  `${backend.name}; the copy of the head: ${(copy.bytes / 1e6).toFixed(0)} MB, made in ${buildMs.toFixed(0)} ms`,
);
console.log(
  '| states | same token and logit | rows computed exactly, median | most | ms a token | exact head / screened |',
);
console.log('|--:|--:|--:|--:|--:|--:|');
console.log(
  `| ${total} | ${equal} | ${median(rescored)} of ${VOCAB} | ${Math.max(...rescored)} | ${median(times).toFixed(1)} | ${median(ratios).toFixed(2)} |`,
);
await backend.dispose();
process.exitCode = equal === total ? 0 : 1;
