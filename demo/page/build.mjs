// Makes dist/page/ternlm.html of what lies beside this file: one file with the style, the library, the WebGPU plugin and the
// page's own code in it. It lacks only the model: `ternlm demo` serves one beside it, or puts it in (src/cli/demo.ts).

import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));
const out = `${root}dist/page`;

const bundle = await rolldown({
  input: `${here}main.ts`,
  platform: 'browser',
  tsconfig: false, // its paths are those of the declarations
  // As package.json's `exports` say: a package of that name in node_modules may be another one.
  resolve: {
    alias: {
      'ternlm/backend': `${root}dist/backend/backend.js`,
      'ternlm/reference': `${root}dist/reference/backend.js`,
      'ternlm/sampler': `${root}dist/sampler.js`,
      '@ternlm/webgpu': `${root}plugins/webgpu/dist/index.js`,
      ternlm: `${root}dist/ternlm.js`,
    },
  },
  // Node's own modules are loaded by name where the library runs in Node, which is not here.
  external: /^node:/,
  onLog(level, log) {
    if (level === 'warn') throw new Error(`demo/page/build.mjs: ${level}: ${log.message}`);
  },
});
const { output } = await bundle.generate({ format: 'es', minify: true, codeSplitting: false });
await bundle.close();
if (output.length !== 1) throw new Error(`demo/page/build.mjs: ${output.length} chunks, expected one`);

// What would end the element early stands in texts only, where the backslash means nothing.
const script = output[0].code.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
const SHEETS = ['base.css', 'page.css', 'talk.css'];
const style = (await Promise.all(SHEETS.map((sheet) => readFile(here + sheet, 'utf8')))).join('');
const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
const POLICY = [
  "default-src 'none'",
  `script-src ${hash(script)} 'wasm-unsafe-eval' blob:`,
  `style-src ${hash(style)}`,
  'worker-src blob:',
  'img-src data:',
  // Models: beside the page, on any server that lets itself be read, or on this machine.
  "connect-src 'self' https: http://localhost:* http://127.0.0.1:* blob:",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

function replaced(text, from, to) {
  const parts = text.split(from);
  if (parts.length !== 2) throw new Error(`demo/page/index.html: ${parts.length - 1} of ${from}, expected one`);
  return parts.join(to);
}
let page = await readFile(`${here}index.html`, 'utf8');
page = replaced(page, 'content="POLICY"', `content="${POLICY}"`);
const links = SHEETS.map((sheet) => `<link rel="stylesheet" href="${sheet}">`).join('\n');
page = replaced(page, links, `<style>${style}</style>`);
page = replaced(page, '<script type="module" src="main.ts"></script>', `<script type="module">${script}</script>`);
await mkdir(out, { recursive: true });
await writeFile(`${out}/ternlm.html`, page);
