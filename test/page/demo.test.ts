import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { root, startDemo } from './browser.js';

// `ternlm demo`: what it serves and writes. The page itself is used in page.test.ts.

const MAIN = join(root, 'dist/cli/main.js');
const MODEL = join(root, 'demo/tales.gguf');
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-demo-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const run = (...args: string[]) => promisify(execFile)(process.execPath, [MAIN, 'demo', ...args]);
const refusal = async (...args: string[]) => {
  const { code, stdout, stderr } = (await run(...args).catch((error: unknown) => error)) as Record<string, unknown>;
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  return stderr;
};

describe('ternlm demo', () => {
  it('serves the page isolated, and the model beside it, until Ctrl-C', async () => {
    const { url, child } = await startDemo();
    try {
      expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
      const page = await fetch(url);
      expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
      expect(page.headers.get('cross-origin-opener-policy')).toBe('same-origin');
      expect(page.headers.get('cross-origin-embedder-policy')).toBe('require-corp');
      expect(await page.text()).toBe(readFileSync(join(root, 'dist/page/ternlm.html'), 'utf8'));
      const model = await fetch(`${url}tales.gguf`);
      expect(Buffer.from(await model.arrayBuffer()).equals(readFileSync(MODEL))).toBe(true);
      const head = await fetch(`${url}tales.gguf`, { method: 'HEAD' });
      expect(head.headers.get('content-length')).toBe(String(readFileSync(MODEL).length));
      expect((await fetch(`${url}../package.json`)).status).toBe(404);
      expect((await fetch(`${url}%2e%2e/package.json`)).status).toBe(404);
      expect((await fetch(url, { method: 'POST' })).status).toBe(405);
      // A reader that leaves in the middle does no harm.
      const leaving = new AbortController();
      await fetch(`${url}tales.gguf`, { signal: leaving.signal });
      leaving.abort();
      expect((await fetch(url)).status).toBe(200);
    } finally {
      child.kill('SIGINT');
    }
    expect(await once(child, 'exit')).toEqual([0, null]);
  });

  it('says when the port that was asked for is taken, and takes a free one where none was', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    expect(await refusal('--port', String(port))).toMatch(/--port: \d+ is taken, expected a free one/);
    server.close();
    // Where another program has the port already, it is taken as well.
    const usual = createServer().on('error', () => {});
    await new Promise((settle) => usual.once('error', settle).listen(8080, '127.0.0.1', () => settle(undefined)));
    const { url, child } = await startDemo([]);
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:(?!8080)\d+\/$/);
    child.kill('SIGINT');
    usual.close();
    expect(await refusal('--port', '70000')).toMatch(/--port: expected a number from 0 to 65535, got 70000/);
    expect(await refusal('--host', 'no.such.host.invalid')).toMatch(/cannot listen on no\.such\.host\.invalid/);
  });

  it('writes one file with the model in it, whole or not at all', async () => {
    const out = join(scratch, 'ternlm.html');
    await run('--out', out);
    const html = readFileSync(out, 'utf8');
    expect(html).toContain(`>${readFileSync(MODEL, 'base64')}</script>`);
    // It asks for nothing: no address is in the markup around what is inlined.
    const markup = html.replace(/<(script|style)\b[^>]*>.*?<\/\1>/gs, '');
    expect(markup.match(/\b(?:src|href)="(?!data:|#)[^"]*"/g)).toBeNull();
    expect(await refusal('--out', join(scratch, 'ternlm.gguf'))).toMatch(/--out: expected a name that ends in \.html/);
    expect(await refusal('--out', out, '--port', '1')).toMatch(/expected no --port/);
    expect(await refusal('--out', join(scratch, 'none', 'ternlm.html'))).toMatch(
      /ternlm\.html: no such folder: .*none\n?$/,
    );
    expect(readdirSync(scratch)).toEqual(['ternlm.html']);
  });

  it('has a page that makes no markup of texts', () => {
    const folder = join(root, 'demo/page');
    for (const name of readdirSync(folder).filter((file) => file.endsWith('.ts'))) {
      const markup = /(inner|outer)HTML|insertAdjacentHTML|setHTML|createContextualFragment|DOMParser|document\.write/;
      expect(readFileSync(join(folder, name), 'utf8'), name).not.toMatch(markup);
    }
  });

  it('has a page in the package that is not as large as its model', () => {
    const page = join(root, 'dist/page/ternlm.html');
    expect(existsSync(page)).toBe(true);
    expect(readFileSync(page).length).toBeLessThan(1e6);
  });
});
