// Rows of the runtimes that are pages of a headless Chromium: the package is one plain module there, without a bundler.
import { cp, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { chromium, load } from './install.mjs';
import { EXIT_MS } from './run.mjs';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.css': 'text/css' };
export const ISOLATION = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
};
/** How long a page may take to do what it is for. */
const PAGE_MS = 60_000;

/** The icon is one that nothing is asked for. */
export const pageOf = (body) => `<!doctype html><title>ternlm</title><link rel="icon" href="data:,">\n${body}\n`;

/** The module in the installed package, beside which the demo model is found; or a copy of it, which is given an address. */
const program = (module, model) =>
  pageOf(`<script type="module">
  import { demoModel, loadModel } from '${module}';
  import { exercise } from './program.mjs';
  globalThis.result = exercise({ loadModel, model: ${model} });
  globalThis.comeAndGo = async () => (await loadModel(${model})).dispose();
</script>`);

/**
 * Serves the files of a folder.
 *
 * @param {string} folder
 * @param {Record<string, string>} [headers] of every answer
 */
export async function serve(folder, headers = {}) {
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, 'http://page').pathname.replace(/\/$/, '/index.html');
    const body = await readFile(join(folder, path)).catch(() => undefined);
    const type = TYPES[extname(path)] ?? 'application/octet-stream';
    response.writeHead(body === undefined ? 404 : 200, { ...headers, 'content-type': type }).end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Why a row cannot run, if so; an error where the environment says that it has to. */
function missing() {
  if (chromium !== undefined) return undefined;
  const reason = 'no Chromium on the PATH; plugins/webgpu/test/driver.sh installs one on Debian, as root';
  if (process.env.TERNLM_REQUIRE_CHROMIUM) throw new Error(`${reason}, and TERNLM_REQUIRE_CHROMIUM is set`);
  return reason;
}

/**
 * Opens a page and does something in it. Fails where its console complains.
 *
 * @param {string} url
 * @param {(page: import('playwright-core').Page) => Promise<object>} act
 * @returns {Promise<object>} what `act` gave, how many workers were started and the browser's version, or `{ skipped }`
 */
export async function inPage(url, act) {
  const skipped = missing();
  if (skipped !== undefined) return { skipped };
  const { chromium: driver } = await load('playwright-core/index.mjs');
  const browser = await driver.launch({ executablePath: chromium, args: ['--no-sandbox'] });
  const complaints = [];
  const complained = () => (complaints.length === 0 ? '' : `the console says: ${complaints.join('\n')}`);
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(PAGE_MS);
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
    });
    let workers = 0;
    page.on('worker', () => workers++);
    page.on('pageerror', (error) => complaints.push(error.stack));
    await page.goto(url);
    const result = await act(page).catch((error) => {
      throw new Error(`${error.message}\n${complained()}`, { cause: error });
    });
    if (complained() !== '') throw new Error(complained());
    return { ...result, workers, version: browser.version().split('.')[0] };
  } finally {
    await browser.close();
  }
}

/** @param {boolean} isolated cross-origin: with threads */
function row(isolated) {
  return {
    name: isolated ? 'chromium-isolated' : 'chromium',
    title: 'Chromium',
    variant: isolated ? ', isolated' : '',
    async run({ shared, installed }) {
      const cwd = await shared('page', async () => {
        const cwd = await installed();
        await cp(join(import.meta.dirname, 'program.mjs'), join(cwd, 'program.mjs'));
        const ternlm = 'node_modules/ternlm';
        await cp(join(cwd, ternlm, 'dist/ternlm.js'), join(cwd, 'ternlm.js'));
        await cp(join(cwd, ternlm, 'demo/tales.gguf'), join(cwd, 'tales.gguf'));
        await writeFile(join(cwd, 'index.html'), program(`./${ternlm}/dist/ternlm.js`, 'demoModel'));
        await writeFile(join(cwd, 'copied.html'), program('./ternlm.js', "'tales.gguf'"));
        return cwd;
      });
      const server = await serve(cwd, isolated ? ISOLATION : {});
      try {
        const result = await inPage(server.url + (isolated ? '' : 'copied.html'), (page) => exerciseIn(page, isolated));
        if (result.workers === 0) throw new Error('no worker was started, expected the engine in one');
        return result;
      } finally {
        server.close();
      }
    },
  };
}

async function exerciseIn(page, isolated) {
  await page.waitForFunction(() => globalThis.result !== undefined);
  const result = await page.evaluate(() => globalThis.result);
  const found = await page.evaluate(() => globalThis.crossOriginIsolated);
  if (found !== isolated) throw new Error(`crossOriginIsolated is ${found}, expected ${isolated}`);
  const told = result.warnings.some((text) => /isolated/.test(text));
  if (told === isolated) throw new Error(`info.warnings: ${JSON.stringify(result.warnings)}`);
  if (isolated !== result.threads > 1) throw new Error(`${result.threads} threads`);
  // A page does not end; what it started for a model has to, soon, as word of it takes its time. Without the pause of
  // src/host/web.ts a third of the models leave workers behind.
  for (let i = 0; i < 10; i++) await page.evaluate(() => globalThis.comeAndGo());
  const end = performance.now() + EXIT_MS;
  while (page.workers().length > 0 && performance.now() < end) await page.waitForTimeout(10);
  const left = page.workers().length;
  return { ...result, exits: left === 0 ? 'ok' : `${left} workers are left ${EXIT_MS / 1000} s after dispose` };
}

export const pages = [row(true), row(false)];
