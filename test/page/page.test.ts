import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Browser,
  missing,
  openBrowser,
  type Page,
  type PageOptions,
  root,
  startDemo,
  violations,
} from './browser.js';

// The page as `ternlm demo` serves it, in Chromium, used as a person uses it.

const TINY = join(root, 'test/golden/models/tiny-bitnet-b1.58-i2_s.gguf');
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-page-'));
const PHONE = { width: 360, height: 740 };

let browser: Browser;
let demo: Awaited<ReturnType<typeof startDemo>>;
beforeAll(async () => {
  if (missing !== undefined) return;
  [browser, demo] = await Promise.all([openBrowser(), startDemo()]);
});
afterAll(async () => {
  rmSync(scratch, { recursive: true });
  await browser?.close();
  demo?.child.kill();
});

/** What went wrong on a page, and what it asked for. */
interface Trail {
  readonly errors: string[];
  readonly requests: string[];
}

async function open(path = '', options: PageOptions = {}, from = browser): Promise<{ page: Page; trail: Trail }> {
  const page = await from.newPage(options);
  page.setDefaultTimeout(20_000);
  const trail: Trail = { errors: [], requests: [] };
  page.on('console', (message) => {
    if (message.type() === 'error') trail.errors.push(message.text());
  });
  page.on('pageerror', (error) => trail.errors.push(error.message));
  page.on('request', (request) => trail.requests.push(request.url()));
  await page.goto(path.startsWith('file:') ? path : demo.url + path);
  return { page, trail };
}

async function openLoaded(options?: PageOptions): Promise<{ page: Page; trail: Trail }> {
  const opened = await open('', options);
  await opened.page.locator('#pick-shipped').click();
  await opened.page.locator('#prompt').waitFor();
  return opened;
}

/** Sends what is in the prompt and waits for the whole answer. */
async function send(page: Page): Promise<void> {
  await page.locator('#send').click();
  await page.locator('#send').waitFor();
}

const setLength = (page: Page, tokens: number) => page.locator('#max-tokens').fill(String(tokens));
const focused = (page: Page) => page.evaluate<string>('document.activeElement.id');
const figures = async (page: Page) => (await page.locator('.answer .figures').last().textContent()) ?? '';

describe.skipIf(missing !== undefined)(missing === undefined ? 'the page' : `the page: there is no ${missing}`, () => {
  it('loads the shipped model and writes as it goes, on threads, asking nobody but its own server', async () => {
    const { page, trail } = await openLoaded();
    expect(await page.locator('#threads').textContent()).toMatch(/^\d+ threads$/);
    expect(await page.locator('#prompt').evaluate((field: HTMLTextAreaElement) => field.value)).toBe(
      'Once upon a time',
    );
    await page.evaluate(`
      globalThis.lengths = new Set();
      globalThis.news = new Set();
      new MutationObserver(() => {
        lengths.add(document.querySelector('.out')?.textContent.length);
        if (document.querySelector('.writing')) news.add(document.getElementById('log').textContent);
      }).observe(document.body, { subtree: true, childList: true, characterData: true }); undefined`);
    await setLength(page, 300);
    await send(page);
    const text = (await page.locator('.prose').textContent()) ?? '';
    expect(text).toMatch(/^Once upon a time\b.{100}/s);
    expect(await figures(page)).toMatch(/tokens\/s \d+ tokens first after .* seed \d+ wasm \w+, \d+ threads/);
    expect(await page.evaluate<number>('lengths.size')).toBeGreaterThan(3);
    // What is read out: that it writes, and then the whole.
    expect(await page.evaluate<string[]>('[...news]')).toEqual(['The model writes']);
    expect(await page.locator('#log').textContent()).toContain(text.slice(20, 120));
    expect(trail.errors).toEqual([]);
    const foreign = trail.requests.filter((url) => !url.startsWith(demo.url) && !url.startsWith(`blob:${demo.url}`));
    expect(foreign).toEqual([]);
    await page.close();
  });

  it('keeps the frames coming while it writes', async () => {
    const { page } = await openLoaded();
    await setLength(page, 480);
    await page.evaluate(`globalThis.gaps = []; let last = performance.now();
      requestAnimationFrame(function next(now) { gaps.push(now - last); last = now; requestAnimationFrame(next); }); undefined`);
    await send(page);
    const gaps = (await page.evaluate<number[]>('gaps')).sort((a, b) => a - b);
    expect(gaps.length).toBeGreaterThan(5);
    expect(gaps[Math.floor(0.95 * gaps.length)]).toBeLessThan(100);
    await page.close();
  });

  it('works from disk as one file, on one thread, and says why', async () => {
    const file = join(scratch, 'ternlm.html');
    execFileSync(process.execPath, [join(root, 'dist/cli/main.js'), 'demo', '--out', file], { stdio: 'ignore' });
    const address = pathToFileURL(file).href;
    const { page, trail } = await open(address);
    expect(await page.locator('#threads').textContent()).toBe('Threads off');
    await page.locator('#pick-shipped').click();
    await page.locator('#prompt').waitFor();
    await send(page);
    expect(await figures(page)).toContain('1 thread');
    await page.locator('#about summary').click();
    expect(await page.locator('#notes').textContent()).toMatch(/not cross-origin isolated/);
    expect(trail.errors).toEqual([]);
    expect(trail.requests.filter((url) => url !== address && !url.startsWith('blob:null/'))).toEqual([]);
    // Files open as well; nothing is kept for such a page, and a hub that is out of reach is told as such.
    await page.locator('#change').click();
    await page.locator('#pick-file').setInputFiles(TINY);
    await page.locator('#model-line:has-text("I2_S")').waitFor();
    await page.route('https://huggingface.co/**', (route) => route.abort());
    await page.locator('#change').click();
    await page.locator('#address').fill('org/repo:model.gguf');
    await page.keyboard.press('Enter');
    await page.locator('#failure').waitFor();
    expect(await page.locator('#failure-advice').textContent()).toMatch(/^Either there is no way to the server/);
    await page.close();
  });

  it.each([
    ['Escape', "dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))"],
    ['the button', "document.querySelector('#stop').click()"],
  ])('stops in the middle, by %s, keeps what is there, and writes again', async (_, stop) => {
    const { page } = await openLoaded();
    await setLength(page, 480);
    await page.evaluate(`new MutationObserver((_, observer) => {
        if ((document.querySelector('.out')?.textContent ?? '') === '') return;
        observer.disconnect();
        ${stop};
      }).observe(document.body, { subtree: true, childList: true, characterData: true }); undefined`);
    await send(page);
    const stopped = await figures(page);
    expect(stopped).toContain('stopped');
    expect(Number(/(\d+) tokens? first/.exec(stopped)?.[1])).toBeLessThan(480);
    const text = await page.locator('.out').textContent();
    expect(text).not.toBe('');
    await page.locator('#prompt').fill('The king');
    await setLength(page, 8);
    await send(page);
    expect(await page.locator('.turn').count()).toBe(2);
    expect(await figures(page)).toMatch(/8 tokens.*length reached/s);
    await page.close();
  });

  it('writes the same with a seed, again and anew, and forgets when told', async () => {
    const { page } = await openLoaded();
    await setLength(page, 12);
    await page.locator('#seed').fill('7');
    await send(page);
    const text = await page.locator('.prose').textContent();
    await page.locator('.tools button:has-text("Again")').click();
    await page.locator('#send').waitFor();
    expect(await page.locator('.turn').count()).toBe(1);
    expect(await page.locator('.prose').textContent()).toBe(text);
    await page.locator('button[type=reset]').click();
    expect(await page.locator('#max-tokens').evaluate((field: HTMLInputElement) => field.value)).toBe('200');
    await page.locator('.tools button:has-text("Clear")').click();
    expect(await page.locator('.turn').count()).toBe(0);
    expect(await focused(page)).toBe('prompt');
    await page.close();
  });

  it('takes texts of people and models as text, in their own direction', async () => {
    const { page, trail } = await openLoaded();
    await setLength(page, 4);
    for (const mode of ['continue', 'chat']) {
      await page.locator(`#mode input[value=${mode}]`).check();
      await page.locator('#prompt').fill('<img src=x onerror="document.title=1"> \u05e9\u05dc\u05d5\u05dd <b>x</b>');
      await send(page);
    }
    expect(await page.locator('#turns img, #turns b').count()).toBe(0);
    expect(await page.locator('#turns').textContent()).toContain('<img src=x onerror="document.title=1">');
    await page.locator('#prompt').fill('\u05e9\u05dc\u05d5\u05dd');
    await send(page);
    expect(
      await page
        .locator('.said')
        .last()
        .evaluate((said) => getComputedStyle(said).direction),
    ).toBe('rtl');
    expect(trail.errors).toEqual([]);
    await page.close();
  });

  it('chats: what was said before is in the prompt, and the system prompt', async () => {
    const { page } = await openLoaded();
    await page.locator('#mode input[value=chat]').check();
    await page.locator('#system').fill('You are a fox.');
    await setLength(page, 6);
    for (const text of ['Hello', 'And then?']) {
      await page.locator('#prompt').fill(text);
      await page.keyboard.press('Enter');
      await page.locator('#send').waitFor();
    }
    expect(await page.locator('.said').count()).toBe(2);
    // Longer than the context: the library says so, the text is not lost, and the page goes on.
    await page.locator('#prompt').fill('word '.repeat(600));
    await page.keyboard.press('Enter');
    await page.locator('#failure').waitFor();
    expect(await page.locator('#failure-message').textContent()).toMatch(/tokens, expected at most 512/);
    await page.locator('#failure-close').click();
    expect(await focused(page)).toBe('prompt');
    expect(await page.locator('.turn').count()).toBe(2);
    await page.locator('.tools button:has-text("Clear")').click();
    expect(await page.locator('.turn').count()).toBe(0);
    await page.close();
  });

  it('opens a file that is chosen or dropped, and tells what is wrong with a broken one', async () => {
    const { page } = await open();
    await page.locator('#pick-file').setInputFiles(TINY);
    await page.locator('#prompt').waitFor();
    expect(await page.locator('#model-line').textContent()).toContain('I2_S');
    await setLength(page, 8);
    await page.locator('#prompt').fill('a');
    await send(page);
    expect(await figures(page)).toContain('8 tokens');

    await page.locator('#change').click();
    const broken = { name: 'broken.gguf', mimeType: '', buffer: readFileSync(TINY).subarray(0, 5000) };
    await page.locator('#pick-file').setInputFiles(broken);
    await page.locator('#failure').waitFor();
    expect(await page.locator('#failure-title').textContent()).toBe('broken.gguf could not be loaded');
    expect(await page.locator('#failure-message').textContent()).toMatch(/^broken\.gguf: .*byte/);
    expect(await focused(page)).toBe('failure');
    expect(await page.locator('#picker').isVisible()).toBe(true);

    await page.evaluate(
      (base64) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], 'dropped.gguf'));
        dispatchEvent(new DragEvent('dragenter', { dataTransfer }));
        if (document.getElementById('dropping')?.hidden !== false) throw new Error('no veil');
        dispatchEvent(new DragEvent('drop', { dataTransfer }));
      },
      readFileSync(TINY, 'base64'),
    );
    await page.locator('#prompt').waitFor();
    expect(await page.locator('#failure').isVisible()).toBe(false);
    expect(await page.locator('#dropping').isVisible()).toBe(false);
    await page.close();
  });

  it('tells of an address where there is nothing, and of no way there', async () => {
    const { page } = await open();
    await page.locator('#address').fill(`${demo.url}no.gguf`);
    await page.keyboard.press('Enter');
    await page.locator('#failure').waitFor();
    expect(await page.locator('#failure-message').textContent()).toContain('404');
    expect(await page.locator('#failure-advice').textContent()).toContain('Check the address');
    await page.route('https://models.example/*', (route) => route.abort());
    await page.locator('#address').fill('https://models.example/a.gguf');
    await page.keyboard.press('Enter');
    await page.locator('#failure-title:has-text("a.gguf")').waitFor();
    expect(await page.locator('#failure-advice').textContent()).toMatch(/Download the file/);
    await page.locator('#failure-close').click();
    expect(await page.locator('#failure').isVisible()).toBe(false);
    await page.close();
  });

  it('keeps what it downloads, until it is removed', async () => {
    const { page, trail } = await open();
    const address = `${demo.url}tales.gguf`;
    expect(await page.locator('#kept').isVisible()).toBe(false);
    await page.locator('#address').fill(address);
    await page.keyboard.press('Enter');
    await page.locator('#prompt').waitFor();
    expect(await page.locator('#loading-memory').textContent()).toMatch(
      /^It takes 6\.\d+ MB of memory, of at most 4\.29 GB/,
    );
    expect(trail.requests).toContain(address);
    trail.requests.length = 0;
    await page.locator('#change').click();
    await page.locator('#kept-list .name:has-text("/tales.gguf")').waitFor();
    await page.locator('#kept-list button:has-text("Load")').click();
    await page.locator('#prompt').waitFor();
    expect(trail.requests.filter((url) => !url.startsWith('blob:'))).toEqual([]);
    await page.locator('#change').click();
    page.on('dialog', (dialog) => dialog.accept());
    await page.locator('#kept-list button:has-text("Remove")').click();
    await page.locator('#kept').waitFor({ state: 'hidden' });
    await page.locator('#picker-back').click();
    expect(await focused(page)).toBe('prompt');
    expect(trail.errors).toEqual([]);
    await page.close();
  });

  it('goes on with the CPU where the GPU fails', async () => {
    const page = await browser.newPage();
    await page.addInitScript(() => {
      const adapter = {
        info: { isFallbackAdapter: false },
        features: new Set(),
        limits: {},
        requestDevice: () => Promise.reject(new Error('webgpu: this one is broken')),
      };
      Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => adapter } });
    });
    await page.goto(demo.url);
    await page.locator('#compute input[value=both]').check();
    await page.locator('#pick-shipped').click();
    await page.locator('#failure').waitFor();
    expect(await page.locator('#failure-message').textContent()).toBe('webgpu: this one is broken');
    expect(await page.locator('#failure-advice').textContent()).toMatch(/choose CPU/);
    await page.locator('#failure-retry').click();
    await page.locator('#failure').waitFor();
    await page.locator('#failure-close').click();
    await setLength(page, 8);
    await send(page);
    expect(await figures(page)).toMatch(/8 tokens.* wasm/);
    await page.close();
  });

  it('cancels a load', async () => {
    const { page } = await open();
    await page.route('**/tales.gguf', () => {}); // no answer ever comes
    await page.locator('#pick-shipped').click();
    await page.locator('#loading-bar').waitFor();
    expect(await violations(page)).toEqual([]);
    await page.locator('#loading-cancel').click();
    await page.locator('#picker').waitFor();
    expect(await page.locator('#failure').isVisible()).toBe(false);
    expect(await focused(page)).toBe('picker-title');
    await page.close();
  });

  it('is used with the keyboard alone', async () => {
    const { page } = await open();
    const tabTo = async (id: string) => {
      for (let i = 0; i < 20; i++) {
        await page.keyboard.press('Tab');
        if ((await focused(page)) === id) return;
      }
      throw new Error(`no way to #${id}`);
    };
    for (const id of ['pick-shipped', 'pick-file', 'address']) await tabTo(id);
    await page.keyboard.press('Shift+Tab');
    await page.keyboard.press('Shift+Tab');
    expect(await focused(page)).toBe('pick-shipped');
    await page.keyboard.press('Enter');
    await page.locator('#prompt').waitFor();
    expect(await focused(page)).toBe('prompt');
    await page.keyboard.press('Control+A');
    await page.keyboard.type('One day');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('a fox');
    await page.keyboard.press('Enter');
    await page.locator('.figures .speed').waitFor();
    await page.locator('#send').waitFor();
    expect(await page.locator('.prompt').textContent()).toBe('One day\na fox');
    expect(await focused(page)).toBe('prompt');
    await page.keyboard.press('Tab');
    await page.keyboard.press('ArrowRight');
    expect(await page.locator('#prompt-label').textContent()).toBe('Message');
    await page.close();
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    it(`passes axe-core, ${colorScheme}, and never scrolls sideways on a phone`, async () => {
      const { page } = await open('', { colorScheme, viewport: PHONE });
      const check = async (state: string) => {
        expect(await violations(page), state).toEqual([]);
        const over = await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
        expect(over, `${state}: pixels too wide`).toBeLessThanOrEqual(0);
      };
      await check('picker');
      await page.locator('#pick-file').setInputFiles({ name: 'x'.repeat(200), mimeType: '', buffer: Buffer.alloc(99) });
      await page.locator('#failure').waitFor();
      await check('failure');
      await page.locator('#pick-shipped').click();
      await page.locator('#prompt').waitFor();
      await page.locator('#settings summary').click();
      await page.locator('#about summary').click();
      await check('ready');
      await setLength(page, 40);
      await page.locator('#prompt').fill('w'.repeat(300));
      await send(page);
      await page.locator('#mode input[value=chat]').check();
      await page.locator('#prompt').fill('w'.repeat(300));
      await send(page);
      await check('answered');
      await page.close();
    });
  }
});

describe.skipIf(missing !== undefined)('CPU and GPU', () => {
  it('draw the same beside each other, on the software GPU of Chromium', { timeout: 240_000 }, async () => {
    const other = await openBrowser(true);
    try {
      const { page, trail } = await open('?gpu=1', { viewport: { width: 1280, height: 800 } }, other);
      await page.locator('#compute input[value=both]').check();
      await page.locator('#pick-shipped').click();
      await page.locator('#prompt').waitFor({ timeout: 120_000 });
      await setLength(page, 12);
      await page.locator('#send').click();
      await page.locator('.verdict').waitFor({ timeout: 120_000 });
      expect(await page.locator('.verdict').textContent()).toBe('CPU and GPU drew the same 12 tokens.');
      expect(await page.locator('.answer').count()).toBe(2);
      expect(await figures(page)).toContain('webgpu');
      expect(await page.locator('.speed').count()).toBe(2);
      expect(await violations(page)).toEqual([]);
      expect(trail.errors).toEqual([]);
    } finally {
      await other.close();
    }
  });

  it('a software GPU is offered only where the address asks for it', async () => {
    const other = await openBrowser(true);
    try {
      const { page } = await open('', {}, other);
      await page.locator('#pick-shipped').click();
      await page.locator('#prompt').waitFor();
      expect(await page.locator('#compute').isVisible()).toBe(false);
    } finally {
      await other.close();
    }
  });
});
