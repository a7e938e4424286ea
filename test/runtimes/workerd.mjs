// workerd: the row of the runtimes, and how a worker is bundled and served, by esbuild and a configuration like demo/edge's.
import { cp, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { load, programs, versionOf } from './install.mjs';
import { startServer } from './run.mjs';

const WORKER = `import { loadModel } from 'ternlm';
import tales from 'ternlm/demo/tales.gguf';
import { exercise } from './program.mjs';

export default {
  fetch: async () => Response.json(await exercise({ loadModel, model: tales })),
};
`;

/** How files are told to workerd. */
const KINDS = { js: 'esModule', wasm: 'wasm', gguf: 'data' };

/**
 * Bundles a worker and serves it.
 *
 * @param {string} cwd a folder where ternlm is installed
 * @param {string} entry a module in it
 */
export async function serveWorker(cwd, entry) {
  const { build } = await load('esbuild/lib/main.js');
  const outdir = join(cwd, 'out');
  await build({
    ...{ absWorkingDir: cwd, entryPoints: [entry], outdir, bundle: true, format: 'esm', conditions: ['workerd'] },
    ...{ loader: { '.wasm': 'copy', '.gguf': 'copy' }, assetNames: '[name]', logLevel: 'silent' },
  });
  const files = await readdir(outdir);
  // The first module is the worker.
  const modules = files
    .sort((a, b) => (b === entry) - (a === entry))
    .map((name) => {
      const kind = KINDS[name.split('.').at(-1)];
      return `(name = "${name}", ${kind} = embed "out/${name}")`;
    });
  await writeFile(
    join(cwd, 'config.capnp'),
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const main :Workerd.Worker = (compatibilityDate = "2026-11-01", modules = [${modules.join(', ')}]);
`,
  );
  // It tells as JSON which port it took.
  const args = ['serve', 'config.capnp', '--control-fd=1'];
  const server = await startServer(programs.workerd, args, { cwd, where: /"port":(\d+)/ });
  return { ...server, url: `http://127.0.0.1:${server.found}/` };
}

export const workers = [
  {
    name: 'workerd',
    title: 'workerd',
    async run({ installed }) {
      const cwd = await installed();
      await cp(join(import.meta.dirname, 'program.mjs'), join(cwd, 'program.mjs'));
      await writeFile(join(cwd, 'worker.js'), WORKER);
      const server = await serveWorker(cwd, 'worker.js');
      try {
        const response = await fetch(server.url, { signal: AbortSignal.timeout(60_000) });
        if (!response.ok) throw new Error(`${response.status} ${await response.text()}\n${server.said()}`);
        // A server does not end by itself.
        return { ...(await response.json()), exits: '-', version: versionOf('@cloudflare/workerd-linux-64') };
      } finally {
        await server.close();
      }
    },
  },
];
