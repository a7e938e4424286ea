// Decoding speed deep in a context: attention reads more keys and values with each position.
//
// usage: npm run bench -- context [MODEL] [--positions 0,512,1024,2048,4095] [--threads 2] [--tokens 16] [--runs 3] [--tier auto]
//
// Each run reads a prompt of so many tokens again. Right after it the empty context is measured, and ratios are of such pairs.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { pairedRatio, summary } from './machine.mjs';
import { GREEDY, modelArgument, openAll, promptOf } from './model.mjs';
import { lineChart, numbers, percent, progress, short, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    positions: { type: 'string', default: '0,512,1024,2048,4095' },
    threads: { type: 'string', default: String(availableParallelism()) },
    tokens: { type: 'string', default: '16' },
    runs: { type: 'string', default: '3' },
    tier: { type: 'string', default: 'auto' },
  },
});
const depths = numbers(values.positions);
const threads = Number(values.threads);
const tokens = Number(values.tokens);
const runs = Number(values.runs);
const options = { threads, tier: values.tier, parallel: 1, contextSize: Math.max(...depths) + tokens + 1 };
const notes = [];
const [opened] = await openAll(modelArgument(positionals), [options], notes);
if (opened === undefined) throw new Error(notes.join('\n'));
const { model } = opened;
const { name, vocab, tier, kv, kvBytes, contextSize, warnings } = model.info;
const report = startReport(`context-${name}`);

/** Tokens a second behind a prompt of so many tokens; an empty one has its first token, which nothing comes before. */
async function at(depth) {
  const { timings } = await model.complete(promptOf(Math.max(1, depth), vocab), { ...GREEDY, maxTokens: tokens + 1 });
  return timings.generatedPerSecond;
}

await at(0); // warm
const deep = depths.map(() => []);
const empty = depths.map(() => []);
for (let run = 0; run < runs; run++) {
  for (const [i, depth] of depths.entries()) {
    progress(`position ${depth}: run ${run + 1} of ${runs}`);
    deep[i].push(await at(depth));
    empty[i].push(await at(0));
  }
}
await model.dispose();
const rows = depths.map((position, i) => ({
  ...{
    model: name,
    threads,
    tier,
    kv,
    position,
    tokensPerSecond: summary(deep[i]),
    toEmpty: pairedRatio(deep[i], empty[i]),
  },
  kvBytes: (position * kvBytes) / contextSize,
}));

const labelOf = (r) => `${short(r.tokensPerSecond.median)}, ${percent(r.toEmpty)}`;
await report.finish({
  columns: [
    ['position', (r) => r.position],
    ['tokens/s', (r) => spread(r.tokensPerSecond)],
    ['n', (r) => r.tokensPerSecond.n],
    ['to empty', (r) => r.toEmpty.toFixed(2)],
    [`${kv} keys and values, MB`, (r) => (r.kvBytes / 1e6).toFixed(r.kvBytes < 1e7 ? 2 : 0)],
  ],
  rows,
  notes: [...notes, ...warnings],
  chart: {
    title: `Decode speed of ${name} deep in a context, tokens a second`,
    caption: [
      `${threads} threads, ${tier} kernels, keys and values in ${kv}. Medians of ${runs} runs of ${tokens} tokens.`,
      'At a point: tokens a second, and the share of what an empty context gives in the same minute.',
    ],
    ...lineChart(
      rows.map((r) => ({ x: r.position, y: r.tokensPerSecond.median, text: labelOf(r), line: name })),
      { x: 'position', y: 'tokens/s', values: depths, place: { align: 'left', dx: 6, dy: -12 } },
    ),
  },
});
