// One model in every ternary format: tokens a second of decoding and of reading a prompt.
//
// usage: npm run bench -- formats MODEL [--types i2_s,tl1,tl2,tq1_0,tq2_0] [--repack auto,none] [--tiers auto] [--threads 1]
//                               [--prompt 64] [--tokens 32] [--runs 5] [--dir FOLDER]
//
// `ternlm convert` makes the other formats of the model, beside it or in --dir, where they are not there yet: of the 2B-4T shape
// 1.1 GB each. `auto` repacks what is computed faster in another layout, `none` computes from the file's bytes. All models take
// turns; ratios to the first are medians over turns that lie next to each other.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pairedRatio, summary } from './machine.mjs';
import { GREEDY, openAll, promptOf } from './model.mjs';
import { barChart, COLOR, numbers, progress, short, spread, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    types: { type: 'string', default: 'i2_s,tl1,tl2,tq1_0,tq2_0' },
    repack: { type: 'string', default: 'auto,none' },
    tiers: { type: 'string', default: 'auto' },
    threads: { type: 'string', default: '1' },
    prompt: { type: 'string', default: '64' },
    tokens: { type: 'string', default: '32' },
    runs: { type: 'string', default: '5' },
    dir: { type: 'string' },
  },
});
const [model] = positionals;
if (model === undefined) {
  process.stderr.write(
    'usage: npm run bench -- formats MODEL [--types i2_s,tl1,…] [--repack auto,none] [--dir FOLDER]\n',
  );
  process.exit(1);
}
const [prompt, tokens, runs] = [values.prompt, values.tokens, values.runs].map(Number);
const SHORT = 8;

/** The model in a format, made if it is not there yet. */
function fileOf(type) {
  const stem = basename(model, '.gguf').replace(/-(i2_s|tl1|tl2|tq1_0|tq2_0)$/, '');
  const file = join(values.dir ?? dirname(model), `${stem}-${type}.gguf`);
  if (existsSync(file)) return file;
  const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const { status } = spawnSync(process.execPath, [cli, 'convert', model, file, '--type', type], { stdio: 'inherit' });
  if (status !== 0) throw new Error(`${file}: ternlm convert failed`);
  return file;
}

const notes = [];
const rows = [];
const report = startReport('formats');
const types = values.types.split(',');
const files = types.map(fileOf);
const measure = {
  async decode({ model }) {
    const { timings } = await model.complete(promptOf(SHORT, model.info.vocab), { ...GREEDY, maxTokens: tokens + 1 });
    return timings.generatedPerSecond;
  },
  async prompt({ model }) {
    const { timings } = await model.complete(promptOf(prompt, model.info.vocab), { ...GREEDY, maxTokens: 1 });
    return timings.promptPerSecond;
  },
};

const touch = ({ model }) => model.complete(promptOf(1, model.info.vocab), { ...GREEDY, maxTokens: 2 });

for (const threads of numbers(values.threads)) {
  for (const tier of values.tiers.split(',')) {
    const open = [];
    for (const [i, type] of types.entries()) {
      for (const repack of values.repack.split(',')) {
        progress(`${threads} threads, ${tier}: loading ${type}, repack ${repack}`);
        const kind = { threads, tier, repack, type, contextSize: 512, parallel: 1 };
        const [one] = await openAll(files[i], [kind], notes);
        if (one === undefined) continue;
        // A layout that stays as it is is the same both ways.
        const memory = one.model.info.weights.memory;
        if (open.some((other) => other.type === type && other.memory === memory)) await one.model.dispose();
        else open.push({ ...one, memory, decode: [], prompt: [] });
      }
    }
    for (const test of ['decode', 'prompt']) {
      for (const one of open) await measure[test](one);
      for (let run = 0; run < runs; run++) {
        for (const one of open) {
          progress(`${threads} threads, ${tier}, ${test}, ${one.type}: run ${run + 1} of ${runs}`);
          await touch(one); // while others ran, the system may have taken its pages
          one[test].push(await measure[test](one));
        }
      }
    }
    for (const { model, type, memory, decode, prompt } of open) {
      rows.push({
        ...{ threads, tier: model.info.tier, type, memory, decode: summary(decode), prompt: summary(prompt) },
        decodeToFirst: pairedRatio(decode, open[0].decode),
        promptToFirst: pairedRatio(prompt, open[0].prompt),
      });
      await model.dispose();
    }
  }
}
if (rows.length === 0) throw new Error(notes.join('\n'));

const label = ({ type, memory, tier, threads }) =>
  `${type}${memory === type ? '' : ` as ${memory}`}, ${tier}, ${threads} thread${threads > 1 ? 's' : ''}`;
await report.finish({
  columns: [
    ['file, computed as, kernels, threads', label],
    ['decode, tokens/s', (r) => spread(r.decode)],
    ['to the first', (r) => r.decodeToFirst.toFixed(2)],
    [`prompt of ${prompt}, tokens/s`, (r) => spread(r.prompt)],
    ['to the first', (r) => r.promptToFirst.toFixed(2)],
    ['n', (r) => r.decode.n],
  ],
  rows,
  notes,
  chart: {
    title: `${basename(model, '.gguf')} in every ternary format, tokens a second`,
    caption: `Median of ${runs} alternating runs; line: range. Writing text, ${tokens} tokens.`,
    ...barChart(
      rows.map((r) => ({
        ...{ label: label(r), value: r.decode.median, min: r.decode.min, max: r.decode.max, color: COLOR.ours },
        text: `${short(r.decode.median)}; prompt ${short(r.prompt.median)}`,
      })),
      'tokens/s',
    ),
  },
});
