// The example of demo/edge in workerd, Cloudflare's runtime, as a server: what holds it up, and what may not.
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { programs } from './install.mjs';
import { npm, root } from './publish.mjs';
import { runOk, startServer } from './run.mjs';

const example = join(root, 'demo/edge');
/** Of which a worker of Cloudflare's has 128 MiB. */
const MEMORY_MB = 134;
/** Of BitNet b1.58 2B4T. */
const LAYERS = 30;
const PROMPTS = ['The fox', 'A king had three sons', 'Once upon a time'];

/** What says how loading an address went. Beside the example's model, as the configuration has that. */
const LOADER = `import { loadModel } from 'ternlm';
import 'ternlm/demo/tales.gguf';

export default {
  async fetch({ url }) {
    const model = await loadModel(new URL(url).searchParams.get('load')).catch((error) => error);
    return new Response(model instanceof Error ? String(model) : model.info.name);
  },
};
`;

function expect(condition, message) {
  if (!condition) throw new Error(message);
}

/** A new project with the package, a worker and the configuration of the example, bundled as its README says. */
async function project({ folder, env }, name, worker) {
  const cwd = await folder(name);
  await npm(['install', 'ternlm', '--no-audit', '--no-fund'], { cwd, env });
  await writeFile(join(cwd, 'worker.js'), worker);
  // The example asks for nothing outside; a test has its servers on this machine.
  const config = await readFile(join(example, 'config.capnp'), 'utf8');
  const internet = '(name = "internet", network = (allow = ["public", "private"])), ';
  await writeFile(join(cwd, 'config.capnp'), config.replace('services = [', `$&${internet}`));
  const command = /^npx esbuild (worker\.js .*)$/m.exec(await readFile(join(example, 'README.md'), 'utf8'));
  await runOk(process.execPath, [programs.esbuild, ...command[1].split(' '), '--log-level=warning'], { cwd });
  return cwd;
}

/** Does `work` with a server, which then has to end on SIGTERM, and without a word. */
async function serving(cwd, work) {
  const args = ['serve', 'config.capnp', '--socket-addr=http=127.0.0.1:0', '--control-fd=1'];
  const { pid, found, said, close } = await startServer(programs.workerd, args, { cwd, where: /"port":(\d+)/ });
  const server = {
    url: `http://127.0.0.1:${found}/`,
    /** Its own memory, in MB. */
    async memory() {
      return Number(/^RssAnon:\s*(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))[1]) / 1000;
    },
    /** Time of its processors, in ms. */
    async cpu() {
      const [user, system] = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1].split(' ').slice(11);
      return 10 * (Number(user) + Number(system));
    },
  };
  let result;
  try {
    result = await work(server);
  } catch (error) {
    throw new Error(`${error.message}; the server: ${said()}`, { cause: error });
  } finally {
    const code = await close();
    if (result !== undefined) expect(code === 0, `SIGTERM ended it with ${code}`);
  }
  const words = said().replace(/^{"event":"listen".*\n/, '');
  expect(words === '', `the server said: ${words}`);
  return result;
}

const loader = (context) => context.shared('edge-loader', () => project(context, 'edge-loader', LOADER));

const exampleOf = (context) =>
  context.shared('edge', async () => project(context, 'edge', await readFile(join(example, 'worker.js'))));

/** As fetch, with an end for a server that does not answer. */
function ask(url, options = {}) {
  const limit = AbortSignal.timeout(20_000);
  return fetch(url, { ...options, signal: AbortSignal.any([limit, ...(options.signal ? [options.signal] : [])]) });
}

function write(url, prompt, { max = 400, ...options } = {}) {
  return ask(`${url}?${new URLSearchParams({ prompt, max, seed: 7 })}`, options);
}
const text = async (...args) => (await write(...args)).text();

/** From a request to its first bytes, and to its end, in ms. */
async function times(url, options) {
  const began = performance.now();
  const marks = [];
  for await (const _ of (await write(url, PROMPTS[0], options)).body) marks.push(performance.now() - began);
  return { first: marks[0], all: marks[marks.length - 1], chunks: marks.length };
}

async function streams(context) {
  const cwd = await exampleOf(context);
  const began = performance.now();
  return serving(cwd, async ({ url }) => {
    const cold = await times(url, { max: 1 });
    const started = performance.now() - began - cold.all;
    await text(url, PROMPTS[0]);
    const { first, all, chunks } = await times(url);
    expect(chunks > 50, `400 tokens came in ${chunks} pieces`);
    expect(first < all / 2, `the first of 400 tokens came after ${first} ms, the last after ${all} ms`);
    const perSecond = (1000 * 399) / (all - first);
    return {
      seen: `ready after ${started.toFixed(0)} ms; first token ${cold.first.toFixed(0)} ms, later ${first.toFixed(1)} ms; ${perSecond.toFixed(0)} tok/s`,
    };
  });
}

/** Requests that compute at once, and one that has to wait: each gets the text that it gets alone. */
async function concurrent(context) {
  return serving(await exampleOf(context), async ({ url, memory }) => {
    const before = await memory();
    const prompts = [...PROMPTS, 'There was a', 'In the forest'];
    const alone = [];
    for (const prompt of prompts) alone.push(await text(url, prompt));
    const together = await Promise.all(prompts.map((prompt) => text(url, prompt)));
    for (const [i, prompt] of prompts.entries()) {
      expect(together[i] === alone[i], `${prompt}: alone "${alone[i]}", with others "${together[i]}"`);
    }
    expect(new Set(alone).size === prompts.length, 'the same text for each prompt');
    const after = await memory();
    expect(after < MEMORY_MB, `${after} MB of memory, expected at most ${MEMORY_MB}`);
    return { seen: `${prompts.length} requests; ${before.toFixed(0)} MB of memory, then ${after.toFixed(0)}` };
  });
}

/** The first request leaves; those that compute with it go on, and it costs nothing more. */
async function leaves(context) {
  return serving(await exampleOf(context), async ({ url, cpu }) => {
    const expected = await text(url, PROMPTS[1]);
    const whole = async () => {
      const began = await cpu();
      await Promise.all(Array.from({ length: 8 }, () => text(url, PROMPTS[0])));
      return (await cpu()) - began;
    };
    const wholeMs = await whole();
    const began = await cpu();
    const leaving = new AbortController();
    const { signal } = leaving;
    const eight = Array.from({ length: 8 }, () =>
      write(url, PROMPTS[0], { signal }).then((response) => response.text()),
    );
    const staying = text(url, PROMPTS[1], { max: 40 });
    await Promise.race(eight.map((one) => one.catch(() => {})).concat(sleep(20)));
    leaving.abort();
    await Promise.allSettled(eight);
    expect(expected.startsWith(await staying), 'who stayed got another text');
    await sleep(Math.max(200, wholeMs));
    const ms = (await cpu()) - began;
    expect(ms < wholeMs / 2, `${ms} ms of computing for eight who left, ${wholeMs} ms for eight who stayed`);
    expect((await text(url, PROMPTS[1])) === expected, 'the next request got another text');
    return { seen: `${ms} ms of computing, ${wholeMs} ms without leaving` };
  });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function badInput(context) {
  return serving(await exampleOf(context), async ({ url }) => {
    const post = (body) => ask(url, { method: 'POST', body });
    const asked = [
      [() => ask(url), 400, /prompt/],
      [() => write(url, 'a', { max: 'x' }), 400, /maxTokens.*NaN/],
      [() => write(url, 'a b c d '.repeat(1000)), 400, /at most 512/],
      [() => post('{"prompt": '), 400, /JSON/],
      [() => post('{"prompt": ["a"]}'), 400, /prompt/],
      [() => post('null'), 400, /prompt/],
      [() => post('a'.repeat(20_000)), 400, /16384 bytes/],
      [() => ask(url, { method: 'PUT' }), 405, /GET or POST/],
    ];
    for (const [request, status, message] of asked) {
      const response = await request();
      const { error } = await response.json();
      const got = `HTTP ${response.status}: ${error}`;
      expect(response.status === status && message.test(error), `${got}, expected HTTP ${status}: ${message}`);
    }
    expect((await (await post('{"prompt": "The fox", "max": 3}')).text()).length > 0, 'no text for a POST');
    return { seen: `${asked.length} refused` };
  });
}

/** The demo model behind ranges; the header of one with 30 layers of 2B4T; and bodies that would have to be kept whole. */
async function addresses(context) {
  const { bytes, size } = await largeHeader();
  const tales = await readFile(join(root, 'demo/tales.gguf'));
  let sent = 0;
  const server = createServer((request, response) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (request.url === '/tales') {
      const [at, end] = [Number(range[1]), Number(range[2])];
      response.writeHead(206, { 'content-range': `bytes ${at}-${end}/${tales.length}` });
      response.end(tales.subarray(at, end + 1));
    } else if (request.url === '/ranges' && range !== null) {
      const [at, end] = [Number(range[1]), Number(range[2])];
      const part = Buffer.alloc(Math.min(end + 1 - at, 1 << 24));
      part.set(bytes.subarray(at, at + part.length));
      sent += part.length;
      response.writeHead(206, { 'content-range': `bytes ${at}-${end}/${size}` }).end(part);
    } else if (request.url === '/whole') response.writeHead(200, { 'content-length': size }).write(bytes);
    else {
      response.writeHead(200);
      const chunk = Buffer.alloc(1 << 20, 'GGUF');
      const more = () => {
        if (response.destroyed) return;
        sent += chunk.length;
        response.write(chunk, more);
      };
      more();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = `http://127.0.0.1:${server.address().port}`;
  try {
    return await serving(await loader(context), async ({ url }) => {
      const load = async (path) => (await ask(`${url}?load=${encodeURIComponent(address + path)}`)).text();
      const loaded = await load('/tales');
      expect(loaded === 'ternlm tales', `a model behind an address: ${loaded}`);
      const refused = await load('/ranges');
      expect(/does not fit: layers 522.* of at most 100\.34 MB/.test(refused), `said: ${refused}`);
      expect(sent < 2e6, `${sent} bytes were read before that`);
      const seen = `${(sent / 1000).toFixed(0)} KB read of ${(size / 1e9).toFixed(2)} GB`;
      for (const path of ['/whole', '/endless']) {
        const kept = await load(path);
        expect(/no ranges, and \d+ .*at most 16777216/.test(kept), `said: ${kept}`);
      }
      expect(sent < 1e8, `${sent} bytes were sent of a body without end`);
      return { seen };
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** The header of the demo model with the shape of BitNet b1.58 2B4T, but for its vocabulary. */
async function largeHeader() {
  const from = (path) => import(join(root, 'dist/gguf', path));
  const [{ openSource }, { readHeader }, writer] = await Promise.all(
    ['source.js', 'header.js', 'writer.js'].map((path) => from(path)),
  );
  const source = await openSource(join(root, 'demo/tales.gguf'));
  const header = await readHeader(source);
  await source.close();
  const metadata = writer.typedMetadata(header);
  const sizes = { 256: 2560, 768: 6912, 128: 640, 2048: 2048 };
  const keys = { block_count: LAYERS, embedding_length: 2560, feed_forward_length: 6912, 'rope.dimension_count': 128 };
  const counts = { 'attention.head_count': 20, 'attention.head_count_kv': 5 };
  for (const [key, value] of Object.entries({ ...keys, ...counts })) {
    metadata.set(`bitnet-b1.58.${key}`, { type: 'u32', value });
  }
  const grown = ({ name, type, dims }) => ({ name, type, dims: dims.map((dim) => sizes[dim]) });
  const tensors = [...header.tensors.values()].map(grown);
  const layer = tensors.filter(({ name }) => name.startsWith('blk.0.'));
  const layers = Array.from({ length: LAYERS }, (_, i) =>
    layer.map(({ name, ...shape }) => ({ name: name.replace('blk.0.', `blk.${i}.`), ...shape })),
  );
  const others = tensors.filter(({ name }) => !name.startsWith('blk.'));
  return writer.headerBytes(metadata, [...others, ...layers.flat()]);
}

/** @type {readonly import('./context.mjs').Row[]} */
export const edge = [
  { name: 'edge-streams', title: 'streams', run: streams },
  { name: 'edge-together', title: 'requests at once', run: concurrent },
  { name: 'edge-leaves', title: 'clients that leave', run: leaves },
  { name: 'edge-input', title: 'bad input', run: badInput },
  { name: 'edge-addresses', title: 'models of addresses', run: addresses },
];
