import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LoadModelOptions } from '../../dist/index.js';
import { type Browser, missing, openBrowser, type Page, root } from './browser.js';

// What the package says in a page of Chromium where it cannot do what it is asked for: dist/ternlm.js, the engine in a worker.

/** Without 'wasm-unsafe-eval'. */
const POLICY = "script-src 'self' blob:; worker-src blob:";
const FILES: Record<string, [type: string, path: string]> = {
  '/ternlm.js': ['text/javascript', 'dist/ternlm.js'],
  '/tales.gguf': ['application/octet-stream', 'demo/tales.gguf'],
};

let server: Server;
let url = '';
let browser: Browser;
let page: Page;
beforeAll(async () => {
  if (missing !== undefined) return;
  server = createServer((request, response) => {
    const file = FILES[request.url ?? ''];
    if (request.url === '/') {
      response
        .writeHead(200, { 'content-type': 'text/html', 'content-security-policy': POLICY })
        .end('<!doctype html>');
    } else if (file === undefined) response.writeHead(404).end();
    else response.writeHead(200, { 'content-type': file[0] }).end(readFileSync(join(root, file[1])));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  browser = await openBrowser();
  page = await browser.newPage();
  await page.goto(`${url}/`);
});
afterAll(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

/** The error of loading: name and message. */
const refusal = (input: string | null, options: LoadModelOptions | null = {}) =>
  page.evaluate<string>(`import('/ternlm.js').then(({ loadModel }) =>
    loadModel(${JSON.stringify(input)}, ${JSON.stringify(options)}).then(
      () => 'loaded',
      ({ name, message }) => name + ': ' + message,
    ))`);

describe.skipIf(missing !== undefined)(`a page${missing === undefined ? '' : ` (skipped: no ${missing})`}`, () => {
  it('whose policy forbids WebAssembly', async () => {
    const message =
      "Error: no kernels run here: a Content-Security-Policy forbids WebAssembly, expected script-src 'wasm-unsafe-eval' in it";
    expect(await refusal('/tales.gguf')).toBe(message);
    expect(await refusal('/tales.gguf', { worker: false })).toBe(message);
  });

  it('has no files that a text could mean', async () => {
    expect(await refusal('a/b', { endpoint: url, retries: 0 })).toBe(
      `HubError: a/b: as a model of the hub: ${url}/api/models/a/b/tree/main: HTTP 404: nothing there`,
    );
    expect(await refusal('none.gguf')).toBe(`GgufError: ${url}/none.gguf: HTTP 404, expected 206 or 200`);
    expect(await refusal('data:,secret')).toMatch(/^GgufError: data:,….*, expected an http:\/\/ or https:\/\/ address/);
  });

  it('is told what is no model before a worker is', async () => {
    expect(await refusal(null)).toMatch(/^TypeError: model: got null, expected a path, an address, /);
    expect(await refusal('')).toMatch(/^TypeError: model: got an empty text, /);
    expect(await refusal('hf:a')).toBe('HubError: "hf:a": expected hf:org/repo[:file][@revision]');
    expect(await refusal('http://')).toMatch(/^GgufError: http:\/\/: no address that can be read, /);
    expect(await refusal('/tales.gguf', null)).toBe('TypeError: options: got null, expected an object');
  });
});
