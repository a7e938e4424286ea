// The package itself: what is in it, what comes with it, and whether tools that read packages find fault with it.
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { programs } from './install.mjs';
import { npm } from './publish.mjs';
import { runOk } from './run.mjs';

/** What may lie on disk for a user of the package, its dependencies included. */
const MAX_MB = 12;
const TOP = {
  ternlm: ['CHANGELOG.md', 'LICENSE', 'README.md', 'demo', 'dist', 'package.json', 'src'],
  '@ternlm/webgpu': ['dist', 'package.json', 'src'],
};

function expect(condition, message) {
  if (!condition) throw new Error(message);
}
const mb = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** Paths of the files below a folder. */
async function filesBelow(folder) {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

/** Paths that a map of imports or exports ends in. */
const targets = (entry) => (typeof entry === 'object' ? Object.values(entry).flatMap(targets) : [entry ?? []].flat());

async function contents({ packages, installed }) {
  for (const { name, files, manifest } of packages) {
    const top = [...new Set(files.map((path) => path.split('/')[0]))].sort();
    expect(`${top}` === `${TOP[name]}`, `${name} holds ${top}, expected ${TOP[name]}`);
    const stray = files.filter((path) => /(^|\/)(test|bench)\/|\.test\.|\.tsbuildinfo$/.test(path));
    expect(stray.length === 0, `${name} holds ${stray}`);
    const lost = targets([manifest.imports, manifest.exports]).filter((path) => !files.includes(path.slice(2)));
    expect(lost.length === 0, `${name} names in imports or exports, but does not hold ${lost}`);
  }
  // A map leads to sources that came along. Of what is left in dist/ from an earlier build they are gone.
  const maps = (await filesBelow(join(await installed(), 'node_modules/ternlm'))).filter((path) =>
    path.endsWith('.map'),
  );
  for (const path of maps) {
    const { sources, sourcesContent } = JSON.parse(await readFile(path, 'utf8'));
    const lost = sources.filter((source, i) => !sourcesContent?.[i] && !existsSync(resolve(path, '..', source)));
    expect(lost.length === 0, `${path}: its sources ${lost} are not in the package`);
  }
  const [{ files, unpackedBytes }] = packages;
  return { seen: `${files.length} files, ${mb(unpackedBytes)}; ${maps.length} maps, with their sources` };
}

async function install({ folder, env }) {
  const cwd = await folder('install');
  const { stdout, stderr } = await npm(['install', 'ternlm', '--no-audit', '--no-fund'], { cwd, env });
  // About its own settings npm may warn as it likes.
  const said = `${stdout}\n${stderr}`.split('\n').filter((line) => /warn|script/i.test(line) && !/ config /.test(line));
  expect(said.length === 0, `npm install ternlm said: ${said.join('\n')}`);
  const { packages } = JSON.parse(await readFile(join(cwd, 'package-lock.json'), 'utf8'));
  const running = Object.keys(packages).filter((path) => packages[path].hasInstallScript);
  expect(running.length === 0, `run a script when they are installed: ${running}`);
  const files = await filesBelow(join(cwd, 'node_modules'));
  const native = files.filter((path) => /\.(node|so|dylib|dll|exe)$|\/binding\.gyp$/.test(path));
  expect(native.length === 0, `native parts: ${native}`);
  const bytes = (await Promise.all(files.map((path) => stat(path)))).reduce((sum, { size }) => sum + size, 0);
  expect(bytes <= MAX_MB * 1e6, `${mb(bytes)} are installed, expected at most ${MAX_MB} MB`);
  const count = Object.keys(packages).length - 1;
  return { seen: `${count} packages, ${mb(bytes)} of ${MAX_MB}; no scripts, native parts, warnings` };
}

async function plugin({ folder, env }) {
  const cwd = await folder('plugin');
  await npm(['install', 'ternlm', '@ternlm/webgpu', '--no-audit', '--no-fund'], { cwd, env });
  const code = "import { webgpu } from '@ternlm/webgpu'; await webgpu().catch((error) => console.log(error.message));";
  const { stdout } = await runOk(process.execPath, ['--input-type=module', '-e', code], { cwd });
  expect(/webgpu/.test(stdout), `without a GPU it said: ${stdout}`);
  return { seen: `@ternlm/webgpu says ${stdout.trim().split(',')[0]}` };
}

const TOOLS = {
  publint: (tarball) => [programs.publint, 'run', tarball, '--strict'],
  attw: (tarball) => [programs.attw, tarball, '--profile', 'esm-only', '--no-emoji', '--no-color', '--format', 'ascii'],
};

const tools = Object.entries(TOOLS).map(([title, args]) => ({
  name: title,
  title,
  async run({ packages }) {
    for (const { tarball } of packages) await runOk(process.execPath, args(tarball), { cwd: '/' });
    return { seen: packages.map(({ name }) => name).join(', ') };
  },
}));

/** @type {readonly import('./context.mjs').Row[]} */
export const packageChecks = [
  { name: 'contents', title: 'what is packed', run: contents },
  { name: 'install', title: 'npm install', run: install },
  { name: 'plugin', title: 'with the plugin', run: plugin },
  ...tools,
];
