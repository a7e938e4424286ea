// Loading a model: time, rate, and the memory that is resident at most, beside what `estimate` told of it.
//
// usage: npm run bench -- load [MODEL] [--threads N] [--runs 3] [--context N] [--parallel N]
//
// Keys and values are resident once they are written: all sequences are filled, so that a large context takes its time.
// Each load is a process of its own, since only so the peak is its own. The first may read from the disk, the others from the
// page cache.
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { estimate, loadModel } from '../dist/index.js';
import { summary } from './machine.mjs';
import { GREEDY, modelArgument } from './model.mjs';
import { barChart, COLOR, progress, short, startReport } from './report.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string' },
    runs: { type: 'string', default: '3' },
    context: { type: 'string', default: '512' },
    parallel: { type: 'string', default: '1' },
  },
});
const file = modelArgument(positionals);
if (process.send !== undefined) await loadOnce();
else await loadOften();

/** Peak resident memory in MB; Linux tells it. */
function peak() {
  return Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1.024e-3;
}

async function loadOnce() {
  const peakBefore = peak();
  const options = {
    threads: values.threads === undefined ? undefined : Number(values.threads),
    contextSize: Number(values.context),
    parallel: Number(values.parallel),
  };
  const told = await estimate(file, options);
  const start = performance.now();
  const model = await loadModel(file, options);
  const ms = performance.now() - start;
  const peakLoaded = peak();
  const prompt = Array.from({ length: options.contextSize - 1 }, (_, i) => i % model.info.vocab);
  await Promise.all(
    Array.from({ length: options.parallel }, () => model.complete(prompt, { ...GREEDY, maxTokens: 2 })),
  );
  const peakFilled = peak();
  const { name, fileBytes, memoryBytes } = model.info;
  await model.dispose();
  const mb = (bytes) => bytes / 1e6;
  // The runtime itself is not the model's: it is resident before.
  const estimated = peakBefore + mb(told.totalBytes + told.hostBytes);
  process.send({
    ...{ model: name, fileMB: mb(fileBytes), ms, peakBefore, peakLoaded, peakFilled },
    ...{ told: mb(told.totalBytes), memory: mb(memoryBytes), host: mb(told.hostBytes) },
    ...{ estimated, off: (100 * (estimated - peakFilled)) / peakFilled },
  });
}

async function loadOften() {
  let report;
  const rows = [];
  for (let run = 0; run < Number(values.runs); run++) {
    progress(`load ${run + 1} of ${values.runs}`);
    report ??= startReport(`load-${basename(String(file), '.gguf')}`);
    const child = fork(fileURLToPath(import.meta.url), process.argv.slice(2), { stdio: 'inherit' });
    rows.push(
      await new Promise((resolve, reject) => {
        child.once('message', (row) => resolve({ load: run + 1, ...row }));
        // The message can come after the end.
        child.once('exit', (code) => code === 0 || reject(new Error(`load ${run + 1} ended with code ${code}`)));
      }),
    );
  }
  const ms = summary(rows.map((row) => row.ms));
  const [{ model, fileMB }] = rows;
  const cell = (key) => (r) => r[key].toFixed(r[key] < 10 ? 1 : 0);
  await report.finish({
    columns: [
      ['load', (r) => r.load],
      ['file, MB', cell('fileMB')],
      ['ms', cell('ms')],
      ['GB/s', (r) => short(r.fileMB / r.ms)],
      ['peak before, MB', cell('peakBefore')],
      ['loaded, MB', cell('peakLoaded')],
      ['filled, MB', cell('peakFilled')],
      ['allocated, MB', cell('memory')],
      ['estimated, MB', cell('told')],
      ['JavaScript, MB', cell('host')],
      ['before and these, MB', cell('estimated')],
      ['off, %', (r) => r.off.toFixed(1)],
    ],
    rows,
    notes: [
      `${ms.n} loads: least ${ms.min.toFixed(0)} ms, median ${ms.median.toFixed(0)} ms (${short(fileMB / ms.median)} GB/s), most ${ms.max.toFixed(0)} ms.`,
    ],
    chart: {
      title: `Loading ${model}, ${short(fileMB)} MB: milliseconds`,
      caption: `Least ${ms.min.toFixed(0)} ms, median ${ms.median.toFixed(0)} ms. Each load in a process of its own.`,
      ...barChart(
        rows.map((r) => ({
          ...{ label: `load ${r.load}`, value: r.ms, color: COLOR.ours },
          text: `${r.ms.toFixed(0)} ms, ${short(r.fileMB / r.ms)} GB/s; ${r.peakFilled.toFixed(0)} MB resident`,
        })),
        'ms',
      ),
    },
  });
}
