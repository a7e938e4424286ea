import { execFile } from 'node:child_process';
import {
  closeSync,
  createReadStream,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readHeader } from '../dist/gguf/header.js';
import { openSource } from '../dist/gguf/source.js';
import { headerBytes, type TensorShape, typedMetadata } from '../dist/gguf/writer.js';
import { estimate, loadModel } from '../dist/index.js';

// A model too large for wasm memory, of which there is only the header: its weights are a hole in the file.

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-estimate-'));
const LARGE = join(scratch, 'large.gguf');
let server: Server;
let address: string;
const served: string[] = [];

const [DIM, LAYERS, CONTEXT] = [8192, 40, 8192];

/** A golden model of 2.5 M weights, as if it had 40 layers of 8192 columns: 5.8 GB. */
async function writeLarge(): Promise<void> {
  const golden = fileURLToPath(new URL('./golden/models/tiny-bitnet-i2_s.gguf', import.meta.url));
  const header = await readHeader(await openSource(new Uint8Array(readFileSync(golden))));
  const metadata = typedMetadata(header);
  const u32 = { embedding_length: DIM, block_count: LAYERS, feed_forward_length: 2 * DIM, context_length: CONTEXT };
  for (const [key, value] of Object.entries(u32)) metadata.set(`bitnet.${key}`, { type: 'u32', value });
  // 256 columns become 8192, 512 twice as many, for the head dimension of 64 becomes 2048; but those of the vocabulary stay.
  metadata.set('bitnet.rope.dimension_count', { type: 'u32', value: 64 * 32 });
  const wider = (n: number) => n * 32;
  const tensors = [...header.tensors.values()].flatMap(({ name, type, dims }): TensorShape[] => {
    if (name === 'token_embd.weight') return [{ name, type, dims: [DIM, dims[1]] }];
    const shape = { name, type, dims: dims.map(wider) };
    if (!name.startsWith('blk.')) return [shape];
    const copies = name.startsWith('blk.0.') ? LAYERS : 0;
    return Array.from({ length: copies }, (_, i) => ({ ...shape, name: name.replace('blk.0.', `blk.${i}.`) }));
  });
  const { bytes, size } = headerBytes(metadata, tensors);
  const file = openSync(LARGE, 'w');
  writeSync(file, bytes);
  ftruncateSync(file, size);
  closeSync(file);
}

beforeAll(async () => {
  await writeLarge();
  const { size } = statSync(LARGE);
  server = createServer(({ headers }, response) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
    served.push(`${from}-${to}`);
    const length = Number(to) - Number(from) + 1;
    response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${size}`, 'content-length': length });
    createReadStream(LARGE, { start: Number(from), end: Number(to) }).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/large.gguf`;
});
afterAll(() => {
  server.close();
  rmSync(scratch, { recursive: true });
});

function inspect(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, 'inspect', ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

describe('of an address', () => {
  test('reads the first bytes and no more', async () => {
    served.length = 0;
    const told = await estimate(new URL(address), { threads: 1 });
    const ranges = served.map((range) => range.split('-').map(Number));
    const bytes = ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);
    // One byte to learn the size, one piece of a quarter of a MiB.
    expect(ranges.length).toBe(2);
    expect(bytes).toBe(1 + (256 << 10));
    const { file: _, availableBytes: __, ...fromFile } = await estimate(LARGE, { threads: 1 });
    expect(told).toMatchObject(fromFile);
  });

  test('is aborted', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(estimate(new URL(address), { signal })).rejects.toThrow('enough');
  });
});

describe('what is too large', () => {
  test('is told with numbers, and refused by loadModel', async () => {
    const told = await estimate(LARGE);
    // Two bits a weight.
    const layers = (LAYERS * DIM * DIM * (2 + 1 + 6)) / 4;
    expect(told.weightsBytes).toBeGreaterThan(layers);
    expect(told.weightsBytes).toBeLessThan(1.002 * layers);
    expect(told).toMatchObject({ headBytes: 2 * DIM * 512, fits: 'no', advice: [], maxContextSize: 0 });
    expect(await estimate(LARGE, { limitBytes: 9e9 })).toMatchObject({ fits: 'reduced' });
    expect(await estimate(LARGE, { limitBytes: 1e11 })).toMatchObject({ fits: 'yes', positions: 4 * 4096 });
    await expect(loadModel(LARGE)).rejects.toThrow(
      /large\.gguf: does not fit: layers 6\.\d+ GB, .* of at most 4\.29 GB$/,
    );
  });

  test('is drawn', async () => {
    const { code, stdout, stderr } = await inspect(LARGE, '--estimate', '-c', '8192', '--parallel', '2', '-t', '2');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.replaceAll(scratch, '').replace(/ +left here.*\n/, '')).toMatchInlineSnapshot(`
      "/large.gguf: 6.05 GB, context 8192, 2 sequences

        weights         6.05 GB  ██████████░░░░░░░░░░  I2_S
        head            8.39 MB  ░░░░░░░░░░█░░░░░░░░░
        cache           5.37 GB  ░░░░░░░░░░░█████████  8192 positions, f16
        working memory   101 MB  ░░░░░░░░░░░░░░░░░░░░
        in all          11.5 GB
        limit           4.29 GB  ████████████████████  268 % of it

        1024 positions   671 MB  of cache
        JavaScript      32.2 MB  about, beside: vocabulary, code, threads

      does not fit
        no option makes it fit
      "
    `);
  });

  test('is one JSON object', async () => {
    const { code, stdout } = await inspect(address, '--estimate', '--json', '--kv', 'f32', '-c', '1024');
    expect(code).toBe(0);
    const expected = {
      contextSize: 1024,
      parallel: 1,
      kv: 'f32',
      fits: 'no',
      kvPer1kBytes: 1024 * LAYERS * 2 * 4096 * 4,
    };
    expect(JSON.parse(stdout)).toMatchObject(expected);
  });

  test('and is inspected as every other file', async () => {
    const { code, stdout } = await inspect(LARGE, '--no-weights');
    expect(code).toBe(0);
    expect(stdout).toMatch(/\nMemory\n {2}weights +6\.\d+ GB, I2_S\n(.*\n)* {2}note +does not fit\n/);
  });
});

test('where something has to be left out, or an option is wrong', async () => {
  const [part, wrong, html] = await Promise.all([
    inspect('--estimate', '--parallel', '16', '-c', '100000'),
    inspect('--estimate', '--parallel', '17'),
    inspect('--estimate', '--html', join(scratch, 'page.html')),
  ]);
  expect(part.stdout).toMatch(
    /\nfits in part\n {2}memory holds \d+ positions in all, not 100000 .*\n {2}whole with --ctx-size \d+\n/,
  );
  expect(part.stdout).toMatch(/\n {2}whole with --parallel 13\n$/);
  for (const line of part.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  expect(wrong).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/^ternlm: .*parallel: got 17/) });
  expect(html).toMatchObject({ code: 1, stdout: '' });
  expect(html.stderr).toMatch(/--html: .* expected without --estimate/);
});
