// Compiles every target of asconfig.json and writes dist/host/kernels.js, which holds the modules as
// base64: they are some ten KB each, and an inlined module loads the same way in every runtime. But workerd makes none from
// bytes: for private memory, all that it has, they stay files beside it.

import { readFileSync } from 'node:fs';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const { targets } = JSON.parse(readFileSync(`${root}/asconfig.json`, 'utf8'));
const out = `${root}/dist/host`;
await mkdir(out, { recursive: true });

/** The import of the memory, up to the flags of its limits: names with their lengths, and what it is. */
const MEMORY_IMPORT = Buffer.from('\x03env\x06memory\x02', 'latin1');

/** What src/host/workerd.ts imports. */
const FILES = ['simd', 'relaxed', 'relaxed_i16'];

const lines = [];
for (const tier of Object.keys(targets)) {
  const { error, stderr } = await asc.main(
    ['--config', `${root}/asconfig.json`, '--baseDir', root, '--target', tier, '--outFile', `dist/host/${tier}.wasm`],
    { stdout: process.stdout },
  );
  if (error) {
    process.stderr.write(`assembly/build.mjs: tier ${tier}: ${error.message}\n${stderr.toString()}`);
    process.exit(1);
  }
  const wasm = readFileSync(`${out}/${tier}.wasm`);
  const memoryLimitsAt = wasm.indexOf(MEMORY_IMPORT) + MEMORY_IMPORT.length;
  if (wasm[memoryLimitsAt] !== 3) throw new Error(`${tier}: no import of a shared memory with a maximum`);
  lines.push(`export const ${tier} = { memoryLimitsAt: ${memoryLimitsAt}, base64: '${wasm.toString('base64')}' };\n`);
  wasm[memoryLimitsAt] = 1; // a maximum, not shared
  if (FILES.includes(tier)) await writeFile(`${out}/${tier}.wasm`, wasm);
  else await rm(`${out}/${tier}.wasm`);
}
await writeFile(`${out}/kernels.js`, lines.join(''));
// tsc leaves declarations that are written by hand where they are.
await copyFile(`${root}/src/host/kernels.d.ts`, `${out}/kernels.d.ts`);
