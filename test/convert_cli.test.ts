import { type ChildProcess, spawn } from 'node:child_process';
import {
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { readHeader } from '../dist/gguf/header.js';
import { openSource } from '../dist/gguf/source.js';

// `ternlm convert` as a person runs it.

const root = fileURLToPath(new URL('..', import.meta.url));
const MAIN = join(root, 'dist/cli/main.js');
const TINY = join(root, 'test/golden/models/tiny-bitnet-i2_s.gguf');
const CHECKPOINT = join(root, 'test/golden/transformers/llama');
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-convert-'));
afterAll(() => rmSync(scratch, { recursive: true }));

let folder = '';
let count = 0;
beforeEach(() => {
  folder = join(scratch, String(count++));
  mkdirSync(folder);
});
const out = () => join(folder, 'out.gguf');

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

function start(args: readonly string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [MAIN, 'convert', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (text) => {
    stdout += text;
  });
  child.stderr?.on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { child, ended };
}

const run = (...args: string[]) => start(args).ended;

async function typesOf(file: string): Promise<Set<string>> {
  const { tensors } = await readHeader(await openSource(new Uint8Array(readFileSync(file))));
  return new Set([...tensors.values()].map(({ type }) => type));
}

describe('convert', () => {
  test('a GGUF file and a checkpoint, with what they were asked for', async () => {
    const [file, checkpoint] = await Promise.all([
      run(TINY, out(), '--type', 'tq2_0', '--embedding', 'q6_k'),
      run(CHECKPOINT, join(folder, 'llama.gguf')),
    ]);
    expect(file).toMatchObject({ code: 0, stdout: '' });
    expect(file.stderr).toMatch(/^\S+out\.gguf: \d+ kB in .*\/s\n$/);
    expect(await typesOf(out())).toEqual(new Set(['Q6_K', 'F32', 'TQ2_0']));
    expect(checkpoint).toMatchObject({ code: 0, stdout: '' });
    expect(await typesOf(join(folder, 'llama.gguf'))).toEqual(new Set(['F16', 'F32', 'I2_S']));
    expect(readdirSync(folder).sort()).toEqual(['llama.gguf', 'out.gguf']);
  });

  test('tells what a person should know', async () => {
    const b158 = join(root, 'test/golden/models/tiny-bitnet-b1.58-i2_s.gguf');
    const { code, stderr } = await run(b158, out(), '--type', 'tq1_0');
    expect(code).toBe(0);
    expect(stderr).toMatch(/\nnote: architecture bitnet-b1\.58 written as bitnet.*\nnote: .*hidden_activation/);
  });

  test('never touches a file that is there, but with --force', async () => {
    writeFileSync(out(), 'precious');
    const { code, stderr } = await run(TINY, out());
    expect({ code, stderr }).toEqual({ code: 1, stderr: `ternlm: ${out()}: exists already; --force replaces it\n` });
    expect(readFileSync(out(), 'utf8')).toBe('precious');
    expect((await run(TINY, out(), '--force')).code).toBe(0);
    expect(Buffer.compare(readFileSync(out()), readFileSync(TINY))).toBe(0);
  });

  test('keeps the file that --force would replace, if it fails', async () => {
    writeFileSync(out(), 'precious');
    expect((await run(join(root, 'package.json'), out(), '--force')).code).toBe(1);
    expect(readFileSync(out(), 'utf8')).toBe('precious');
    expect(readdirSync(folder)).toEqual(['out.gguf']);
  });

  test('refuses to write over its input, under any name', async () => {
    const input = join(folder, 'in.gguf');
    copyFileSync(TINY, input);
    linkSync(input, out());
    for (const to of [input, out(), `${folder}/../${count - 1}/in.gguf`]) {
      const { code, stderr } = await run(input, to, '--force');
      expect({ code, stderr }).toEqual({ code: 1, stderr: `ternlm: ${to}: the input itself, expected another file\n` });
    }
    expect(Buffer.compare(readFileSync(input), readFileSync(TINY))).toBe(0);
  });

  test.each([
    [['-', 'x.gguf'], /- is no file here/],
    [[TINY, '-'], /- is no file here/],
    [[TINY], /expected a model and the file to make of it/],
    [[TINY, 'a', 'b'], /"b" is one argument too many/],
    [['absent.gguf', 'x.gguf'], /absent\.gguf: no such file/],
    [[TINY, 'absent/x.gguf'], /absent: no such folder$/m],
    [[TINY, 'x.gguf', '--type', 'q4_0'], /--type: expected i2_s, tl1, tl2, tq1_0, tq2_0 or f16, got "q4_0"/],
    [[TINY, 'x.gguf', '--block-size', '256'], /--block-size: I2_S without quantize, expected TQ1_0 or TQ2_0/],
    [[TINY, 'x.gguf', '--layout', 'huge'], /--layout: expected .*tiny, got "huge"/],
    [[join(CHECKPOINT, '..'), 'x.gguf'], /no config\.json/],
    [[CHECKPOINT, 'x.gguf', '--type', 'tl2'], /row length 128, expected at least 256 \(TL2\)/],
  ])('%j is refused in a line', async (args, message) => {
    const at = (path: string) => (path.includes('x.gguf') ? join(folder, path) : path);
    const { code, stdout, stderr } = await run(...args.map(at));
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(readdirSync(folder)).toEqual([]);
  });

  test('leaves nothing behind when the weights turn out wrong', async () => {
    const bad = readFileSync(TINY);
    const { tensors } = await readHeader(await openSource(new Uint8Array(readFileSync(TINY))));
    const last = [...tensors.values()].filter(({ type }) => type === 'I2_S').at(-1);
    bad[(last?.at ?? 0) + 1000] = 0xff;
    writeFileSync(join(folder, 'bad.gguf'), bad);
    const { code, stderr } = await run(join(folder, 'bad.gguf'), out());
    expect(stderr).toMatch(/bad\.gguf: tensor 'blk\.3\.\w+\.weight': row \d+, column \d+: code 3/);
    expect(code).toBe(1);
    expect(readdirSync(folder)).toEqual(['bad.gguf']);
  });

  // A server that sends the first half of the file and then nothing: a conversion that never ends by itself.
  test.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('leaves nothing behind on %s', async (signal, exit) => {
    const bytes = readFileSync(TINY);
    const server = createServer((request, response) => {
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
      const [first, last] = [Number(from), Number(to)];
      response.writeHead(206, {
        'content-range': `bytes ${first}-${last}/${bytes.length}`,
        'content-length': last - first + 1,
      });
      if (first < bytes.length / 2) response.end(bytes.subarray(first, last + 1));
      else response.flushHeaders();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/model.gguf`;
      const { child, ended } = start([address, out()]);
      const stalled = new Promise<void>((resolve) => {
        server.on('request', (request) => {
          const first = Number(/=(\d+)/.exec(request.headers.range ?? '')?.[1]);
          if (first >= bytes.length / 2) resolve();
        });
      });
      await stalled;
      expect(readdirSync(folder)).toEqual([expect.stringMatching(/^\.out\.gguf\.[0-9a-f]+\.part$/)]);
      child.kill(signal);
      expect(await ended).toEqual({ code: exit, stdout: '', stderr: '' });
      expect(readdirSync(folder)).toEqual([]);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  test('says how it is used', async () => {
    const { code, stdout } = await run('--help');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Usage: ternlm convert <in> <out\.gguf> \[options\]\n/);
    for (const flag of ['--type', '--embedding', '--layout', '--quantize', '--block-size', '--force']) {
      expect(stdout).toContain(flag);
    }
    expect(stdout.split('\n').every((line) => line.length <= 80)).toBe(true);
  });
});
