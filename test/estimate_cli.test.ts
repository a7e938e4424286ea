import { execFile } from 'node:child_process';
import {
  closeSync,
  createReadStream,
  ftruncateSync,
  mkdtempSync,
  openSync,
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
import { headerBytes, type TensorShape, type TypedValue } from '../dist/gguf/writer.js';
import { estimate, loadModel } from '../dist/index.js';

// A model too large for wasm memory, of which there is only the header: its weights are a hole in the file.

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-estimate-'));
const LARGE = join(scratch, 'large.gguf');
let server: Server;
let address: string;
const served: string[] = [];

const DIM = 8192;
const LAYERS = 40;
const VOCAB = 128_256;
const HEADER_BYTES = 20_000;

/** A Llama of 23 B weights with an F16 head, 5.7 GB of layers; without a vocabulary. */
function writeLarge(): void {
  const u32 = (value: number): TypedValue => ({ type: 'u32', value });
  const metadata: [string, TypedValue][] = [
    ['general.architecture', { type: 'string', value: 'llama' }],
    ['llama.context_length', u32(131_072)],
    ['llama.embedding_length', u32(DIM)],
    ['llama.block_count', u32(LAYERS)],
    ['llama.feed_forward_length', u32(2 * DIM)],
    ['llama.attention.head_count', u32(64)],
    ['llama.attention.head_count_kv', u32(8)],
    ['llama.attention.layer_norm_rms_epsilon', { type: 'f32', value: 1e-5 }],
  ];
  const tensors: TensorShape[] = [
    { name: 'token_embd.weight', type: 'F16', dims: [DIM, VOCAB] },
    { name: 'output_norm.weight', type: 'F32', dims: [DIM] },
  ];
  const matrices = { attn_q: DIM, attn_k: 1024, attn_v: 1024, attn_output: DIM, ffn_gate: 2 * DIM, ffn_up: 2 * DIM };
  for (let layer = 0; layer < LAYERS; layer++) {
    const add = (name: string, type: 'I2_S' | 'F32', dims: number[]) =>
      tensors.push({ name: `blk.${layer}.${name}.weight`, type, dims });
    for (const name of ['attn_norm', 'ffn_norm']) add(name, 'F32', [DIM]);
    for (const [name, rows] of Object.entries(matrices)) add(name, 'I2_S', [DIM, rows]);
    add('ffn_down', 'I2_S', [2 * DIM, DIM]);
  }
  const { bytes, size } = headerBytes(metadata, tensors);
  const file = openSync(LARGE, 'w');
  writeSync(file, bytes);
  ftruncateSync(file, size);
  closeSync(file);
  expect(bytes.length).toBeLessThan(HEADER_BYTES);
}

beforeAll(async () => {
  writeLarge();
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
    // Two bits a weight, and 32 bytes a matrix.
    const weights = LAYERS * (DIM * DIM * (2 + 2 / 8 + 6));
    expect(told.weightsBytes).toBeGreaterThan(weights / 4);
    expect(told.weightsBytes).toBeLessThan(1.001 * (weights / 4));
    expect(told).toMatchObject({ headBytes: 2 * DIM * VOCAB, fits: 'no', advice: [], maxContextSize: 0 });
    expect(await estimate(LARGE, { limitBytes: 9e9 })).toMatchObject({ fits: 'reduced', screenBytes: 0 });
    expect(await estimate(LARGE, { limitBytes: 2e10 })).toMatchObject({ fits: 'yes', positions: 4 * 4096 });
    await expect(loadModel(LARGE)).rejects.toThrow(/tokenizer|does not fit/);
  });

  test('is drawn', async () => {
    const { code, stdout, stderr } = await inspect(LARGE, '--estimate', '-c', '8192', '--parallel', '2');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.replaceAll(scratch, '').replace(/ +left here.*\n/, '')).toMatchInlineSnapshot();
  });

  test('is one JSON object', async () => {
    const { code, stdout } = await inspect(address, '--estimate', '--json', '--kv', 'f32', '-c', '1024');
    expect(code).toBe(0);
    const expected = {
      contextSize: 1024,
      parallel: 1,
      kv: 'f32',
      fits: 'no',
      kvPer1kBytes: 1024 * LAYERS * 2 * 1024 * 4,
    };
    expect(JSON.parse(stdout)).toMatchObject(expected);
  });

  test('and is inspected as every other file', async () => {
    const { code, stdout } = await inspect(LARGE, '--no-weights');
    expect(code).toBe(0);
    expect(stdout).toMatch(/\nMemory\n {2}weights +5\.\d+ GB, I2_S\n(.*\n)* {2}note +does not fit\n/);
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
