import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';
import { expect, test } from 'vitest';
import { openSource } from '../dist/gguf/source.js';
import type { Store } from '../dist/hub/store.js';
import { stores } from '../dist/hub/store_node.js';
import { stores as none } from '../dist/hub/store_none.js';
import { chromium } from '../plugins/webgpu/test/adapters.js';
import { type HubServer, type Seen, sha256Of, startHub } from './hub_server.js';
import { inPage } from './in_page.js';

// The stores by one contract: a folder here, OPFS in Chromium, which pulls and loads a model as well.

const here = fileURLToPath(new URL('.', import.meta.url));
const model = new Uint8Array(readFileSync(join(here, 'golden/models/tiny-bitnet-b1.58-i2_s.gguf')));
const CONTRACT: string = './store_contract.js';

test('a folder', async () => {
  const { storeContract } = (await import(CONTRACT)) as {
    storeContract(store: Store | undefined, open: typeof openSource): Promise<void>;
  };
  const folder = mkdtempSync(join(tmpdir(), 'ternlm-store-'));
  try {
    await storeContract(await stores.open(folder), openSource);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('nothing says that a file is whole before it is there', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ternlm-store-'));
  try {
    const store = (await stores.open(folder)) as Store;
    const part = await store.part('org/m.gguf');
    await part.begin({ name: 'org/m', url: '' });
    await part.append(model);
    const path = store.pathOf('org/m.gguf') as string;
    mkdirSync(join(path, 'in the way'), { recursive: true });
    await expect(part.finish({ name: 'org/m', url: '', size: model.length, sha256: '0' })).rejects.toThrow();
    expect([existsSync(`${path}.part`), existsSync(`${path}.json`)]).toEqual([true, false]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('nothing', async () => {
  expect(await none.open()).toBeUndefined();
  expect(await none.exists('/')).toBe(false);
});

test.skipIf(chromium === undefined && !process.env.TERNLM_REQUIRE_CHROMIUM)(
  chromium === undefined ? 'Chromium is not installed' : 'OPFS in Chromium, on a page and in a worker',
  async () => {
    const hub = await startHub({ 'm-i2_s.gguf': model });
    const elsewhere = await startHub({ 'm-i2_s.gguf': model });
    hub.mood = (request, response) => {
      const path = request.url ?? '';
      if (path.startsWith('/org/breaks/')) {
        response.writeHead(200, { 'content-length': model.length, etag: '"1"' });
        response.write(model.subarray(0, 300_000), () => setTimeout(() => response.destroy(), 200));
      } else response.writeHead(302, { location: `${elsewhere.url}/m-i2_s.gguf` }).end();
      return true;
    };
    hub.listMood = (request, response) => {
      if (!request.url?.includes('/org/none/')) return false;
      response.writeHead(404).end();
      return true;
    };
    try {
      const results = await tryInPage(chromium as string, hub, elsewhere);
      expect(Object.keys(results)).toEqual(['page', 'copying', 'inWorker']);
      for (const result of Object.values(results)) check(result, hub, elsewhere);
      const told = (seen: readonly Seen[]) => new Set(seen.map(({ authorization }) => authorization));
      expect(told(elsewhere.seen)).toEqual(new Set([undefined]));
      expect(told(hub.seen)).toContain('Bearer hf_secret');
    } finally {
      await hub.close();
      await elsewhere.close();
    }
  },
);

/** What hub_page.js gives, or why it fails. */
type Result = string | Record<string, unknown>;

function check(result: Result, hub: HubServer, elsewhere: HubServer): void {
  if (typeof result === 'string') throw new Error(result);
  const sha256 = sha256Of(model);
  const pulled = { name: 'org/tiny:m-i2_s.gguf', bytes: model.length, sha256 };
  expect(result).toMatchObject({
    partial: [{ complete: false, name: 'org/breaks:m-i2_s.gguf', totalBytes: model.length }],
    pulled: { ...pulled, status: 'downloaded' },
    name: 'synthetic-tiny',
    loading: 'HubError status 404',
    again: { ...pulled, status: 'up to date' },
    address: { name: `${elsewhere.url}/m-i2_s.gguf`, bytes: model.length, sha256, status: 'downloaded' },
    listed: [{ complete: false }, { complete: true }, { complete: true }],
    left: [],
  });
  expect((result.partial as { bytes: number }[])[0].bytes).toBeGreaterThan(0);
  const [broken, missing] = result.messages as string[];
  expect(broken).toMatch(/^network: .*\/org\/breaks\/.*: the connection failed: /);
  expect(missing).toMatch(new RegExp(`^status: ${hub.url}/api/models/org/none/tree/main: HTTP 404: nothing there$`));
}

/** Opens a page that runs hub_page.js, and gives what it sends back. */
async function tryInPage(browser: string, hub: HubServer, elsewhere: HubServer): Promise<Record<string, Result>> {
  const bundle = await rolldown({
    input: join(here, 'hub_page.js'),
    platform: 'browser',
    resolve: { conditionNames: ['browser', 'import', 'default'] },
    logLevel: 'silent',
  });
  const { output } = await bundle.generate({ format: 'es', codeSplitting: false });
  await bundle.close();
  const html = `<!doctype html><script type="module">
    import { tryAll } from './page.js';
    const send = (path, body) => fetch(path, { method: 'POST', body });
    tryAll(${JSON.stringify({ endpoint: hub.url, elsewhere: elsewhere.url })}).then(
      (result) => send('/result', JSON.stringify(result)),
      (error) => send('/error', String(error.stack ?? error)),
    );
    </script>`;
  return inPage(browser, { html, file: async (path) => (path === '/page.js' ? output[0].code : undefined) });
}
