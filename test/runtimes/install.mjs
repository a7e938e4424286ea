// The runtimes and tools of package.json, which all come from npm, in the cache of the user; and Chromium, which does not.
// node test/runtimes/install.mjs: installs them.
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { npm } from './publish.mjs';

const folder = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ternlm/runtimes');
const modules = join(folder, 'node_modules');
const LOCK = 'package-lock.json';

/** Installs what is not there yet. */
export async function installRuntimes() {
  const machine = `${process.platform} ${process.arch}`;
  if (machine !== 'linux x64')
    throw new Error(`the runtimes are packages for linux x64 with glibc; this is ${machine}`);
  const text = (path) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined);
  // Copied last: a folder without it is not complete.
  const stamp = join(folder, 'installed.json');
  const lock = join(import.meta.dirname, LOCK);
  if (text(stamp) === text(lock)) return;
  process.stderr.write(`installing runtimes into ${folder} (1.2 GB)\n`);
  await mkdir(folder, { recursive: true });
  for (const name of ['package.json', LOCK]) await cp(join(import.meta.dirname, name), join(folder, name));
  // Not ci, which begins by removing all, maybe from under another run.
  await npm(['install', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder });
  await cp(lock, stamp);
}

const at = (path) => join(modules, path);
/** @param {string} name of a dependency in package.json */
export const versionOf = (name) => JSON.parse(readFileSync(at(`${name}/package.json`), 'utf8')).version;
/** A module of what is installed. @param {string} path */
export const load = (path) => import(at(path));

/** Programs, by name. */
export const programs = {
  node: (major) => at(`node${major}/bin/node`),
  deno: at('@deno/linux-x64-glibc/deno'),
  bun: at('@oven/bun-linux-x64/bin/bun'),
  esbuild: at('esbuild/bin/esbuild'),
  workerd: at('@cloudflare/workerd-linux-64/bin/workerd'),
  vite: at('vite/bin/vite.js'),
  publint: at('publint/src/cli.js'),
  attw: at('@arethetypeswrong/cli/dist/index.js'),
};

/** Of Debian, as plugins/webgpu/test/driver.sh installs it, or any other. */
export const chromium = ['chromium-headless-shell', 'chromium', 'google-chrome']
  .flatMap((name) => (process.env.PATH ?? '').split(':').map((path) => join(path, name)))
  .find((path) => existsSync(path));

if (process.argv[1] === import.meta.filename) await installRuntimes();
