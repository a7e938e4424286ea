// node bench/device.mjs [--adapter NAME]
// What an adapter is, and what commands cost on it whatever they compute: a dispatch that waits for the one before, a
// submit, and the way back of 16 bytes.
import { parseArgs } from 'node:util';
import { openDevice } from '../dist/device.js';

const { values } = parseArgs({ options: { adapter: { type: 'string' } } });
const { device, info } = await openDevice({ adapter: values.adapter, profile: true });
const median = (x) => x.toSorted((a, b) => a - b)[Math.floor(x.length / 2)];
console.log(`adapter ${info.adapter}; ${info.why.join('; ')}`);
console.log(`features ${[...device.features].sort().join(' ')}`);

const code = `
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3<u32>) { words[id.x] += 1u; }`;
const words = device.createBuffer({ size: 1024, usage: 0x80 | 0x04 | 0x08 });
const module = device.createShaderModule({ code });
// Two, as neighbours in a model differ.
const pipelines = [0, 1].map(() => device.createComputePipeline({ layout: 'auto', compute: { module } }));
const groups = pipelines.map((pipeline) => {
  const entries = [{ binding: 0, resource: { buffer: words } }];
  return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
});

function commands(dispatches, encoder = device.createCommandEncoder()) {
  const pass = encoder.beginComputePass();
  for (let i = 0; i < dispatches; i++) {
    pass.setPipeline(pipelines[i % 2]);
    pass.setBindGroup(0, groups[i % 2]);
    pass.dispatchWorkgroups(1);
  }
  pass.end();
  return encoder.finish();
}

/** Median us of `work` until the device is done with it; of the host alone, until `work` returns. */
async function timeOf(work, rounds = 20) {
  const all = [];
  const host = [];
  for (let round = 0; round < rounds + 3; round++) {
    const began = performance.now();
    work();
    host.push(performance.now() - began);
    await device.queue.onSubmittedWorkDone();
    all.push(performance.now() - began);
  }
  return { all: 1000 * median(all.slice(3)), host: 1000 * median(host.slice(3)) };
}

const submit = (dispatches, submits = 1) => {
  for (let i = 0; i < submits; i++) device.queue.submit([commands(dispatches)]);
};
const back = device.createBuffer({ size: 16, usage: 0x01 | 0x08 });
async function roundTrip() {
  const began = performance.now();
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(words, 0, back, 0, 16);
  device.queue.submit([commands(1, encoder)]);
  await back.mapAsync(1);
  back.unmap();
  return 1000 * (performance.now() - began);
}

const [few, many] = [await timeOf(() => submit(100)), await timeOf(() => submit(2100))];
const [one, hundred] = [await timeOf(() => submit(1)), await timeOf(() => submit(1, 101))];
const trips = [];
for (let i = 0; i < 100; i++) trips.push(await roundTrip());
const row = (what, us, host) => ({ what, us: us.toFixed(2), 'of the host': host?.toFixed(2) });
console.table([
  row('an empty dispatch that waits for another', (many.all - few.all) / 2000, (many.host - few.host) / 2000),
  row('a further submit of one', (hundred.all - one.all) / 100, (hundred.host - one.host) / 100),
  row('a submit of one, until it is known to be done', one.all, one.host),
  row('16 bytes to the host, a submit of one before', median(trips.slice(10))),
]);
device.destroy();
process.exit(0);
