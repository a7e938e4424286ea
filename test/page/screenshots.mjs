// Pictures of the page's states, to be looked at: node test/page/screenshots.mjs FOLDER
// Needs what test/page/browser.ts needs. The GPU is the software one of Chromium, whose speed says nothing.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error('screenshots: expected a folder to write to');
await mkdir(folder, { recursive: true });
const root = fileURLToPath(new URL('../..', import.meta.url));
const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
const { chromium } = await import(join(cache, 'ternlm/runtimes/node_modules/playwright-core/index.mjs'));
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium-headless-shell';

const demo = spawn(process.execPath, [join(root, 'dist/cli/main.js'), 'demo', '--port', '0'], {
  stdio: ['ignore', 'pipe', 'ignore'],
});
const [line] = await once(demo.stdout, 'data');
const url = String(line).trim();

/** A server of models that is as slow as a network. */
const BYTES_PER_SECOND = 400_000;
const model = readFileSync(join(root, 'demo/tales.gguf'));
const slow = createServer(async ({ headers, method }, response) => {
  const cors = { 'access-control-allow-origin': '*', 'access-control-expose-headers': '*', 'accept-ranges': 'bytes' };
  if (method === 'OPTIONS') {
    response.writeHead(204, { ...cors, 'access-control-allow-headers': '*' }).end();
    return;
  }
  const [, from = 0, to = model.length - 1] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
  const part = model.subarray(Number(from), Number(to) + 1);
  const range = { 'content-range': `bytes ${from}-${to}/${model.length}`, 'content-length': part.length };
  response.writeHead(206, { ...cors, ...range });
  for (let at = 0; at < part.length && !response.destroyed; at += 20_000) {
    response.write(part.subarray(at, at + 20_000));
    await sleep((1000 * 20_000) / BYTES_PER_SECOND);
  }
  response.end();
}).listen(0, '127.0.0.1');
await once(slow, 'listening');
const slowModel = `http://127.0.0.1:${slow.address().port}/tales.gguf`;

const LOOKS = {
  desktop: { viewport: { width: 1280, height: 800 } },
  'desktop-dark': { viewport: { width: 1280, height: 800 }, colorScheme: 'dark' },
  phone: { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true },
  'phone-dark': { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, colorScheme: 'dark' },
};

async function walk(browser, look, options) {
  const page = await browser.newPage(options);
  const shoot = (state) => page.screenshot({ path: join(folder, `${look}-${state}.png`) });
  const written = () => page.locator('#send').waitFor();
  // A slow model, so that it is seen while it writes.
  await page.addInitScript(() => {
    const { set } = Object.getOwnPropertyDescriptor(Worker.prototype, 'onmessage');
    Object.defineProperty(Worker.prototype, 'onmessage', {
      set(listen) {
        let due = 0;
        const later = (event) => {
          due = Math.max(due + (globalThis.slow ? 25 : 0), performance.now());
          setTimeout(listen, due - performance.now(), event);
        };
        set.call(this, later);
      },
    });
  });
  await page.goto(url);
  await shoot('1-picker');
  await page.locator('#address').fill(slowModel);
  await page.keyboard.press('Enter');
  await page.waitForTimeout(3000);
  await shoot('2-loading');
  await page.locator('#loading-cancel').click();
  await page.locator('#pick-file').setInputFiles({
    name: 'ggml-model-i2_s.gguf',
    mimeType: '',
    buffer: model.subarray(0, 300_000),
  });
  await page.locator('#failure').waitFor();
  await shoot('3-failure');
  await page.locator('#pick-shipped').click();
  await page.locator('#prompt').waitFor();
  await shoot('4-ready');
  await page.evaluate(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([], 'a.gguf'));
    dispatchEvent(new DragEvent('dragenter', { dataTransfer: transfer }));
  });
  await shoot('5-dragging');
  await page.evaluate(() => dispatchEvent(new DragEvent('dragleave')));
  const [settings, about] = ['#settings', '#about'].map((id) => page.locator(id));
  if (!(await settings.evaluate((details) => details.open))) await settings.locator('summary').click();
  await page.locator('#max-tokens').fill('440');
  await page.locator('#seed').fill('3');
  if (look.startsWith('phone')) {
    await shoot('6-settings');
    await settings.locator('summary').click();
  }
  await page.evaluate(() => {
    globalThis.slow = true;
  });
  await page.locator('#send').click();
  await page.waitForTimeout(1500);
  await shoot('7-writing');
  await page.evaluate(() => {
    globalThis.slow = false;
  });
  await page.locator('#stop').click();
  await written();
  await page.locator('.tools button:has-text("Clear")').click();
  await page.locator('#max-tokens').evaluate((field) => {
    field.value = 70;
  });
  await page.locator('#mode input[value=chat]').check();
  for (const text of ['Who lives in the forest?', 'And what does the fox say to the king?']) {
    await page.locator('#prompt').fill(text);
    await page.keyboard.press('Enter');
    await written();
  }
  await shoot('8-chat');
  if (!look.startsWith('phone')) {
    await about.locator('summary').click();
    await about.locator('summary').evaluate((summary) => summary.scrollIntoView());
  }
  await page.locator('#prompt').fill('word '.repeat(600));
  await page.keyboard.press('Enter');
  await page.locator('#failure').waitFor();
  await shoot('9-too-long');
  await page.close();
}

async function race(browser, look, options) {
  const page = await browser.newPage(options);
  await page.goto(`${url}?gpu=1`);
  await page.locator('#compute input[value=both]').check();
  await page.locator('#pick-shipped').click();
  await page.waitForTimeout(4000);
  await page.screenshot({ path: join(folder, `${look}-gpu-1-loading.png`) });
  await page.locator('#prompt').waitFor({ timeout: 120_000 });
  await page.locator('#max-tokens').evaluate((field) => {
    field.value = 24;
  });
  await page.locator('#send').click();
  await page.waitForFunction(() => document.querySelectorAll('.speed').length === 2, {}, { timeout: 120_000 });
  await page.screenshot({ path: join(folder, `${look}-gpu-2-writing.png`) });
  await page.locator('.verdict').waitFor({ timeout: 240_000 });
  await page.screenshot({ path: join(folder, `${look}-gpu-3-both.png`) });
  await page.close();
}

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const only = process.argv[3];
for (const [look, options] of Object.entries(LOOKS).filter(([look]) => (only ?? look) === look))
  await walk(browser, look, { ...options, bypassCSP: true });
await browser.close();
const flags = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
const gpu = await chromium.launch({ executablePath, args: ['--no-sandbox', ...flags] });
for (const look of ['desktop', 'phone-dark']) await race(gpu, look, { ...LOOKS[look], bypassCSP: true });
await gpu.close();
slow.closeAllConnections();
slow.close();
demo.kill('SIGINT');
