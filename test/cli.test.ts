import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { sizeBytes as i2sBytes } from '../dist/gguf/layouts/i2_s.js';
import { writeGguf } from '../dist/gguf/writer.js';

// The command as a person runs it. What the demo model writes is not looked at, only that it is the same again.

const root = fileURLToPath(new URL('..', import.meta.url));
const MAIN = join(root, 'dist/cli/main.js');
const DEMO = join(root, 'demo/tales.gguf');
const TINY = join(root, 'test/golden/models/tiny-bitnet-b1.58-i2_s.gguf');
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-cli-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Behind a flag in Node 20. */
const RELAXED = process.versions.node.startsWith('20.') ? ['--experimental-wasm-relaxed-simd'] : [];

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

interface How {
  stdin?: string;
  /** Flags of node itself. */
  node?: readonly string[];
  env?: Record<string, string>;
  /** Called with each piece of stdout. */
  onText?: (child: ChildProcess) => void;
}

/** Runs `ternlm`. Without `stdin`, a pipe that stays open: nothing may wait for its end. */
function ternlm(args: readonly string[], { stdin, node = [], env, onText }: How = {}): Promise<Ended> {
  const child = spawn(process.execPath, [...node, MAIN, ...args], { env: { ...process.env, ...env } });
  if (stdin !== undefined) child.stdin.end(stdin);
  let stdout = '';
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    onText?.(child);
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** It refuses with this one line and nothing else. */
async function expectRefusal(args: readonly string[], line: RegExp, stdin = ''): Promise<void> {
  const { code, stdout, stderr } = await ternlm(args, { stdin });
  expect(stderr.trimEnd()).toMatch(line);
  expect(
    stderr
      .trimEnd()
      .split('\n')
      .filter((l) => l.startsWith('ternlm: ')),
    stderr,
  ).toHaveLength(1);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
}

const SHORT = ['-n', '12', '--temp', '0', '-t', '1'];
/** Never ends by itself within a test. */
const ENDLESS = ['--ignore-eos', '-c', '200000', '-t', '1'];

describe('run', () => {
  test('prompt as argument, with -p, from a file and from stdin: the same text, alone on stdout', async () => {
    const file = join(scratch, 'prompt.txt');
    writeFileSync(file, 'Once upon a time\n');
    const prompt = 'Once upon a time';
    const [argument, flag, fromFile, piped, echoed] = await Promise.all([
      ternlm(['run', prompt, ...SHORT]),
      ternlm(['run', DEMO, '-p', prompt, ...SHORT]),
      ternlm(['run', '-m', DEMO, '-f', file, ...SHORT]),
      ternlm(['run', DEMO, ...SHORT], { stdin: `${prompt}\n` }),
      ternlm(['run', DEMO, prompt, '--echo', ...SHORT]),
    ]);
    expect(argument.code).toBe(0);
    expect(argument.stdout).toMatch(/^.+\n$/s);
    expect(argument.stderr).toMatch(/ternlm tales: .*wasm .*1 thread/);
    expect(argument.stderr).toMatch(/prompt \d+ tokens, .*; text 12 tokens, .*; seed \d+; length reached/);
    for (const other of [flag, fromFile, piped]) expect(other.stdout).toBe(argument.stdout);
    expect(echoed.stdout).toBe(prompt + argument.stdout);
  });

  test('the same tokens on one and two threads and in every tier, greedy and with a seed', async () => {
    const inline = ['-t', '1', '--tier', 'simd'];
    const threaded = ['-t', '2', '--tier', 'simd'];
    const relaxed = ['-t', '2', '--tier', 'relaxed'];
    const revec = ['-t', '2', '--tier', 'revec', '--no-revectorize'];
    // V8 11.3 doubles the dot of revec on its baseline compiler.
    const flags = new Map([
      [relaxed, RELAXED],
      [revec, [...RELAXED, '--no-liftoff']],
    ]);
    const write = async (sampling: string[], compute: string[]) => {
      const args = ['run', 'The old man', '-n', '24', '--json', ...sampling, ...compute];
      const { stdout, stderr } = await ternlm(args, { node: flags.get(compute) });
      expect(stdout, stderr).toMatch(/^\{.*\}\n$/);
      return JSON.parse(stdout) as { tokens: number[]; seed: number; finishReason: string };
    };
    const [seeded, ...likewise] = await Promise.all(
      [inline, threaded, relaxed, revec].map((c) => write(['--seed', '5'], c)),
    );
    const greedy = await Promise.all([inline, relaxed].map((c) => write(['--temp', '0'], c)));
    expect(seeded).toMatchObject({ seed: 5, finishReason: 'length' });
    expect(seeded.tokens).toHaveLength(24);
    for (const { tokens } of likewise) expect(tokens).toEqual(seeded.tokens);
    expect(greedy[1].tokens).toEqual(greedy[0].tokens);
    expect(greedy[0].tokens).not.toEqual(seeded.tokens);
  });

  test('values that begin with a dash, and texts that look like numbers', async () => {
    const args = ['run', '-p', '007', '-n', '-1', '-c', '16', '--frequency-penalty', '-0.5', '--seed', '-1', '--json'];
    const { code, stdout, stderr } = await ternlm(args);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ prompt: '007' });
    const dashed = await ternlm(['run', '-p', '-- he said', ...SHORT, '--json']);
    expect(JSON.parse(dashed.stdout)).toMatchObject({ prompt: '-- he said' });
  });

  test('a stop text ends it and is not part of it', async () => {
    const whole = await ternlm(['run', 'Once', '-n', '40', '--temp', '0', '-t', '1']);
    const words = whole.stdout.trimEnd().split(' ');
    const word = words.slice(3).find((w) => w.length > 2 && !words.slice(0, 3).join(' ').includes(w)) as string;
    const stopped = await ternlm(['run', 'Once', '-n', '40', '--temp', '0', '-t', '1', '--stop', word]);
    expect(stopped.stdout.trimEnd()).toBe(whole.stdout.slice(0, whole.stdout.indexOf(word)).trimEnd());
    expect(stopped.stderr).toMatch(/end of text/);
  });

  test('Ctrl-C ends the text: exit code 130, figures, no stack', async () => {
    let sent = false;
    const { code, stdout, stderr } = await ternlm(['run', 'Once', ...ENDLESS], {
      onText(child) {
        if (!sent) child.kill('SIGINT');
        sent = true;
      },
    });
    expect(code, stderr).toBe(130);
    expect(stdout).toMatch(/\n$/);
    expect(stderr).toMatch(/interrupted after \d+ tokens/);
    expect(stderr).not.toMatch(/Error|^\s+at /m);
  });

  test('Ctrl-C while a model loads', async () => {
    const server = createServer(() => {}); // never answers
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const child = spawn(process.execPath, [
      MAIN,
      'run',
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/m`,
      'Hi',
    ]);
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    server.once('request', () => child.kill('SIGINT'));
    const code = await new Promise((resolve) => child.on('close', resolve));
    server.closeAllConnections();
    server.close();
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
  });

  test('a reader that leaves is no error', async () => {
    const { code, stderr } = await ternlm(['run', 'Once', ...ENDLESS], { onText: (child) => child.stdout?.destroy() });
    expect(stderr).not.toMatch(/EPIPE|Error/);
    expect(code).toBe(0);
  });
});

describe.concurrent('what is refused, in one line', () => {
  test.each<[string, string[], RegExp]>([
    ['unknown command', ['rnu'], /^ternlm: unknown command "rnu", expected run, .*--help$/],
    ['unknown option', ['run', '--tmep', '1', 'x'], /^ternlm: unknown option --tmep; see: ternlm run --help$/],
    ['word for a number', ['run', '--temp', 'hot', 'x'], /^ternlm: --temp: expected a number, got "hot"$/],
    ['out of range', ['run', '--top-p', '2', 'x'], /^ternlm: --top-p: expected a number from 0 to 1, got 2$/],
    ['fraction', ['run', '-n', '1.5', 'x'], /^ternlm: -n: expected a whole number, got "1.5"$/],
    ['no value', ['run', 'x', '--seed'], /^ternlm: --seed: expected a whole number, got nothing; see/],
    ['option for a value', ['run', '-p', '--temp', '1'], /^ternlm: -p: expected a text, got the option --temp; see/],
    ['wrong word', ['run', '--kv', 'f8', 'x'], /^ternlm: --kv: expected f16 or f32, got "f8"$/],
    ['missing file', ['run', 'gone.gguf', 'x'], /^ternlm: gone\.gguf: no such file$/],
    ['not a GGUF', ['run', '-m', MAIN, 'x'], /^ternlm: .*main\.js: magic at byte 0: .*expected "GGUF"$/],
    ['too many arguments', ['inspect', 'a', 'b'], /^ternlm: inspect: "b" is one argument too many/],
    ['no prompt', ['run', DEMO], /^ternlm: run: no prompt; /],
    ['two prompts', ['run', '-p', 'a', '-f', 'b'], /^ternlm: two prompts given/],
    [
      'prompt beyond the context',
      ['run', 'Once upon a time', '-c', '2', '-t', '1'],
      /ternlm: prompt: \d+ tokens, expected at most 2/,
    ],
    ['nothing to measure', ['bench', '-p', '0', '-n', '0'], /^ternlm: bench: -p 0 and -n 0/],
  ])('%s', (_, args, line) => expectRefusal(args, line));

  test('DEBUG=ternlm shows where it comes from', async () => {
    const { stderr } = await ternlm(['run', 'gone.gguf', 'x'], { env: { DEBUG: 'ternlm' } });
    expect(stderr).toMatch(/^ternlm: gone\.gguf: no such file\n.*ENOENT[\s\S]*\n +at /);
  });
});

describe('help', () => {
  test('of all commands and of each; the version', async () => {
    const [bare, help, version, ...verbs] = await Promise.all([
      ternlm([]),
      ternlm(['--help']),
      ternlm(['--version']),
      ...['run', 'chat', 'embed', 'inspect', 'convert', 'perplexity', 'bench', 'doctor'].map((verb) =>
        ternlm([verb, '--help']),
      ),
    ]);
    expect(bare).toEqual(help);
    expect(help.stdout).toMatch(/Usage: ternlm <command>/);
    expect(version.stdout).toMatch(/^ternlm \d+\.\d+\.\d+\n$/);
    for (const { code, stdout, stderr } of [help, version, ...verbs]) {
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
    }
    for (const { stdout } of verbs) expect(stdout).toMatch(/^Usage: ternlm \w+.*\n[\s\S]*\nExamples\n {2}ternlm/);
  });
});

test('chat answers each line of a pipe, with what was said before', async () => {
  const chat = (stdin: string, ...flags: string[]) => ternlm(['chat', DEMO, ...SHORT, ...flags], { stdin });
  const [alone, after, anew, system] = await Promise.all([
    chat('Who goes there?\n'),
    chat('A wolf came.\nWho goes there?\n/exit\nnot read\n'),
    chat('A wolf came.\n/reset\nWho goes there?'),
    chat('Who goes there?\n', '--system', 'You are a fox that lives in the wood.'),
  ]);
  for (const { code, stderr } of [alone, after, anew, system]) expect(code, stderr).toBe(0);
  expect(alone.stdout).toMatch(/\S.*\n$/s);
  expect(anew.stdout.endsWith(alone.stdout)).toBe(true);
  expect(after.stdout.startsWith(anew.stdout.slice(0, -alone.stdout.length))).toBe(true);
  const promptTokens = ({ stderr }: Ended) => [...stderr.matchAll(/prompt (\d+) tokens/g)].map((m) => Number(m[1]));
  const [question] = promptTokens(alone);
  expect(promptTokens(anew)).toEqual([promptTokens(after)[0], question]);
  expect(promptTokens(after)).toHaveLength(2);
  expect(promptTokens(after)[1]).toBeGreaterThan(promptTokens(after)[0] + question);
  expect(promptTokens(system)[0]).toBeGreaterThan(question);
});

describe('inspect', () => {
  test('tells header, tensors, weights and memory', async () => {
    const { code, stdout, stderr } = await ternlm(['inspect', TINY, '--json']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ runs: true, version: 3, metadata: { 'general.architecture': 'bitnet-b1.58' } });
    const ternary = report.tensors.filter((t: { type: string }) => t.type === 'I2_S');
    expect(ternary.length).toBeGreaterThan(0);
    for (const { dims, ternary: share } of ternary) {
      expect(share.weights).toBe(dims[0] * dims[1]);
      const { minus, zero, plus } = share.counts;
      expect(minus + zero + plus).toBe(share.weights);
      expect(share.scales.min).toBeGreaterThan(0);
    }
    expect(report.memory.totalBytes).toBeGreaterThan(report.memory.weightsBytes);
  });

  test('counts -1, 0 and +1, and lists a type that is not read', async () => {
    // 256 weights: the first block holds codes 2, 1, 0, 1 in its quarters, the second zeros only.
    const packed = new Uint8Array(i2sBytes([128, 2]));
    packed.fill(0b10_01_00_01, 0, 32).fill(0b01_01_01_01, 32, 64);
    new DataView(packed.buffer).setFloat32(64, 0.5, true);
    const file = join(scratch, 'mixed.gguf');
    const metadata = [['general.architecture', { type: 'string', value: 'bitnet-b1.58' }]] as const;
    const bytes = writeGguf(metadata, [
      { name: 'blk.0.ffn_up.weight', type: 'I2_S', dims: [128, 2], packed },
      { name: 'unread', type: 'I2_S', dims: [128, 2], packed },
    ]);
    // After the name: how many dims, the dims, the type; 12 is Q4_K.
    const type = Buffer.from(bytes.buffer).indexOf('unread') + 'unread'.length + 4 + 2 * 8;
    bytes[type] = 12;
    writeFileSync(file, bytes);
    const json = await ternlm(['inspect', file, '--json']);
    const report = JSON.parse(json.stdout);
    expect(report.tensors[0].ternary).toEqual({
      ...{ weights: 256, counts: { minus: 32, zero: 192, plus: 32, wrong: 0, odd: 0 }, zeroRows: 1, zeroCols: 64 },
      scales: { count: 1, min: 0.5, max: 0.5, distinct: 1, zero: 0, broken: 0 },
    });
    expect(report.runs).toBe(false);
    const text = await ternlm(['inspect', '-m', file]);
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/^runs +no: /m);
    expect(text.stdout).toMatch(/^not read +type Q4_K, 1 tensor,/m);
    expect(text.stdout).toMatch(/ 0 +12\.5 % +75\.0 % +12\.5 % +0\.500/);
  });
});

test('doctor finds this machine fit', async () => {
  const [text, json] = await Promise.all([ternlm(['doctor']), ternlm(['doctor', '--json'])]);
  expect(text.code, text.stdout).toBe(0);
  expect(text.stdout).toMatch(/^kernels +(simd|relaxed|revec), ternary dot .+\n +\w+: /m);
  expect(text.stdout).toMatch(/^repacked +TL1 to I2_S, .*TQ1_0 to TQ2_0 at loading: quicker with these kernels/m);
  expect(text.stdout).toMatch(/^self-check +passed/m);
  expect(JSON.parse(json.stdout)).toMatchObject({ simd: true, sharedMemory: true, selfCheck: { ok: true } });
});

test('weights in tiles: what they are repacked to, and whose tiles', async () => {
  const tl2 = fileURLToPath(new URL('golden/models/tiny-bitnet-b1.58-tl2.gguf', import.meta.url));
  const run = (...flags: string[]) =>
    ternlm(['run', '-m', tl2, 'x', '-n', '4', '--temp', '0', ...flags], { node: RELAXED });
  const [auto, none, other, inspect] = await Promise.all([
    run('--tier', 'relaxed'),
    run('--repack', 'none', '--layout', 'tiny'),
    run('--layout', 'Llama3-8B'),
    ternlm(['inspect', tl2]),
  ]);
  expect(auto.stderr).toMatch(/TL2 as I2_S, tiles: preset tiny;/);
  expect(none.stderr).toMatch(/TL2, tiles: option;/);
  expect(none.stdout).toBe(auto.stdout);
  expect(other).toMatchObject({ code: 1, stdout: '' });
  expect(other.stderr).toContain("option 'layout': preset 'Llama3-8B' has no TL2 256x256");
  expect(inspect.stdout).toMatch(/weights +(602 kB, TL2|613 kB, TL2 as I2_S)\n/);
});

test('bench measures both tests in three formats', async () => {
  const args = ['bench', '-p', '8', '-n', '4', '-r', '2', '--no-warmup'];
  const [json, md, csv] = await Promise.all([
    ternlm([...args, '-t', '1,2', '-o', 'json']),
    ternlm([...args, '-t', '1']),
    ternlm([...args, '-p', '100000', '-t', '1', '-o', 'csv']),
  ]);
  const results = JSON.parse(json.stdout) as Record<string, number | number[]>[];
  expect(results.map((r) => [r.n_threads, r.n_prompt, r.n_gen])).toEqual([
    [1, 8, 0],
    [1, 0, 4],
    [2, 8, 0],
    [2, 0, 4],
  ]);
  for (const { avg_ts, samples_ts } of results) {
    const [a, b] = samples_ts as number[];
    expect(avg_ts).toBeGreaterThan(0);
    expect(avg_ts).toBeCloseTo((a + b) / 2, 6);
  }
  expect(md.stdout).toMatch(/^\| model +\|.*\n\|-.*\n\| ternlm tales .*\| +pp8 \| +[\d.]+ ± [\d.]+ \|\n.* tg4 /);
  expect(md.stderr).toMatch(/load average/);
  expect(csv.stdout).toMatch(/^model_filename,.*\n"/);
  expect(csv.stderr).toMatch(/-p 100000 is more than the context/);
});
