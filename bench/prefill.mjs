// Tokens a second of reading a prompt, and what that is in multiplications of the ternary matrices.
//
// usage: npm run bench -- prefill [MODEL] [--prompt 128,512] [--threads 1,2] [--runs 5] [--tier auto]
//
// The time is that to the first token, the output head for that one token included. All thread counts and lengths take turns.
import { parseArgs } from 'node:util';
import { pairedRatio, summary } from './machine.mjs';
import { GREEDY, modelArgument, modelCosts, openAll, promptOf } from './model.mjs';
import { barChart, COLOR, numbers, progress, short, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: 'string', default: '128,512' },
    threads: { type: 'string', default: '1,2' },
    runs: { type: 'string', default: '5' },
    tier: { type: 'string', default: 'auto' },
  },
});
const file = modelArgument(positionals);
const lengths = numbers(values.prompt);
const runs = Number(values.runs);
const { ternaryMacs } = await modelCosts(file);
const notes = [];
const contextSize = Math.max(...lengths) + 1;
const kinds = numbers(values.threads).map((threads) => ({ threads, tier: values.tier, contextSize, parallel: 1 }));
const open = await openAll(file, kinds, notes);
if (open.length === 0) throw new Error(notes.join('\n'));
const { name, vocab } = open[0].model.info;
const report = startReport(`prefill-${name}`);

const measured = open.flatMap((one) => lengths.map((length) => ({ ...one, length, rates: [] })));
const read = async ({ model }, length) => {
  const { timings } = await model.complete(promptOf(length, vocab), { ...GREEDY, maxTokens: 1 });
  return timings.promptPerSecond;
};
for (const one of open) await read(one, Math.min(...lengths)); // warm
for (let run = 0; run < runs; run++) {
  for (const one of measured) {
    progress(`${one.threads} threads, ${one.length} tokens: run ${run + 1} of ${runs}`);
    one.rates.push(await read(one, one.length));
  }
}
const rows = measured.map(({ model, threads, length, rates }) => {
  const oneThread = measured.find((other) => other.length === length);
  const tokensPerSecond = summary(rates);
  return {
    ...{ model: name, threads, tier: model.info.tier, promptTokens: length, tokensPerSecond },
    gmacPerSecond: (tokensPerSecond.median * ternaryMacs) / 1e9,
    toFirst: pairedRatio(rates, oneThread.rates),
  };
});
for (const { model } of open) await model.dispose();

const threadsOf = ({ threads }) => `${threads} thread${threads > 1 ? 's' : ''}`;
await report.finish({
  columns: [
    ['prompt, threads, kernels', (r) => `${r.promptTokens} tokens, ${threadsOf(r)}, ${r.tier}`],
    ['tokens/s', (r) => spread(r.tokensPerSecond)],
    ['n', (r) => r.tokensPerSecond.n],
    ['GMAC/s, ternary', (r) => short(r.gmacPerSecond)],
    [`to ${threadsOf(rows[0])}`, (r) => r.toFirst.toFixed(2)],
  ],
  rows,
  notes,
  chart: {
    title: `Reading a prompt with ${name}, tokens a second`,
    caption: `${rows[0].tier} kernels, warm, time to the first token. Median of ${runs} runs; line: range.`,
    ...barChart(
      [...rows]
        .sort((a, b) => a.promptTokens - b.promptTokens || a.threads - b.threads)
        .map((r) => ({
          ...{ label: `${r.promptTokens} tokens, ${threadsOf(r)}`, value: r.tokensPerSecond.median },
          ...{ min: r.tokensPerSecond.min, max: r.tokensPerSecond.max, color: COLOR.ours },
          text: `${short(r.tokensPerSecond.median)}, ${short(r.gmacPerSecond)} GMAC/s`,
        })),
      'tokens/s',
    ),
  },
});
