// New projects, made as a reader of README makes them: a folder, the package, the snippet pasted. Each has to write the same text.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { demoModel, loadModel } from '../../dist/index.js';
import { ISOLATION, inPage, pageOf, serve } from './chromium.mjs';
import { programs } from './install.mjs';
import { DENO } from './processes.mjs';
import { npm, root } from './publish.mjs';
import { runOk, startServer } from './run.mjs';
import { serveWorker } from './workerd.mjs';

/** @returns {Promise<string>} README's fenced block of JavaScript that begins so, after a heading where one is given */
async function snippet(first, heading = '') {
  const text = await readFile(join(root, 'README.md'), 'utf8');
  const from = heading === '' ? 0 : text.indexOf(`\n${heading}\n`);
  const found = [...text.slice(from).matchAll(/\n```js\n(.*?)\n```\n/gs)].map((match) => `${match[1]}\n`);
  const code = found.find((code) => code.startsWith(first));
  if (from < 0 || code === undefined) throw new Error(`README.md has no block of js that begins with '${first}'`);
  return code;
}

const LIBRARY = ['import ', '## The library'];
const IN_A_PAGE = ['// in a page'];
const ON_WORKERD = ['// worker.js, on workerd'];

/** What the snippets write, and the command: here, by this Node. */
async function expectedTexts() {
  const model = await loadModel(demoModel, { threads: 1 });
  const text = async (options) => (await model.complete('Once upon a time', options)).text;
  const texts = {
    snippet: await text({ maxTokens: 100, seed: 7 }),
    command: await text({ maxTokens: 20, temperature: 0 }),
  };
  await model.dispose();
  return texts;
}
const expectedText = async ({ shared }, name = 'snippet') => (await shared('texts', expectedTexts))[name];

async function check(text, context, name) {
  const expected = await expectedText(context, name);
  if (text.trim() !== expected.trim()) {
    throw new Error(`it writes ${JSON.stringify(text)}, expected ${JSON.stringify(expected)}`);
  }
  return `${JSON.stringify(text.trim()).slice(0, 40)}…`;
}

/** A snippet as a program of a process. */
const script = (title, command, add, given = (code) => code) => ({
  name: `project-${title.toLowerCase()}`,
  title,
  async run(context) {
    const cwd = await context.folder(`project-${title}`);
    await add?.({ ...context, cwd });
    await writeFile(join(cwd, 'main.mjs'), given(await snippet(...LIBRARY)));
    const [program, ...args] = command;
    const { stdout, stderr } = await runOk(program, [...args, 'main.mjs'], { cwd, env: context.env });
    if (stderr !== '') throw new Error(`it says on stderr: ${stderr}`);
    return { seen: await check(stdout, context) };
  },
});

const node = script('Node', [process.execPath], ({ cwd, env }) => npm(['install', 'ternlm'], { cwd, env }));
const bun = script('Bun', [programs.bun], ({ cwd, env }) => runOk(programs.bun, ['add', 'ternlm'], { cwd, env }));
const deno = script('Deno', [programs.deno, 'run', ...DENO, '--quiet'], undefined, (code) =>
  code.replace("'ternlm'", "'npm:ternlm'"),
);

/** A new app of Vite with the snippet, and the element that it writes into. */
const app = ({ shared, folder, env }) =>
  shared('vite', async () => {
    const cwd = await folder('project-vite');
    await npm(['install', 'ternlm', '--no-audit', '--no-fund'], { cwd, env });
    await writeFile(join(cwd, 'index.html'), pageOf('<p id="text"></p><script type="module" src="/main.js"></script>'));
    await writeFile(join(cwd, 'main.js'), await snippet(...IN_A_PAGE));
    return cwd;
  });

/** The text of the page once it is whole. */
const textIn = async (url, context, leastWorkers = 1) => {
  const { length } = await expectedText(context);
  const { skipped, text, workers } = await inPage(url, async (page) => {
    const p = page.locator('#text');
    await page.waitForFunction((length) => document.querySelector('#text').textContent.length >= length, length);
    return { text: await p.textContent() };
  });
  if (skipped !== undefined) return { skipped };
  if (workers < leastWorkers) throw new Error(`${workers} workers were started, expected at least ${leastWorkers}`);
  return { seen: await check(text, context) };
};

const build = {
  name: 'project-vite-build',
  title: 'Vite, built, isolated',
  async run(context) {
    const cwd = await app(context);
    await runOk(process.execPath, [programs.vite, 'build'], { cwd });
    const server = await serve(join(cwd, 'dist'), ISOLATION);
    try {
      // The engine's, and its threads.
      return await textIn(server.url, context, 3);
    } finally {
      server.close();
    }
  },
};

const dev = {
  name: 'project-vite-dev',
  title: 'Vite, dev server',
  async run(context) {
    const cwd = await app(context);
    // At a port of its choice.
    const args = [programs.vite, '--host', '127.0.0.1'];
    const server = await startServer(process.execPath, args, { cwd, where: /(http:\/\/127[.:\d]+\/)/ });
    try {
      return await textIn(server.found, context);
    } finally {
      await server.close();
    }
  },
};

const workerd = {
  name: 'project-workerd',
  title: 'workerd',
  async run(context) {
    const cwd = await context.folder('project-workerd');
    await npm(['install', 'ternlm', '--no-audit', '--no-fund'], { cwd, env: context.env });
    await writeFile(join(cwd, 'worker.js'), await snippet(...ON_WORKERD));
    const server = await serveWorker(cwd, 'worker.js');
    try {
      const response = await fetch(server.url, { signal: AbortSignal.timeout(60_000) });
      return { seen: await check(await response.text(), context) };
    } finally {
      await server.close();
    }
  },
};

/** The command, of a package that is not installed. */
const command = (name, title, program, args) => ({
  name,
  title,
  async run(context) {
    const cwd = await context.folder(name);
    const run = [...args, 'run', 'Once upon a time', '-n', '20', '--temp', '0'];
    const { stdout } = await runOk(program, run, { cwd, env: context.env });
    return { seen: await check(stdout, context, 'command') };
  },
});
const commands = [
  command('command-npx', 'npx ternlm', 'npx', ['--yes', 'ternlm']),
  command('command-bun', 'bunx --bun ternlm', programs.bun, ['x', '--bun', 'ternlm']),
  command('command-deno', 'deno npm:ternlm', programs.deno, ['run', '-A', '--quiet', 'npm:ternlm']),
];

/** @type {readonly import('./context.mjs').Row[]} */
export const projects = [node, deno, bun, build, dev, workerd, ...commands];
