import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { demoModel } from '../index.ts';
import { type Arguments, UsageError, type Verb } from './arguments.ts';
import { HELP_FLAG } from './options.ts';
import { checkPageName, writePage } from './page_file.ts';
import { catchInterrupt, say, styled, write } from './terminal.ts';

const PAGE = new URL('../page/ternlm.html', import.meta.url);
/** The place of the model's bytes in the page. */
const PLACE = '>MODEL</script>';
const HOST = '127.0.0.1';
const PORT = 8080;

export const demo: Verb = {
  name: 'demo',
  positionals: '',
  maxPositionals: 0,
  summary: 'a page that runs models in the browser',
  about: `Serves a page where models run in the browser, on all its threads, and prints
the address; Ctrl-C ends it. The page comes with the demo model and opens files,
addresses and names on the hub. Nothing of what is written there comes back here.

--out writes page and model as one file instead, which needs no server. Browsers
give a page from disk one thread.`,
  groups: [
    {
      title: 'Options',
      flags: [
        {
          name: 'port',
          value: 'N',
          kind: 'integer',
          help: `port (default: ${PORT}, or a free one where that is taken)`,
        },
        { name: 'host', value: 'ADDRESS', help: `address to listen on (default: ${HOST}, this machine only)` },
        { name: 'out', short: 'o', value: 'OUT.html', help: 'write the page with its model to this file' },
        HELP_FLAG,
      ],
    },
  ],
  examples: ['ternlm demo', 'ternlm demo --port 9000', 'ternlm demo --out ternlm.html'],

  async run(given) {
    const out = given.text('out');
    if (out !== undefined) {
      if (given.has('port') || given.has('host')) {
        throw new UsageError('--out: nothing is served, expected no --port and no --host');
      }
      checkPageName('--out', out);
      await writeWhole(out);
      return 0;
    }
    const server = await listen(given);
    const interrupt = catchInterrupt();
    try {
      const { address, family, port } = server.address() as AddressInfo;
      await write(`http://${family === 'IPv6' ? `[${address}]` : address}:${port}/\n`);
      say(styled('dim', 'serving the page; Ctrl-C ends it'));
      if (!/^(127\.|::1$)/.test(address)) {
        const lacks =
          'browsers give a page from another machine threads only over https: put a proxy with a certificate before it';
        say(styled('yellow', `note: ${lacks}`));
      }
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        interrupt.signal.addEventListener('abort', () => resolve());
      });
      return 0;
    } finally {
      interrupt.release();
      server.closeAllConnections();
      server.close();
    }
  },
};

/** @throws UsageError where the port that was asked for is taken */
async function listen(given: Arguments): Promise<Server> {
  const asked = given.number('port');
  const host = given.text('host') ?? HOST;
  if (asked !== undefined && (asked < 0 || asked > 65535)) {
    throw new UsageError(`--port: expected a number from 0 to 65535, got ${asked}`);
  }
  const page = await readFile(PAGE);
  const server = createServer((request, response) => {
    // A reader that leaves is no fault of the server.
    answer(page, request, response).catch(() => response.destroy());
  });
  const on = (port: number) =>
    new Promise<Server>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, () => {
        server.off('error', reject);
        resolve(server);
      });
    });
  try {
    return await on(asked ?? PORT);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE' && asked === undefined) return on(0);
    if (code === 'EADDRINUSE') throw new UsageError(`--port: ${asked} is taken, expected a free one`);
    throw new UsageError(`demo: cannot listen on ${host}: ${message}`);
  }
}

/** Threads share memory, which browsers allow only to pages that are isolated from others by these. */
const HEADERS = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
};

async function answer(
  page: Uint8Array,
  { method, url = '/' }: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = url.replace(/[?#].*/s, '');
  const plain = { ...HEADERS, 'content-type': 'text/plain; charset=utf-8' };
  if (method !== 'GET' && method !== 'HEAD') {
    response.writeHead(405, { ...plain, allow: 'GET, HEAD' }).end('expected GET or HEAD\n');
  } else if (path === '/' || path === '/ternlm.html') {
    const type = { 'content-type': 'text/html; charset=utf-8', 'content-length': page.length };
    response.writeHead(200, { ...HEADERS, ...type }).end(method === 'HEAD' ? undefined : page);
  } else if (path === '/tales.gguf') {
    const { size } = await stat(demoModel);
    response.writeHead(200, { ...HEADERS, 'content-type': 'application/octet-stream', 'content-length': size });
    if (method === 'HEAD') response.end();
    else await pipeline(createReadStream(demoModel), response);
  } else response.writeHead(404, plain).end('not found: the page is at /\n');
}

/** Writes page and model as one file. */
async function writeWhole(out: string): Promise<void> {
  const [page, model] = await Promise.all([readFile(PAGE, 'utf8'), readFile(demoModel)]);
  const parts = page.split(PLACE);
  if (parts.length !== 2) throw new Error(`${PAGE.pathname}: ${parts.length - 1} places for the model, expected one`);
  const whole = parts.join(`>${model.toString('base64')}</script>`);
  await writePage(out, whole);
}
