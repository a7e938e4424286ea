// Bundles what runs without other modules at hand: the engine for a worker, as a text in dist/remote/engine_source.js, and
// dist/ternlm.js, the whole package for a page without a bundler. After tsc.

import { copyFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = fileURLToPath(new URL('../..', import.meta.url));

async function bundled(entry, { plugins, ...format }) {
  const bundle = await rolldown({
    input: `${root}/dist/${entry}`,
    platform: 'browser',
    resolve: { conditionNames: ['browser', 'import', 'default'] },
    plugins,
    onLog(level, log) {
      throw new Error(`${entry}: ${level}: ${log.message}`);
    },
  });
  const { output } = await bundle.generate({ ...format, minify: true, codeSplitting: false, comments: false });
  if (output.length !== 1) throw new Error(`${entry}: ${output.length} files, expected one`);
  return output[0].code;
}

const engine = await bundled('remote/server.js', { format: 'iife', name: 'engine' });
await writeFile(`${root}/dist/remote/engine_source.js`, `export const engineSource = ${JSON.stringify(engine)};\n`);
// tsc leaves declarations that are written by hand where they are.
await copyFile(`${root}/src/remote/engine_source.d.ts`, `${root}/dist/remote/engine_source.d.ts`);

/** The page's own thread takes the engine from that text, too. */
const engineFromText = {
  name: 'engine-from-text',
  resolveId: (id) => (id.endsWith('/local.js') ? `${root}/dist/remote/here.js` : undefined),
};
await writeFile(`${root}/dist/ternlm.js`, await bundled('index.js', { format: 'es', plugins: [engineFromText] }));
await writeFile(`${root}/dist/ternlm.d.ts`, "export * from './index.js';\n");
