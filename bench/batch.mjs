// Many sequences decoding at once: what all get together, and each one.
//
// usage: npm run bench -- batch [MODEL] [--sequences 1,2,4,8,16] [--threads 2] [--tokens 32] [--runs 5] [--tier auto]
//
// Counted are the tokens between the moment at which every sequence has its first one and that at which one has its last, so
// that prompts and stragglers do not count. All counts take turns on one model.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { pairedRatio, summary } from './machine.mjs';
import { GREEDY, modelArgument, openAll, promptOf } from './model.mjs';
import { COLOR, lineChart, numbers, progress, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sequences: { type: 'string', default: '1,2,4,8,16' },
    threads: { type: 'string', default: String(availableParallelism()) },
    tokens: { type: 'string', default: '32' },
    runs: { type: 'string', default: '5' },
    tier: { type: 'string', default: 'auto' },
  },
});
const counts = numbers(values.sequences);
const threads = Number(values.threads);
const tokens = Number(values.tokens);
const runs = Number(values.runs);
const PROMPT = 4;
const parallel = Math.max(...counts);
// The prompts of all go in before the first may end, while its own go on.
const maxTokens = tokens + parallel + 1;
const options = { threads, tier: values.tier, parallel, contextSize: PROMPT + maxTokens };
const notes = [];
const [opened] = await openAll(modelArgument(positionals), [options], notes);
if (opened === undefined) throw new Error(notes.join('\n'));
const { model } = opened;
const { name, vocab, tier } = model.info;
const report = startReport(`batch-${name}`);

/** Tokens a second of `count` sequences together. */
async function together(count) {
  const times = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const at = [];
      for await (const _ of model.generate(promptOf(PROMPT, vocab, i * PROMPT), { ...GREEDY, maxTokens })) {
        at.push(performance.now());
      }
      return at;
    }),
  );
  const from = Math.max(...times.map((at) => at[0]));
  const to = Math.min(...times.map((at) => at.at(-1)));
  return (times.flat().filter((at) => at > from && at <= to).length * 1000) / (to - from);
}

await together(parallel); // warm
const rates = counts.map(() => []);
for (let run = 0; run < runs; run++) {
  for (const [i, count] of counts.entries()) {
    progress(`${count} sequences: run ${run + 1} of ${runs}`);
    rates[i].push(await together(count));
  }
}
await model.dispose();
const rows = counts.map((sequences, i) => ({
  ...{ model: name, threads, tier, sequences, tokensPerSecond: summary(rates[i]) },
  eachTokensPerSecond: summary(rates[i].map((rate) => rate / sequences)),
  speedUp: pairedRatio(rates[i], rates[0]),
}));

await report.finish({
  columns: [
    ['sequences', (r) => r.sequences],
    ['all, tokens/s', (r) => spread(r.tokensPerSecond)],
    ['each, tokens/s', (r) => spread(r.eachTokensPerSecond)],
    ['n', (r) => r.tokensPerSecond.n],
    [`to ${counts[0]}`, (r) => r.speedUp.toFixed(2)],
  ],
  rows,
  notes,
  chart: {
    title: `Sequences decoding at once, ${name}: tokens a second`,
    caption: `${threads} threads, ${tier} kernels; above a point: the gain over ${counts[0]} sequence${counts[0] > 1 ? 's' : ''}. Medians of ${runs} runs.`,
    ...lineChart(
      rows.flatMap((r) => [
        { x: r.sequences, y: r.tokensPerSecond.median, text: `${r.speedUp.toFixed(1)}×`, line: 'all together' },
        { x: r.sequences, y: r.eachTokensPerSecond.median, text: '', line: 'each one', color: COLOR.other },
      ]),
      { x: 'sequences at once', y: 'tokens/s', log: true, values: counts },
    ),
  },
});
