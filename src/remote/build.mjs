// Bundles what runs without other modules at hand: the engine's worker, as a text in dist/remote/worker_source.js, and
// dist/ternlm.js, the whole package for a page without a bundler. After tsc.

import { copyFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function bundled(entry, plugins = []) {
  const bundle = await rolldown({
    input: `${root}/dist/${entry}`,
    platform: 'browser',
    resolve: { conditionNames: ['browser', 'import', 'default'] },
    plugins,
    onLog(level, log) {
      throw new Error(`${entry}: ${level}: ${log.message}`);
    },
  });
  const { output } = await bundle.generate({ format: 'es', minify: true, codeSplitting: false, comments: false });
  if (output.length !== 1) throw new Error(`${entry}: ${output.length} files, expected one`);
  return output[0].code;
}

const source = await bundled('remote/worker.js');
await writeFile(`${root}/dist/remote/worker_source.js`, `export const workerSource = ${JSON.stringify(source)};\n`);
// tsc leaves declarations that are written by hand where they are.
await copyFile(`${root}/src/remote/worker_source.d.ts`, `${root}/dist/remote/worker_source.d.ts`);

await writeFile(`${root}/dist/ternlm.js`, await bundled('index.js'));
await writeFile(`${root}/dist/ternlm.d.ts`, "export * from './index.js';\n");
