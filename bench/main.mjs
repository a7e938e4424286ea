// npm run bench -- NAME [arguments]: one benchmark, named after its file.
import { readdirSync, readFileSync } from 'node:fs';

/** What the benchmarks import. */
const SHARED = ['main.mjs', 'machine.mjs', 'model.mjs', 'ops.mjs', 'report.mjs'];

const names = readdirSync(import.meta.dirname ?? new URL('.', import.meta.url))
  .filter((file) => file.endsWith('.mjs') && !SHARED.includes(file))
  .map((file) => file.slice(0, -4));
const [name, ...rest] = process.argv.slice(2);
if (!names.includes(name)) {
  process.stderr.write(`usage: npm run bench -- NAME [arguments]\nNAME is one of: ${names.join(', ')}\n`);
  process.exit(1);
}
if (rest.includes('--help')) {
  const source = readFileSync(new URL(`${name}.mjs`, import.meta.url), 'utf8');
  process.stdout.write(`${/^(\/\/.*\n)+/.exec(source)?.[0].replaceAll(/^\/\/ ?/gm, '')}`);
  process.exit(0);
}
process.argv = [process.argv[0], new URL(`${name}.mjs`, import.meta.url).pathname, ...rest];
await import(`./${name}.mjs`);
