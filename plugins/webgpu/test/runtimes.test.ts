import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { demoModel, loadModel } from '../../../dist/index.js';
import { inPage } from '../../../test/in_page.js';
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
    async () => check(await tryInPage(chromium as string)),
  );
});

/** Opens a page that loads the built packages over HTTP, and gives what it sends back. */
function tryInPage(browser: string): Promise<Result> {
  const html = `<!doctype html><script type="importmap">${JSON.stringify({ imports: importsFor('browser') })}</script>
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
  const file = (path: string) => readFile(join(root, path)).catch(() => undefined);
  return inPage(browser, { html, file }, ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader']);
}
