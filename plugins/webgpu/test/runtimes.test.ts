import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { demoModel, loadModel } from '../../../dist/index.js';
import { chromium, deno } from './adapters.js';

// Runtimes with a WebGPU of their own: Deno on this machine's driver, Chromium on its own SwiftShader.

const root = fileURLToPath(new URL('../../..', import.meta.url));
const { imports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  imports: Record<string, Record<'browser' | 'node', string>>;
};
/** What the bare names of the plugin's and the core's modules mean there. */
const importsFor = (runtime: 'browser' | 'node'): Record<string, string> => ({
  ...Object.fromEntries(Object.entries(imports).map(([name, by]) => [name, by[runtime]])),
  'ternlm/backend': './dist/backend/backend.js',
  'ternlm/reference': './dist/reference/backend.js',
  'ternlm/sampler': './dist/sampler.js',
  '@assemblyscript/loader': './node_modules/@assemblyscript/loader/index.js',
  '@huggingface/jinja': './node_modules/@huggingface/jinja/dist/index.js',
});
const MODULES = `const { loadModel } = await import('./dist/index.js');
  const { referenceBackend } = await import('./dist/reference/backend.js');
  const { webgpu } = await import('./plugins/webgpu/dist/index.js');
  const { tryRuntime } = await import('./plugins/webgpu/test/runtime.js');`;

interface Result {
  readonly name: string;
  readonly differences: Readonly<Record<string, number>>;
  readonly tokens: readonly number[];
}

let expected: readonly number[];
beforeAll(async () => {
  const cpu = await loadModel(demoModel, { threads: 1 });
  expected = (await cpu.complete('Once upon a time', { temperature: 0, maxTokens: 20 })).tokens;
  await cpu.dispose();
});

function check({ name, differences, tokens }: Result): void {
  expect(name).toMatch(/^webgpu /);
  expect(Object.keys(differences)).toEqual(['bit_linear', 'embed', 'attention']);
  expect([differences.bit_linear, differences.embed]).toEqual([0, 0]);
  expect(differences.attention).toBeLessThan(1e-5);
  expect(tokens).toEqual(expected);
}

describe('Deno', () => {
  it.skipIf(deno === undefined)(deno === undefined ? 'is not installed' : 'computes and writes the same', async () => {
    const base = new URL('../../..', import.meta.url);
    const map = `data:application/json,${encodeURIComponent(
      JSON.stringify({
        imports: Object.fromEntries(
          Object.entries(importsFor('node')).map(([name, path]) => [name, new URL(path, base).href]),
        ),
      }),
    )}`;
    const code = `${MODULES.replaceAll("'./", `'${base.href}`)}
      const file = ${JSON.stringify(fileURLToPath(demoModel))};
      console.log(JSON.stringify(await tryRuntime({ loadModel, webgpu, referenceBackend, file })));
      Deno.exit(0);`;
    const args = [
      'run',
      '-A',
      '--no-lock',
      '--unstable-webgpu',
      '--import-map',
      map,
      `data:text/javascript,${encodeURIComponent(code)}`,
    ];
    const { stdout } = await promisify(execFile)(deno as string, args, { cwd: tmpdir() });
    check(JSON.parse(stdout));
  });
});

describe('Chromium', () => {
  it.skipIf(chromium === undefined)(
    chromium === undefined ? 'is not installed' : 'computes and writes the same, with the model in a Blob',
    async () => check(await inPage(chromium as string)),
  );
});

/** Opens a page that loads the built packages over HTTP, and gives what it sends back. */
async function inPage(browser: string): Promise<Result> {
  const page = `<!doctype html><script type="importmap">${JSON.stringify({ imports: importsFor('browser') })}</script>
    <script type="module">
      try {
        ${MODULES}
        const file = await (await fetch('./demo/tales.gguf')).blob();
        const result = await tryRuntime({ loadModel, webgpu, referenceBackend, file });
        await fetch('/result', { method: 'POST', body: JSON.stringify(result) });
      } catch (error) {
        await fetch('/error', { method: 'POST', body: String(error.stack ?? error) });
      }
    </script>`;
  let child: ChildProcess | undefined;
  const profile = join(tmpdir(), `ternlm-chromium-${process.pid}`);
  const server = createServer();
  try {
    return await new Promise<Result>((resolve, reject) => {
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
        const body = path === '/' ? page : await readFile(join(root, path)).catch(() => undefined);
        response.writeHead(body === undefined ? 404 : 200, { 'content-type': type }).end(body);
      });
      server.listen(0, '127.0.0.1', () => {
        const address = server.address();
        const port = typeof address === 'object' ? address?.port : undefined;
        const flags = ['--headless=new', '--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
        const args = [...flags, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`];
        // A group of its own, as it starts many processes.
        child = spawn(browser, args, { stdio: 'ignore', detached: true });
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
