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

const golden = JSON.parse(await readFile(join(root, 'test/golden/demo/tokens.json'), 'utf8'));

/** Columns in which a cell is 'ok', or what went wrong; the others are only told. */
const SECTIONS = [
  {
    title: 'The package',
    rows: packageChecks,
    told: ['check', 'seen'],
    verdicts: ['ok'],
    line: ({ title }, { seen, skipped }) => ({ check: title, seen, ok: skipped === undefined ? 'ok' : undefined }),
  },
  {
    title: 'Runtimes',
    rows: [...processes, ...workers, ...pages],
    told: ['runtime', 'threads', 'kernels'],
    verdicts: ['tokens', 'streams', 'aborts', 'disposes', 'exits'],
    line: ({ title, variant = '' }, { version = '', threads, tier, perSecond, ...seen }) => ({
      ...{ runtime: `${`${title} ${version}`.trim()}${variant}`, threads, kernels: tier },
      'tok/s': perSecond ? perSecond.toFixed(0) : undefined,
      ...{ ...seen, tokens: seen.greedy && compare(seen) },
    }),
  },
  {
    title: "New projects with README's snippets, and the command",
    rows: projects,
    told: ['project', 'seen'],
    verdicts: ['ok'],
    line: ({ title }, { seen, skipped }) => ({ project: title, seen, ok: skipped === undefined ? 'ok' : undefined }),
  },
  {
    title: 'At the edge: demo/edge in workerd',
    rows: edge,
    told: ['check', 'seen'],
    verdicts: ['ok'],
    line: ({ title }, { seen, skipped }) => ({ check: title, seen, ok: skipped === undefined ? 'ok' : undefined }),
  },
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
const picked = SECTIONS.map((section) => ({
  ...section,
  rows: section.rows.filter((row) => names.length === 0 || names.some((name) => row.name.startsWith(name))),
})).filter(({ rows }) => rows.length > 0);
if (picked.length === 0) {
  const all = SECTIONS.flatMap(({ rows }) => rows.map(({ name }) => name));
  process.stderr.write(`no row begins with ${names.join(' or ')}; there are: ${all.join(' ')}\n`);
  process.exit(1);
}

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

async function runSection({ title, rows, told, verdicts, line }, context) {
  const lines = [];
  const notes = rows.map(() => []);
  const waiting = rows.entries();
  const work = async () => {
    for (const [i, row] of waiting) {
      const start = performance.now();
      let [result, failure] = [{}, undefined];
      try {
        result = await row.run(context);
      } catch (error) {
        failure = { [verdicts[0]]: error.stack };
      }
      lines[i] = { ...line(row, result), ...failure, s: seconds(start) };
      const wrong = verdicts.filter((name) => ![undefined, 'ok'].includes(lines[i][name]));
      if (result.skipped !== undefined) notes[i].push(`${row.title} (${row.name}): skipped: ${result.skipped}`);
      for (const name of wrong) {
        notes[i].push(`${row.title} (${row.name}): ${name}: ${lines[i][name]}`);
        lines[i][name] = 'FAIL';
      }
      counts[result.skipped !== undefined ? 'skipped' : wrong.length > 0 ? 'failed' : 'passed']++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const columns = [...told, ...verdicts, ...(verdicts.includes('tokens') ? ['tok/s'] : []), 's'];
  console.log(`${[table(title, columns, lines), ...notes.flat()].join('\n\n')}\n`);
}
