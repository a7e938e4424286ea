// What generating allocates on the JavaScript heap a token, in steady state, beside handing the token out.
//
// usage: npm run bench -- heap [MODEL] [--tokens N] [--threads N] [--prompt N]
//
// The same loop over an async generator that yields equal token objects and does nothing else is the baseline: token
// object, promises and iterator results are what `for await` costs. A run in which the collector ran is not counted.
// Then how long the event loop of the caller is held up at most, with a prompt of --prompt tokens and some decoding.

import { PerformanceObserver } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { demoModel, loadModel } from '../dist/index.js';
import { machine, median } from './machine.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string', default: '200' },
    threads: { type: 'string', default: '2' },
    prompt: { type: 'string', default: '400' },
  },
});
const tokens = Number(values.tokens);
const RUNS = 7;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
let collections = 0;
new PerformanceObserver((list) => {
  collections += list.getEntries().length;
}).observe({ entryTypes: ['gc'] });
const turn = () => new Promise((resolve) => setTimeout(resolve, 20));

/** [bytes allocated, bytes still held after a collection] a token, of a fresh iteration. */
async function measure(open) {
  const allocated = [];
  const held = [];
  while (allocated.length < RUNS) {
    const iterator = open();
    for (let i = 0; i < 20; i++) await iterator.next(); // steady state
    collect();
    await turn();
    const before = process.memoryUsage().heapUsed;
    const collectionsBefore = collections;
    for (let i = 0; i < tokens; i++) await iterator.next();
    const after = process.memoryUsage().heapUsed;
    await turn();
    const disturbed = collections !== collectionsBefore;
    collect();
    await turn();
    if (!disturbed) {
      allocated.push((after - before) / tokens);
      held.push((process.memoryUsage().heapUsed - before) / tokens);
    }
    await iterator.return();
  }
  return [median(allocated), median(held)];
}

async function* baseline() {
  for (let id = 0; ; id++) {
    await new Promise((resolve) => setImmediate(resolve));
    yield { id, text: ' word', probability: 0.5 + id, logit: 1.5 + id, isEos: false };
  }
}

/** Largest ms between two turns of the event loop that stand a ms apart, while `work` runs. */
async function largestGap(work) {
  let largest = 0;
  let last = performance.now();
  const probe = setInterval(() => {
    const now = performance.now();
    largest = Math.max(largest, now - last - 1);
    last = now;
  }, 1);
  await work();
  clearInterval(probe);
  return largest;
}

const model = await loadModel(positionals[0] ?? demoModel, { threads: Number(values.threads) });
const options = { seed: 1, ignoreEos: true, maxTokens: tokens + 40 };
const rows = [
  ['for await alone', ...(await measure(baseline))],
  [`generate, ${model.info.name}`, ...(await measure(() => model.generate('Once upon a time', options)))],
];
console.log(machine());
console.log(`${model.info.backend}, ${tokens} tokens a run, median of ${RUNS} runs`);
console.log('| | bytes allocated a token | bytes held a token |');
console.log('|---|--:|--:|');
for (const [name, allocated, held] of rows) console.log(`| ${name} | ${allocated.toFixed(0)} | ${held.toFixed(1)} |`);

const prompt = Array.from({ length: Number(values.prompt) }, (_, i) => 10 + (i % 200));
const gaps = [];
for (let run = 0; run < 3; run++) {
  const start = performance.now();
  const busy = await largestGap(() => model.complete(prompt, { ...options, maxTokens: 8 }));
  const ms = performance.now() - start;
  gaps.push([busy, await largestGap(() => new Promise((resolve) => setTimeout(resolve, ms)))]);
}
const list = (i) => gaps.map((gap) => gap[i].toFixed(1)).join(', ');
console.log(
  `largest gap between turns of the event loop in ms, ${prompt.length} + 8 tokens: ${list(0)}; idle: ${list(1)}`,
);
await model.dispose();
