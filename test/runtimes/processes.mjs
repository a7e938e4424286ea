// Rows of the runtimes that are processes: Node, Deno, Bun. The package is installed as its users do, the program is the same.
import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { programs, versionOf } from './install.mjs';
import { run, runOk } from './run.mjs';

const program = (name) => `import { demoModel, loadModel } from '${name}';
import { exercise } from './program.mjs';
const [threads] = process.argv.slice(2).map(Number);
console.log(JSON.stringify(await exercise({ loadModel, model: demoModel, threads })));
`;

/**
 * Adds the program to a folder.
 *
 * @param {string} folder
 * @param {string} [name] what the package is called there
 */
async function addProgram(folder, name = 'ternlm') {
  await cp(join(import.meta.dirname, 'program.mjs'), join(folder, 'program.mjs'));
  await writeFile(join(folder, 'main.mjs'), program(name));
  return folder;
}

/** Runs the program of a folder; it has to end by itself, and to print its result and nothing else. */
async function runProgram(command, args, { cwd, env }) {
  const { stdout, stderr, exits } = await run(command, args, { cwd, env });
  const result = stdout.split('\n').find((line) => line.startsWith('{'));
  if (result === undefined) throw new Error(`no result, ${exits}\n${stderr}\n${stdout}`.trim());
  return { ...JSON.parse(result), exits: stderr === '' ? exits : `${exits}, and printed: ${stderr}` };
}

/** With as many threads as it takes by itself, and with one. */
const withThreads = (row) => [undefined, 1].map((threads) => row(threads?.toString()));
const nameOf = (name, threads) => (threads === undefined ? name : `${name}-${threads}`);

const nodes = [20, 22, 24, 26].flatMap((major) =>
  withThreads((threads) => ({
    name: nameOf(`node${major}`, threads),
    title: `Node ${major}`,
    async run({ shared, installed }) {
      const cwd = await shared('node', async () => addProgram(await installed()));
      const result = await runProgram(programs.node(major), ['main.mjs', ...(threads ?? [])], { cwd });
      return { ...result, version: versionOf(`node${major}`) };
    },
  })),
);

/** All that the library asks for. */
export const DENO = ['--allow-read', '--no-prompt'];

const denos = withThreads((threads) => ({
  name: nameOf('deno', threads),
  title: 'Deno',
  async run({ shared, folder, env, version }) {
    const cwd = await shared('deno', async () => {
      const cwd = await addProgram(await folder('deno'), `npm:ternlm@${version}`);
      // Here, as it tells on stderr what it downloads.
      await runOk(programs.deno, ['cache', 'main.mjs'], { cwd, env });
      return cwd;
    });
    const result = await runProgram(programs.deno, ['run', ...DENO, 'main.mjs', ...(threads ?? [])], { cwd, env });
    return { ...result, version: versionOf('@deno/linux-x64-glibc') };
  },
}));

const buns = withThreads((threads) => ({
  name: nameOf('bun', threads),
  title: 'Bun',
  async run({ shared, folder, env, version }) {
    const cwd = await shared('bun', async () => {
      const cwd = await addProgram(await folder('bun'));
      await runOk(programs.bun, ['add', `ternlm@${version}`], { cwd, env });
      return cwd;
    });
    const result = await runProgram(programs.bun, ['main.mjs', ...(threads ?? [])], { cwd, env });
    return { ...result, version: versionOf('@oven/bun-linux-x64') };
  },
}));

export const processes = [...nodes, ...denos, ...buns];
