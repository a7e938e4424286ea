// Tokens a second of greedy decoding, beside what the machine's memory allows on as many threads.
//
// usage: npm run bench -- decode [MODEL] [--threads 1,2] [--tokens 48] [--runs 5] [--tiers relaxed,simd|auto] [--head auto,exact]
//
// Models of all tiers and heads are open at once and take turns, each turn after passes over memory by the bandwidth probe:
// shares of bandwidth and ratios are medians over turns that lie next to each other.
import { parseArgs } from 'node:util';
import { openBandwidthProbe, pairedRatio, summary } from './machine.mjs';
import { bytesPerToken, GREEDY, modelArgument, modelCosts, openAll, promptOf } from './model.mjs';
import { barChart, COLOR, numbers, percent, progress, short, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1,2' },
    tokens: { type: 'string', default: '48' },
    runs: { type: 'string', default: '5' },
    tiers: { type: 'string', default: 'auto' },
    head: { type: 'string', default: 'auto' },
  },
});
const file = modelArgument(positionals);
const tokens = Number(values.tokens);
const runs = Number(values.runs);
const PROMPT = 8;
const costs = await modelCosts(file);
const rows = [];
const notes = [];
let report;
let name;

for (const threads of numbers(values.threads)) {
  const kinds = values.tiers
    .split(',')
    .flatMap((tier) => values.head.split(',').map((head) => ({ threads, tier, head })));
  const open = await openAll(file, kinds, notes);
  if (open.length === 0) continue;
  const probe = await openBandwidthProbe(threads);
  name ??= open[0].model.info.name;
  report ??= startReport(`decode-${name}`);
  const burst = async ({ model }, n) => {
    const { timings } = await model.complete(promptOf(PROMPT, model.info.vocab), { ...GREEDY, maxTokens: n + 1 });
    return timings.generatedPerSecond; // of the tokens after the first
  };
  for (const one of open) {
    Object.assign(one, { rates: [], reads: [] });
    await burst(one, Math.min(tokens, 16)); // warm
  }
  for (let run = 0; run < runs; run++) {
    for (const one of open) {
      progress(`${threads} threads, ${one.tier}: run ${run + 1} of ${runs}`);
      one.reads.push(await probe.read());
      one.rates.push(await burst(one, tokens));
    }
  }
  await probe.dispose();
  for (const { model, rates, reads, tier, head } of open) {
    const bytes = bytesPerToken(costs, model.info, PROMPT + tokens / 2);
    rows.push({
      ...{
        model: name,
        threads,
        tier: model.info.tier,
        wanted: tier,
        head: model.info.head ?? 'exact',
        wantedHead: head,
      },
      ...{ tokensPerSecond: summary(rates), bytesPerToken: bytes, readGBps: summary(reads) },
      share: pairedRatio(
        rates.map((rate) => (rate * bytes) / 1e9),
        reads,
      ),
      toFirst: pairedRatio(rates, open[0].rates),
    });
    await model.dispose();
  }
}
if (rows.length === 0) throw new Error(notes.join('\n'));

const megabytes = [...new Set(rows.map((r) => (r.bytesPerToken / 1e6).toFixed(0)))].join(' or ');
const label = (r) => `${r.threads} thread${r.threads > 1 ? 's' : ''}, ${r.tier}, ${r.head} head`;
await report.finish({
  columns: [
    ['threads, kernels, head', label],
    ['tokens/s', (r) => spread(r.tokensPerSecond)],
    ['n', (r) => r.tokensPerSecond.n],
    ['to the first of these threads', (r) => r.toFirst.toFixed(2)],
    ['MB a token', (r) => (r.bytesPerToken / 1e6).toFixed(r.bytesPerToken < 1e8 ? 2 : 0)],
    ['read GB/s', (r) => spread(r.readGBps)],
    ['best', (r) => short(r.readGBps.max)],
    ['share of bandwidth', (r) => percent(r.share)],
  ],
  rows,
  notes,
  chart: {
    title: `Decode speed of ${name}, tokens a second`,
    caption: `Grey: what reading ${megabytes} MB a token allows. Median of ${runs} runs of ${tokens} tokens; line: range.`,
    ...barChart(
      rows.map((r) => ({
        ...{ label: label(r), value: r.tokensPerSecond.median, min: r.tokensPerSecond.min, max: r.tokensPerSecond.max },
        limit: r.tokensPerSecond.median / r.share,
        color: COLOR.ours,
        text: `${short(r.tokensPerSecond.median)}, ${percent(r.share)} of bandwidth`,
      })),
      'tokens/s',
    ),
  },
});
