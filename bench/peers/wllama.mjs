// wllama runs in browsers only: a headless Chromium, and a local server whose pages may share memory between threads.
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { serve } from './serve.mjs';

const { version } = JSON.parse(readFileSync(new URL('node_modules/@wllama/wllama/package.json', import.meta.url)));
const PACKAGE = new URL('node_modules/@wllama/wllama/esm/', import.meta.url);
const TYPES = { js: 'text/javascript', wasm: 'application/wasm' };
const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

/** An empty page, the package's files, and the model; nothing else. */
function listen(model) {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    if (pathname === '/')
      return response.writeHead(200, { ...ISOLATED, 'Content-Type': 'text/html' }).end('<!doctype html>');
    const file = pathname === '/model' ? model : /^\/[a-z/.-]+$/.test(pathname) && new URL(`.${pathname}`, PACKAGE);
    const size = file && statSync(file, { throwIfNoEntry: false })?.size;
    if (!size) return response.writeHead(404).end();
    const type = TYPES[pathname.split('.').at(-1)] ?? 'application/octet-stream';
    response.writeHead(200, { ...ISOLATED, 'Content-Type': type, 'Content-Length': size });
    createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)));
}

serve(async ({ model, threads, contextSize }) => {
  const port = await listen(model);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  });
  process.on('disconnect', () => void browser.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  await page.goto(`http://127.0.0.1:${port}/`);
  const got = await page.evaluate(
    async ({ n_threads, n_ctx }) => {
      const { Wllama } = await import('/index.js');
      window.wllama = new Wllama({ default: '/wasm/wllama.wasm' }, { suppressNativeLog: true });
      const blob = await (await fetch('/model')).blob();
      await window.wllama.loadModel([blob], { n_threads, n_ctx, n_gpu_layers: 0 });
      return { threads: window.wllama.getNumThreads(), isolated: crossOriginIsolated };
    },
    { n_threads: threads, n_ctx: contextSize },
  );
  if (got.threads !== threads) throw new Error(`wllama runs ${got.threads} threads, expected ${threads}`);
  /**
   * It takes no raw tokens: a text of as many, the first token being that which begins every text. Its own clock tells prompt and
   * generation apart. Text that is no valid UTF-8 makes it fail: a small vocabulary of mostly bytes does not work here.
   */
  const timings = (length, max_tokens) =>
    page.evaluate(
      async ([prompt, n]) => {
        const options = { prompt, max_tokens: n, temperature: 0, top_k: 1, ignore_eos: true, cache_prompt: false };
        return (await window.wllama.createCompletion(options)).timings;
      },
      [Array.from({ length: length - 1 }, (_, i) => String.fromCharCode(97 + ((i * 7) % 26))).join(' '), max_tokens],
    );
  return {
    label: `wllama ${version}, Chromium ${browser.version().split('.')[0]}`,
    prompt: async (ids) => (await timings(ids.length, 1)).prompt_per_second,
    decode: async (ids, tokens) => (await timings(ids.length, tokens + 1)).predicted_per_second,
  };
});
