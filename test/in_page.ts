import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What a page is made of. */
export interface Page {
  /** Its HTML; it posts its result as JSON to /result, or what went wrong as a text to /error. */
  readonly html: string;
  /** A file that it asks for, or undefined where there is none. */
  readonly file: (path: string) => Promise<string | Uint8Array | undefined>;
}

/** Opens a page in a headless browser, and gives what it sends back. */
export async function inPage<R>(browser: string, { html, file }: Page, flags: readonly string[] = []): Promise<R> {
  const profile = mkdtempSync(join(tmpdir(), 'ternlm-chromium-'));
  const server = createServer();
  let child: ChildProcess | undefined;
  try {
    return await new Promise<R>((resolve, reject) => {
      server.on('request', async (request, response) => {
        const path = new URL(request.url ?? '/', 'http://page').pathname;
        if (request.method === 'POST') {
          const body = (await request.toArray()).join('');
          response.end();
          if (path === '/result') resolve(JSON.parse(body));
          else reject(new Error(body));
          return;
        }
        const type = path === '/' ? 'text/html' : path.endsWith('.js') ? 'text/javascript' : 'application/octet-stream';
        const body = path === '/' ? html : await file(path);
        response.writeHead(body === undefined ? 404 : 200, { 'content-type': type }).end(body);
      });
      server.listen(0, '127.0.0.1', () => {
        const address = server.address();
        const port = typeof address === 'object' ? address?.port : undefined;
        const all = ['--headless=new', '--no-sandbox', ...flags, `--user-data-dir=${profile}`];
        // A group of its own, as it starts many processes.
        child = spawn(browser, [...all, `http://127.0.0.1:${port}/`], { stdio: 'ignore', detached: true });
        child.on('error', reject);
      });
    });
  } finally {
    server.closeAllConnections();
    server.close();
    if (child?.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
