// node bench/decode.mjs [--layers N] [--vocab N] [--context N] [--tokens N] [--runs N] [--batches 1,8] [--prompt N]
//   [--adapter NAME] [--variants]
// A model of the shape of BitNet-b1.58-2B-4T, its weights made on the GPU: what compiling takes without the driver's
// cache, tokens a second by tokens a submit, of batches, far into a context and of a prompt, the share of the
// bandwidth that the adapter copies with, and time by stem. With --variants also the kernels for devices without
// subgroups, without packed dots.
import { parseArgs } from 'node:util';
import { createKvCache, kvBlocksOf } from '../../../dist/model/kv_cache.js';
import { createStepper } from '../../../dist/model/step.js';
import { paramsBytes, resolveSampler, writeParams } from '../../../dist/sampler.js';
import { backendOver } from '../dist/backend.js';
import { openDevice } from '../dist/device.js';

const { values } = parseArgs({
  options: {
    layers: { type: 'string', default: '30' },
    vocab: { type: 'string', default: '128256' },
    context: { type: 'string', default: '1024' },
    tokens: { type: 'string', default: '64' },
    runs: { type: 'string', default: '5' },
    batches: { type: 'string', default: '1,8' },
    prompt: { type: 'string', default: '512' },
    adapter: { type: 'string' },
    variants: { type: 'boolean', default: false },
  },
});
// Mesa's and NVIDIA's names for: no cache of compiled shaders on disk.
Object.assign(process.env, { MESA_SHADER_CACHE_DISABLE: '1', __GL_SHADER_DISK_CACHE: '0' });
const [layers, vocab, context, tokens, runs, prompt] = ['layers', 'vocab', 'context', 'tokens', 'runs', 'prompt'].map(
  (name) => Number(values[name]),
);
const [dim, ffnDim, heads, kvHeads, headDim] = [2560, 6912, 20, 5, 128];
const config = {
  ...{ architecture: 'bitnet-b1.58', name: 'synthetic', vocab, dim, layers, ffnDim, heads, kvHeads, headDim },
  ...{ ropeDim: headDim, ropeBase: 500_000, ropeFactor: 1, ropeStyle: 'neox', contextLength: 4096, eps: 1e-5 },
  ...{ activation: 'relu2', embeddingScale: 1, headTensor: 'token_embd.weight' },
};
const median = (x) => x.toSorted((a, b) => a - b)[Math.floor(x.length / 2)];

/** Codes 0, 1, 2 of I2_S, or halves of either sign around 2^-5, from a hash of the word's index. */
const FILL = `
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<uniform> p: vec4<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < arrayLength(&words); i += groups.x * 256u) {
    var h = (i + p.y) * 747796405u + 2891336453u;
    h = ((h >> ((h >> 28u) + 4u)) ^ h) * 277803737u;
    h = (h >> 22u) ^ h;
    let low = h & 0x55555555u;
    words[i] = select((h & 0x83ff83ffu) | 0x28002800u, low | ((h & 0xaaaaaaaau) & ~(low << 1u)), p.x == 0u);
  }
}`;

function filler(device) {
  const module = device.createShaderModule({ code: FILL });
  const pipeline = device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: 'main' } });
  const uniform = device.createBuffer({ size: 16, usage: 0x40 | 0x08 });
  let seed = 1;
  return (buffer, kind) => {
    const most = Math.floor(device.limits.maxStorageBufferBindingSize / 256) * 256;
    for (let offset = 0; offset < buffer.size; offset += most) {
      device.queue.writeBuffer(uniform, 0, Uint32Array.of(kind === 'codes' ? 0 : 1, seed++ * 7919, 0, 0));
      const size = Math.min(most, buffer.size - offset);
      const group = device.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: [
          { binding: 0, resource: { buffer, offset, size } },
          { binding: 1, resource: { buffer: uniform } },
        ],
      });
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(2048);
      pass.end();
      device.queue.submit([encoder.finish()]);
    }
  };
}

/** Bytes a second of a buffer read and another written, by the copies of the driver: the best of some. */
async function copyBandwidth(device) {
  const size = Math.min(256 << 20, device.limits.maxBufferSize);
  const [a, b] = [0, 1].map(() => device.createBuffer({ size, usage: 0x04 | 0x08 }));
  let best = 0;
  let copies = 1;
  for (let round = 0; round < 5; ) {
    const encoder = device.createCommandEncoder();
    for (let i = 0; i < copies; i++) encoder.copyBufferToBuffer(i % 2 ? b : a, 0, i % 2 ? a : b, 0, size);
    const started = performance.now();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    const ms = performance.now() - started;
    // Enough that the way to the device and back counts for little.
    if (ms < 50) copies *= 2;
    else {
      best = Math.max(best, (2 * copies * size) / (ms / 1000));
      round++;
    }
  }
  a.destroy();
  b.destroy();
  return best;
}

function synthetic(backend, fill) {
  const norm = (n) => {
    const weight = backend.alloc(4 * n);
    backend.write(weight, 0, new Uint8Array(new Float32Array(n).fill(1).buffer));
    return { weight, eps: 1e-5 };
  };
  const ternary = (rows, cols) => {
    const tensor = backend.alloc((rows * cols) / 4 + 32);
    fill(tensor.buffer, 'codes');
    backend.write(tensor, (rows * cols) / 4, new Uint8Array(Float32Array.of(0.02, 0, 0, 0, 0, 0, 0, 0).buffer));
    return { type: 'i2_s', rows, cols, tensor };
  };
  const [attnDim, kvDim] = [heads * headDim, kvHeads * headDim];
  const table = backend.alloc(vocab * dim * 2);
  fill(table.buffer, 'halves');
  return {
    layers: Array.from({ length: layers }, () => ({
      attnNorm: norm(dim),
      ...{ wq: ternary(attnDim, dim), wk: ternary(kvDim, dim), wv: ternary(kvDim, dim) },
      ...{ woNorm: norm(attnDim), wo: ternary(dim, attnDim) },
      ...{ ffnNorm: norm(dim), gate: ternary(ffnDim, dim), up: ternary(ffnDim, dim) },
      ...{ downNorm: norm(ffnDim), down: ternary(dim, ffnDim) },
    })),
    outputNorm: norm(dim),
    head: { type: 'f16', rows: vocab, cols: dim, tensor: table },
    embeddingType: 'f16',
    embedding: { tensor: table, rowBytes: 2 * dim, readRow() {} },
    ropeFreqs: undefined,
    screen: undefined,
  };
}

const { device, info, variant } = await openDevice({ adapter: values.adapter, profile: true });
const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
console.log(`adapter ${info.adapter}; ${info.why.join('; ')}`);
console.log(
  `buffers ${(maxBufferSize / 1e6).toFixed(0)} MB, bindings ${(maxStorageBufferBindingSize / 1e6).toFixed(0)} MB`,
);
const bandwidth = await copyBandwidth(device);
console.log(`copies ${(bandwidth / 1e9).toFixed(1)} GB/s (read and written)`);

/** Pipelines made, and when the last was there: they are made beside each other. */
const made = { count: 0, ended: 0 };
const create = device.createComputePipelineAsync.bind(device);
device.createComputePipelineAsync = async (descriptor) => {
  const pipeline = await create(descriptor);
  made.count++;
  made.ended = performance.now();
  return pipeline;
};

/** A model on a backend of its own over the one device. */
async function withModel({ profile = false, sequences = 1, ...wished }, work) {
  const backend = backendOver({ device, variant: { ...variant, ...wished }, info }, false, { profile });
  const weights = synthetic(backend, filler(device));
  const kv = createKvCache(backend, config, 'f16', context, sequences, kvBlocksOf(context) * sequences);
  const stride = paramsBytes(context + 1);
  const stepper = createStepper(backend, config, weights, kv, {
    maxRows: 64,
    maxOuts: sequences,
    paramsStride: stride,
  });
  const places = Array.from({ length: sequences }, () => {
    const place = kv.open();
    place.reserve(context);
    return place;
  });
  await device.queue.onSubmittedWorkDone();
  try {
    return await work(stepper, places, backend);
  } finally {
    await backend.dispose();
  }
}

const sampler = resolveSampler({ temperature: 0 }, vocab);

/** Decodes `count` tokens of each sequence from position `from` on, `repeats` a submit, two submits under way; ms. */
async function decode(stepper, places, count, repeats, from = 0) {
  for (const [i, place] of places.entries()) {
    stepper.tokens[i] = 1 + i;
    stepper.pos[i] = from;
    stepper.sequence[i] = place.row;
    stepper.index[i] = i;
    writeParams(stepper.params[i], sampler, 0, [], 0);
  }
  const started = performance.now();
  let begun = 0;
  let ended = 0;
  await new Promise((resolve, reject) => {
    const go = () => {
      const n = Math.min(repeats, count - begun);
      const done = (error) => {
        if (error) return reject(error);
        ended += n;
        if (begun < count) go();
        else if (ended === count) resolve();
      };
      if (begun === 0) stepper.start(places.length, places.length, true, n, done);
      else stepper.again(n, done);
      begun += n;
    };
    go();
    if (begun < count) go();
  });
  return performance.now() - started;
}

async function prefill(stepper, [place], count) {
  const started = performance.now();
  for (let at = 0; at < count; at += 64) {
    const rows = Math.min(64, count - at);
    for (let i = 0; i < rows; i++) {
      stepper.tokens[i] = 1 + ((at + i) % 1000);
      stepper.pos[i] = at + i;
      stepper.sequence[i] = place.row;
    }
    await stepper.run(rows, 0, false);
  }
  return performance.now() - started;
}

/** The first token, for which pipelines are made: some drivers compile then, others at the first dispatch. */
async function warm(name, stepper, places) {
  const began = performance.now();
  Object.assign(made, { count: 0, ended: began });
  await decode(stepper, places, 1, 1);
  const [pipelines, all] = [made.ended, performance.now()].map((at) => (at - began).toFixed(0));
  console.log(`${name}: first token after ${all} ms, its ${made.count} new pipelines after ${pipelines} ms`);
}

const medianOf = async (measure) => {
  const ms = [];
  for (let run = 0; run < runs; run++) ms.push(await measure());
  return median(ms);
};

const weightBytes = (layers * (2 * dim * dim + 2 * dim * kvHeads * headDim + 3 * dim * ffnDim)) / 4;
const headBytes = vocab * dim * 2;

/** At once, as a driver may need longer than there is time for. */
const say = (what, perSecond, more = '') => {
  console.log(`${what.padEnd(48)} ${perSecond.toFixed(perSecond < 10 ? 3 : 1).padStart(8)} tokens/s${more}`);
};

async function addDecode(name, stepper, places, repeats, from = 0) {
  const ms = await medianOf(() => decode(stepper, places, tokens, repeats, from));
  const read = ((weightBytes + headBytes) * tokens) / (ms / 1000);
  const share = `${(read / 1e9).toFixed(1)} GB/s of weights, ${((100 * read) / bandwidth).toFixed(1)}% of copying`;
  say(
    `${name}, ${repeats} a submit`,
    (1000 * tokens * places.length) / ms,
    `, ${(ms / tokens).toFixed(3)} ms a step, ${share}`,
  );
}

async function addPrompt(name, stepper, places) {
  if (prompt === 0) return;
  await prefill(stepper, places, Math.min(prompt, 64));
  const ms = await medianOf(() => prefill(stepper, places, prompt));
  say(`${name} of ${prompt}`, (1000 * prompt) / ms);
}

for (const sequences of values.batches.split(',').map(Number)) {
  await withModel({ sequences }, async (stepper, places) => {
    const name = `batch ${sequences}`;
    await warm(name, stepper, places);
    for (const repeats of [1, 4, 16]) await addDecode(name, stepper, places, repeats);
    if (sequences > 1) return;
    await addDecode(`${name} from position ${context - tokens}`, stepper, places, 16, context - tokens);
    await addPrompt('prompt', stepper, places);
  });
}
const others = [
  { dot: variant.dot, subgroup: 0 },
  { dot: 'float', subgroup: variant.subgroup },
  { dot: 'float', subgroup: 0 },
].filter(({ dot, subgroup }) => dot !== variant.dot || subgroup !== variant.subgroup);
for (const wished of values.variants ? others : []) {
  const name = `dot ${wished.dot}, subgroups ${wished.subgroup}`;
  await withModel(wished, async (stepper, places) => {
    await warm(name, stepper, places);
    await addDecode(name, stepper, places, 16);
    await addPrompt(`${name}: prompt`, stepper, places);
  });
}

/** What ran since `before`, `times` times, by stem; with the bytes of weights that a stem reads each time. */
function tell(what, backend, before, times, bytes = {}) {
  const spent = backend.profile().map(({ stem, ms, dispatches }) => {
    const earlier = before.find((row) => row.stem === stem) ?? { ms: 0, dispatches: 0 };
    return { stem, us: 1000 * (ms - earlier.ms), dispatches: dispatches - earlier.dispatches };
  });
  const ran = spent.filter(({ dispatches }) => dispatches > 0).sort((a, b) => b.us - a.us);
  const total = (key) => ran.reduce((sum, row) => sum + row[key], 0) / times;
  console.log(`${what}: ${total('dispatches')} dispatches, ${total('us').toFixed(0)} us in them`);
  console.table(
    ran.map(({ stem, us, dispatches }) => ({
      stem,
      dispatches: dispatches / times,
      us: (us / times).toFixed(1),
      'us each': (us / dispatches).toFixed(2),
      'GB/s of weights': bytes[stem] && ((bytes[stem] * times) / us / 1e3).toFixed(1),
    })),
  );
}
await withModel({ profile: true }, async (stepper, places, backend) => {
  await decode(stepper, places, 1, 1);
  const count = Math.min(tokens, 16);
  const kvDim = kvHeads * headDim;
  const attnDim = heads * headDim;
  const bytes = {
    qkv: (layers * dim * (attnDim + 2 * kvDim)) / 4,
    attn_out: (layers * attnDim * dim) / 4,
    gate_up: (layers * 2 * dim * ffnDim) / 4,
    down: (layers * ffnDim * dim) / 4,
    dense_linear: headBytes,
  };
  let before = backend.profile();
  await decode(stepper, places, count, 1);
  tell('a token', backend, before, count, bytes);
  const far = context - count;
  before = backend.profile();
  await decode(stepper, places, count, 1, far);
  tell(`a token from position ${far} on`, backend, before, count, bytes);
  if (prompt === 0) return;
  const piece = Math.min(prompt, 64);
  await prefill(stepper, places, piece);
  before = backend.profile();
  await prefill(stepper, places, piece);
  tell(`${piece} rows of a prompt`, backend, before, 1);
});
device.destroy();
process.exit(0);
