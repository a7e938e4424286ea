// What the rows of the tables share.
import { mkdir } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { npm } from './publish.mjs';

/**
 * @typedef {object} Context
 * @property {string} version of the package
 * @property {readonly Awaited<ReturnType<typeof import('./publish.mjs').pack>>[]} packages ternlm, then its plugin
 * @property {Record<string, string>} env with which npm, Deno and Bun ask this run's registry, and keep nothing
 * @property {(name: string) => Promise<string>} folder makes an empty one
 * @property {<T>(name: string, make: () => Promise<T>) => Promise<T>} shared what several rows need, made once
 * @property {() => Promise<string>} installed a folder with `npm install ternlm`
 *
 * @typedef {object} Row
 * @property {string} name on the command line
 * @property {string} title in the table
 * @property {string} [variant] what follows the version there
 * @property {(context: Context) => Promise<object>} run gives the cells of a line, of which a verdict is 'ok' or says what went
 *   wrong, or `{ skipped: reason }`; throws where there is no result
 */

/** @param {string} temporary a folder that is removed in the end @param {string} url of the registry @returns {Context} */
export function createContext(temporary, packages, url) {
  const made = new Map();
  const caches = { NPM_CONFIG_CACHE: 'npm', DENO_DIR: 'deno', BUN_INSTALL_CACHE_DIR: 'bun' };
  // npm run puts the commands of this repository first.
  const path = process.env.PATH.split(delimiter).filter((folder) => !folder.endsWith('node_modules/.bin'));
  const context = {
    ...{ version: packages[0].version, packages },
    env: {
      PATH: path.join(delimiter),
      NPM_CONFIG_REGISTRY: url,
      ...Object.fromEntries(Object.entries(caches).map(([key, name]) => [key, join(temporary, 'caches', name)])),
    },
    async folder(name) {
      const path = join(temporary, name);
      await mkdir(path);
      return path;
    },
    shared(name, make) {
      if (!made.has(name)) made.set(name, make());
      return made.get(name);
    },
    installed: () =>
      context.shared('installed', async () => {
        const cwd = await context.folder('installed');
        await npm(['install', 'ternlm', '--no-audit', '--no-fund'], { cwd, env: context.env });
        return cwd;
      }),
  };
  return context;
}
