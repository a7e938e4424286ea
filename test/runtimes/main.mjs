// npm run test:runtimes [-- NAME…]: the package as it is published, in every runtime, and in new projects with README's snippets.
// Prints a table of each; NAMEs pick the rows that begin with them.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pages } from './chromium.mjs';
import { createContext } from './context.mjs';
import { edge } from './edge.mjs';
import { installRuntimes } from './install.mjs';
import { packageChecks } from './package_checks.mjs';
import { processes } from './processes.mjs';
import { projects } from './projects.mjs';
import { pack, root, startRegistry } from './publish.mjs';
import { table } from './table.mjs';
import { workers } from './workerd.mjs';

/** Rows at a time: a row has two threads, and the machines this runs on have two cores. */
const AT_ONCE = 2;

/** The slowest rows take 20 s with both cores busy; what is not over by then hangs. */
const ROW_MS = 180_000;

const golden = JSON.parse(await readFile(join(root, 'test/golden/demo/tokens.json'), 'utf8'));

/** Rows that tell what they saw, or throw. */
const checks = (title, rows) => ({
  ...{ title, rows, told: ['check', 'seen'], verdicts: ['ok'], numbers: [] },
  line: (row, { seen }) => ({ check: row.title, seen, ok: 'ok' }),
});

/** Of the columns, a verdict is 'ok', '-' where there is none to give, or what went wrong. */
const SECTIONS = [
  checks('The package', packageChecks),
  {
    title: 'Runtimes',
    rows: [...processes, ...workers, ...pages],
    told: ['runtime', 'threads', 'kernels'],
    verdicts: ['tokens', 'streams', 'aborts', 'disposes', 'exits'],
    numbers: ['tok/s'],
    line: ({ title, variant = '' }, { version, threads, tier, perSecond, ...seen }) => ({
      ...{ ...seen, runtime: `${title} ${version}${variant}`, threads, kernels: tier, tokens: compare(seen) },
      'tok/s': perSecond.toFixed(0),
    }),
  },
  checks("New projects with README's snippets, and the command", projects),
  checks('At the edge: demo/edge in workerd', edge),
];

/** Tokens against those of the specification. */
function compare(seen) {
  for (const name of ['greedy', 'sampled']) {
    const expected = golden[name];
    const at = expected.findIndex((token, i) => seen[name][i] !== token);
    if (at >= 0) return `${name}: token ${at} is ${seen[name][at]}, expected ${expected[at]}`;
    if (seen[name].length !== expected.length)
      return `${name}: ${seen[name].length} tokens, expected ${expected.length}`;
  }
  return 'ok';
}

const names = process.argv.slice(2);
const all = SECTIONS.flatMap(({ rows }) => rows.map(({ name }) => name));
const unknown = names.filter((begin) => !all.some((name) => name.startsWith(begin)));
if (unknown.length > 0) {
  process.stderr.write(`no row begins with ${unknown.join(' or ')}; there are: ${all.join(' ')}\n`);
  process.exit(1);
}
const picked = SECTIONS.map((section) => ({
  ...section,
  rows: section.rows.filter((row) => names.length === 0 || names.some((name) => row.name.startsWith(name))),
})).filter(({ rows }) => rows.length > 0);

const began = performance.now();
const seconds = (since) => ((performance.now() - since) / 1000).toFixed(1);
const temporary = await mkdtemp(join(tmpdir(), 'ternlm-runtimes-'));
const counts = { passed: 0, failed: 0, skipped: 0 };
try {
  await installRuntimes();
  const packages = [await pack(temporary), await pack(temporary, join(root, 'plugins/webgpu'))];
  const registry = await startRegistry(packages);
  try {
    const context = createContext(temporary, packages, registry.url);
    for (const section of picked) await runSection(section, context);
  } finally {
    registry.close();
  }
} finally {
  await rm(temporary, { recursive: true, force: true, maxRetries: 5 });
}
console.log(`${seconds(began)} s in all`);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed === 0 ? 0 : 1;
// A row that hangs would hold it up.
if (counts.failed > 0) process.exit();

async function runSection({ title, rows, told, verdicts, numbers, line }, context) {
  const lines = [];
  const notes = rows.map(() => []);
  const waiting = rows.entries();
  const work = async () => {
    for (const [i, row] of waiting) {
      const start = performance.now();
      lines[i] = { ...(await lineOf(row, told[0], verdicts, line, context)), s: seconds(start) };
      const wrong = verdicts.filter((name) => !['ok', '-'].includes(lines[i][name]));
      for (const name of wrong) {
        notes[i].push(`${row.title} (${row.name}): ${name}: ${lines[i][name]}`);
        lines[i][name] = 'FAIL';
      }
      const { skipped } = lines[i];
      if (skipped !== undefined) notes[i].push(`${row.title} (${row.name}): skipped: ${skipped}`);
      counts[skipped !== undefined ? 'skipped' : wrong.length > 0 ? 'failed' : 'passed']++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const columns = [...told, ...verdicts, ...numbers, 's'];
  console.log(`${[table(title, columns, lines), ...notes.flat()].join('\n\n')}\n`);
}

async function limit({ name }) {
  // It holds nothing up: a run that is over ends.
  await new Promise((resolve) => setTimeout(resolve, ROW_MS).unref());
  throw new Error(`${name}: not over after ${ROW_MS / 1000} s`);
}

/** A row's cells. Where it threw, the first verdict says why. */
async function lineOf(row, first, verdicts, line, context) {
  const none = { [first]: row.title, ...Object.fromEntries(verdicts.map((name) => [name, '-'])) };
  try {
    const result = await Promise.race([row.run(context), limit(row)]);
    return result.skipped === undefined ? line(row, result) : { ...none, ...result };
  } catch (error) {
    return { ...none, [verdicts[0]]: error.stack };
  }
}
