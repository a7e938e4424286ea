import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from '../../plugins/webgpu/test/adapters.js';

// What of playwright-core the tests use, typed by hand: it is installed beside the runtimes (test/runtimes) and not with the
// package's own tools.

export interface Locator {
  click(): Promise<void>;
  check(): Promise<void>;
  fill(text: string): Promise<void>;
  focus(): Promise<void>;
  textContent(): Promise<string | null>;
  isVisible(): Promise<boolean>;
  count(): Promise<number>;
  last(): Locator;
  evaluate<R, E extends HTMLElement>(work: (found: E) => R): Promise<R>;
  waitFor(options?: { state?: 'visible' | 'hidden'; timeout?: number }): Promise<void>;
  setInputFiles(files: string | { name: string; mimeType: string; buffer: Buffer }): Promise<void>;
}

export interface Page {
  goto(url: string): Promise<unknown>;
  locator(selector: string): Locator;
  readonly keyboard: { press(key: string): Promise<void>; type(text: string): Promise<void> };
  evaluate<R, A>(work: (given: A) => R | Promise<R>, given: A): Promise<R>;
  evaluate<R>(work: string): Promise<R>;
  setDefaultTimeout(ms: number): void;
  close(): Promise<void>;
  on(event: 'console', listen: (message: { type(): string; text(): string }) => void): void;
  on(event: 'pageerror', listen: (error: Error) => void): void;
  on(event: 'dialog', listen: (dialog: { message(): string; accept(): Promise<void> }) => void): void;
  on(event: 'request', listen: (request: { url(): string }) => void): void;
  addInitScript(script: () => void): Promise<void>;
  route(url: string, handle: (route: { abort(): Promise<void> }) => void): Promise<void>;
}

export interface PageOptions {
  readonly viewport?: { readonly width: number; readonly height: number };
  readonly colorScheme?: 'light' | 'dark';
}

export interface Browser {
  newPage(options?: PageOptions): Promise<Page>;
  close(): Promise<void>;
}

const modules = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ternlm/runtimes/node_modules');
const playwright = join(modules, 'playwright-core/index.mjs');
const axe = join(modules, 'axe-core/axe.min.js');

/** What is missing to run the page in a browser, or undefined. */
export const missing: string | undefined =
  chromium === undefined
    ? 'Chromium'
    : existsSync(playwright) && existsSync(axe)
      ? undefined
      : 'playwright-core and axe-core (npm run test:runtimes installs them)';
if (missing !== undefined && process.env.TERNLM_REQUIRE_CHROMIUM) {
  throw new Error(`TERNLM_REQUIRE_CHROMIUM is set, and there is no ${missing}`);
}

/** With `gpu`, the software GPU that Chromium comes with. */
export async function openBrowser(gpu = false): Promise<Browser> {
  const { chromium: engine } = (await import(playwright)) as {
    chromium: { launch(options: object): Promise<Browser> };
  };
  const flags = gpu ? ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : [];
  return engine.launch({ executablePath: chromium, args: ['--no-sandbox', ...flags] });
}

export interface Violation {
  readonly id: string;
  readonly help: string;
  readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[];
}

/** What axe-core finds wrong with the page as it is, by WCAG 2.2 AA and its own best practices. */
export async function violations(page: Page): Promise<string[]> {
  // Evaluated as the tester's, whom the page's policy does not bind.
  await page.evaluate(`${readFileSync(axe, 'utf8')}; undefined`);
  const found = await page.evaluate<{ violations: Violation[] }>('axe.run()');
  return found.violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html}: ${failureSummary}`),
  );
}

export const root: string = fileURLToPath(new URL('../..', import.meta.url));
const MAIN = join(root, 'dist/cli/main.js');

/** `ternlm demo`, on a free port. */
export async function startDemo(args = ['--port', '0']): Promise<{ url: string; child: ChildProcess }> {
  const child = spawn(process.execPath, [MAIN, 'demo', ...args], { stdio: ['ignore', 'pipe', 'ignore'] });
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (text: Buffer) => resolve(String(text).trim()));
    child.once('exit', (code) => reject(new Error(`ternlm demo ended with code ${code}`)));
  });
  return { url, child };
}
