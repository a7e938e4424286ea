// Decoding speed when other processes want the cores too, against the share of the machine that is then ours.
//
// usage: npm run bench -- fairness [MODEL] [--threads N] [--tokens N] [--rounds N]
//
// With t threads and c competitors that each spin on one thread, the fair share is min(t, cores * t / (t + c)) cores; what the
// threads do with it, as a ratio of the speed alone, is the measure. The three cases take turns, so that the machine's own
// moods fall on all of them.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { demoModel, loadModel } from '../dist/index.js';
import { machine, median } from './machine.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '2' },
    tokens: { type: 'string', default: '400' },
    rounds: { type: 'string', default: '7' },
  },
});
const [threads, tokens, rounds] = [values.threads, values.tokens, values.rounds].map(Number);
const COMPETITORS = [0, 1, 2];

/** A process that does nothing but use a core; resolves when it does. */
async function compete() {
  const child = spawn(process.execPath, ['-e', 'process.stdout.write("."); for (;;);'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return child;
}

async function end(child) {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const model = await loadModel(positionals[0] ?? demoModel, { threads });
/** Tokens a second, and how many cores our process had on average. */
async function speed() {
  const [start, before] = [performance.now(), process.cpuUsage()];
  const { timings } = await model.complete('Once upon a time', { seed: 1, ignoreEos: true, maxTokens: tokens });
  const { user, system } = process.cpuUsage(before);
  return [timings.generatedPerSecond, (user + system) / 1e3 / (performance.now() - start)];
}
await speed(); // tier-up

const speeds = COMPETITORS.map(() => []);
const had = COMPETITORS.map(() => []);
const ratios = COMPETITORS.map(() => []);
const load = machine();
for (let round = 0; round < rounds; round++) {
  for (const [i, competitors] of COMPETITORS.entries()) {
    const children = await Promise.all(Array.from({ length: competitors }, compete));
    const [perSecond, cores] = await speed();
    await Promise.all(children.map(end));
    speeds[i].push(perSecond);
    had[i].push(cores);
    ratios[i].push(perSecond / speeds[0][round]);
  }
}
console.log(load);
console.log(`${model.info.name}, ${model.info.backend}, ${tokens} tokens, medians of ${rounds} rounds`);
console.log('| competitors | tokens/s | cores had | of alone | fair share | of the fair share |');
console.log('|--:|--:|--:|--:|--:|--:|');
const cores = availableParallelism();
const ours = (competitors) => Math.min(threads, (cores * threads) / (threads + competitors));
for (const [i, competitors] of COMPETITORS.entries()) {
  const share = ours(competitors) / ours(0);
  const ratio = median(ratios[i]);
  const percent = [ratio, share, ratio / share].map((x) => `${(100 * x).toFixed(0)} %`);
  console.log(
    `| ${competitors} | ${median(speeds[i]).toFixed(1)} | ${median(had[i]).toFixed(2)} | ${percent.join(' | ')} |`,
  );
}
await model.dispose();
