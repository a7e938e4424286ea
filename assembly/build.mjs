// Compiles every target of asconfig.json and writes dist/backend/wasm/kernels.js, which holds the modules as
// base64: they are some ten KB each, and an inlined module loads the same way in every runtime.

import { readFileSync } from 'node:fs';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const { targets } = JSON.parse(readFileSync(`${root}/asconfig.json`, 'utf8'));
const out = `${root}/dist/backend/wasm`;
await mkdir(out, { recursive: true });

const lines = [];
for (const tier of Object.keys(targets)) {
  const { error, stderr } = await asc.main(
    [
      '--config',
      `${root}/asconfig.json`,
      '--baseDir',
      root,
      '--target',
      tier,
      '--outFile',
      `dist/backend/wasm/${tier}.wasm`,
    ],
    { stdout: process.stdout },
  );
  if (error) {
    process.stderr.write(`assembly/build.mjs: tier ${tier}: ${error.message}\n${stderr.toString()}`);
    process.exit(1);
  }
  lines.push(`  ${tier}: '${readFileSync(`${out}/${tier}.wasm`).toString('base64')}',`);
}
await writeFile(`${out}/kernels.js`, `export const kernels = {\n${lines.join('\n')}\n};\n`);
// tsc leaves declarations that are written by hand where they are.
await copyFile(`${root}/src/backend/wasm/kernels.d.ts`, `${out}/kernels.d.ts`);
