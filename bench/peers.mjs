// This engine beside others on one machine: greedy decoding and reading a prompt, tokens a second.
//
// usage: npm run bench -- peers MODEL_I2S MODEL_TQ2 [--threads 1,2] [--prompt 128] [--tokens 48] [--runs 5] [--node PATH]
//                               [--tier auto] [--head auto] [--wllama] [--wllama-tokens 8] [--wllama-prompt 16]
//
// The others do not read I2_S: `ternlm convert MODEL_I2S MODEL_TQ2 --type tq2_0` makes what they do. MODEL_I2S may be of any
// format, the same file as well. The others are no part of the project: `npm install --prefix bench/peers` gets them. Each engine stays loaded in a process of its own and
// computes only when told to, all in turns; ratios are medians over the turns. --node runs the processes with another Node.
// llama.cpp's threads spin while they wait for each other: on a busy machine two of them are slower than one.
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { pairedRatio, summary } from './machine.mjs';
import { modelCosts, promptOf } from './model.mjs';
import { ask, launch } from './peers/launch.mjs';
import { barChart, COLOR, numbers, progress, short, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1,2' },
    prompt: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '48' },
    runs: { type: 'string', default: '5' },
    node: { type: 'string', default: process.execPath },
    tier: { type: 'string', default: 'auto' },
    head: { type: 'string', default: 'auto' },
    wllama: { type: 'boolean', default: false },
    'wllama-tokens': { type: 'string', default: '8' },
    'wllama-prompt': { type: 'string', default: '16' },
  },
});
const [i2s, tq2] = positionals;
if (tq2 === undefined) {
  process.stderr.write('usage: npm run bench -- peers MODEL_I2S MODEL_TQ2 [--threads 1,2] [--node PATH] [--wllama]\n');
  process.exit(1);
}
const prompt = Number(values.prompt);
const tokens = Number(values.tokens);
const runs = Number(values.runs);
const SHORT = 8; // tokens before those that decoding counts
const slow = { prompt: Number(values['wllama-prompt']), tokens: Number(values['wllama-tokens']) };
const engines = [
  { name: 'ternlm', model: i2s, prompt, tokens },
  { name: 'node-llama-cpp', model: tq2, prompt, tokens },
  ...(values.wllama ? [{ name: 'wllama', scope: '@wllama/', model: tq2, ...slow }] : []),
];
const notes = values.wllama ? [] : ['Left out: wllama; --wllama measures it in Chromium.'];
const installed = engines.filter(({ name, scope = '' }) => {
  if (name === 'ternlm' || existsSync(new URL(`peers/node_modules/${scope}${name}/package.json`, import.meta.url)))
    return true;
  notes.push(`Left out: ${name} is not installed; \`npm install --prefix bench/peers\` gets it.`);
  return false;
});

/** Starts an engine's process, loads its model and runs each test once. */
async function start(engine, threads) {
  const child = launch(engine.name, values.node);
  const contextSize = 256 * Math.ceil((Math.max(prompt, SHORT + tokens) + 1) / 256);
  const { tier, head } = values;
  try {
    const { label } = await ask(child, { model: engine.model, threads, contextSize, tier, head });
    const one = { ...engine, child, threads, label, rates: { decode: [], prompt: [] } };
    for (const test of ['decode', 'prompt']) await measure(one, test);
    return one;
  } catch (error) {
    child.disconnect();
    throw error;
  }
}

const count = (threads) => `${threads} thread${threads > 1 ? 's' : ''}`;
const { vocab } = await modelCosts(i2s);
const measure = async ({ child, ...engine }, test) => {
  const ids = [...promptOf(test === 'prompt' ? engine.prompt : SHORT, vocab)];
  return (await ask(child, { test, ids, tokens: engine.tokens })).perSecond;
};
const report = startReport('peers');
const rows = [];
for (const threads of numbers(values.threads)) {
  const open = [];
  try {
    for (const engine of installed) {
      progress(`${threads} threads: ${engine.name} loads`);
      try {
        open.push(await start(engine, threads));
      } catch (error) {
        if (engine.name === 'ternlm') throw error;
        notes.push(`Left out: ${engine.name} with ${count(threads)}: ${error.message.split('\n')[0]}`);
      }
    }
    for (let run = 0; run < runs; run++) {
      for (const test of ['decode', 'prompt']) {
        for (const one of open) {
          progress(`${threads} threads, ${test}, ${one.name}: run ${run + 1} of ${runs}`);
          one.rates[test].push(await measure(one, test));
        }
      }
    }
  } finally {
    for (const { child } of open) child.disconnect();
  }
  for (const test of ['decode', 'prompt']) {
    for (const { name, label, rates, ...engine } of open) {
      rows.push({
        ...{ engine: name, label, threads, test, tokens: test === 'decode' ? engine.tokens : engine.prompt },
        ...{ tokensPerSecond: summary(rates[test]), ternlmTo: pairedRatio(open[0].rates[test], rates[test]) },
      });
    }
  }
}

await report.finish({
  columns: [
    ['engine', (r) => r.label],
    ['threads', (r) => r.threads],
    ['test', (r) => `${r.test}, ${r.tokens} tokens`],
    ['tokens/s', (r) => spread(r.tokensPerSecond)],
    ['n', (r) => r.tokensPerSecond.n],
    ['ternlm / it', (r) => r.ternlmTo.toFixed(2)],
  ],
  rows,
  notes,
  chart: {
    title: 'Engines on one machine, tokens a second',
    caption: [
      [...new Set(rows.map((r) => r.label))].join('; '),
      `Ternary models of one shape: I2_S (ternlm), TQ2_0 (others). Median of ${runs} alternating runs; line: range.`,
    ],
    ...barChart(
      ['decode', 'prompt'].flatMap((test) =>
        rows
          .filter((r) => r.test === test)
          .map((r) => ({
            group: test === 'decode' ? 'Writing text' : `Reading a prompt of ${prompt} tokens`,
            ...{ label: `${r.engine}, ${count(r.threads)}`, value: r.tokensPerSecond.median },
            ...{ min: r.tokensPerSecond.min, max: r.tokensPerSecond.max },
            color: r.engine === 'ternlm' ? COLOR.ours : COLOR.other,
            text: `${short(r.tokensPerSecond.median)}${test === 'decode' || r.tokens === prompt ? '' : ` on ${r.tokens} tokens`}${r.engine === 'ternlm' ? '' : `; ternlm ${r.ternlmTo.toFixed(2)}×`}`,
          })),
      ),
      'tokens/s',
    ),
  },
});
