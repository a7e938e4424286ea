// node test/plain/pack.mjs FOLDER
// Lays out in FOLDER, from what is built, all that the tests and benchmarks of this package need on a machine without
// a network. There Node 24 runs each program of tests/ and bench/, once these can be imported by name from FOLDER:
// `webgpu`, `ternlm` (FOLDER itself), `@huggingface/jinja` and `@assemblyscript/loader` (both in packages/).
// DECODE_ARGS has arguments of bench/decode.mjs.
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const plugin = 'plugins/webgpu';
const root = resolve(import.meta.dirname, '../../../..');
const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error('expected a folder: node test/plain/pack.mjs FOLDER');

const filesOf = (path) => readdirSync(join(root, path)).map((name) => `${path}/${name}`);
const carry = (path, to = path) =>
  cpSync(join(root, path), join(folder, to), { recursive: true, filter: (name) => !/\.(d\.ts|map)$/.test(name) });

for (const name of ['bench', 'dist', 'packages', 'plugins', 'test', 'tests']) {
  rmSync(join(folder, name), { recursive: true, force: true });
}
for (const path of ['package.json', 'dist', 'demo/tales.gguf', 'test/golden/models']) carry(path);
for (const path of ['package.json', 'dist', 'test', 'bench']) carry(`${plugin}/${path}`);
// What the tests import of the core's: all there is but tests.
for (const path of filesOf('test').filter((path) => /(?<!\.test)\.ts$/.test(path))) carry(path);
for (const [name, ...paths] of [
  ['@huggingface/jinja', 'LICENSE', 'package.json', 'dist/index.js'],
  ['@assemblyscript/loader', 'package.json', 'index.js'],
]) {
  for (const path of paths) carry(`node_modules/${name}/${path}`, `packages/${name}/${path}`);
}

function program(path, text) {
  mkdirSync(join(folder, path, '..'), { recursive: true });
  writeFileSync(join(folder, path), text);
}
// Tests in folders of their own need no GPU, or a certain driver.
for (const path of filesOf(`${plugin}/test`).filter((path) => path.endsWith('.test.ts'))) {
  program(
    path.replace(/^.*\/(.*)\.test\.ts$/, 'tests/$1.mjs'),
    `process.argv.push(new URL('../${path}', import.meta.url).pathname);
await import('../${plugin}/test/plain/run.mjs');
`,
  );
}
for (const path of filesOf(`${plugin}/bench`)) {
  const name = path.replace(/^.*\/(.*)\.mjs$/, '$1');
  program(
    `bench/${name}.mjs`,
    `process.argv.push(...(process.env.${name.toUpperCase()}_ARGS ?? '').split(' ').filter((arg) => arg !== ''));
await import('../${path}');
`,
  );
}
