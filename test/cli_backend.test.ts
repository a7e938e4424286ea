import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

// --backend in a folder of its own, where the plugin is not installed, and where one is that computes on the CPU: what the command
// makes of a GPU, of none, and of one that is lost. The true one has its own tests.

const root = fileURLToPath(new URL('..', import.meta.url));
const PLUGIN = `
  import { wasmBackend } from '../../ternlm/dist/backend/wasm/backend.js';
  const { GPU, LOST_FROM } = process.env;
  class BackendLostError extends Error { name = 'BackendLostError'; }
  export async function probe() {
    if (GPU === 'none') throw new Error('no adapter');
    return { adapter: 'Stand-in 1', software: GPU === 'software', ok: GPU !== 'wrong', rows: [['driver', 'of 2026']] };
  }
  export async function webgpu({ profile }) {
    if (GPU === 'none') throw new Error('no adapter');
    const inner = await wasmBackend({ threads: 1 });
    let starts = 0;
    setInterval(() => {}, 1e6); // as a driver may, it keeps the process
    const noTimes = GPU === 'no timestamps';
    return {
      ...inner,
      name: 'stand-in',
      info: { adapter: 'Stand-in 1', software: GPU === 'software' },
      start(program, ...rest) {
        if (++starts >= LOST_FROM) throw new BackendLostError('it was unplugged');
        inner.start(program, ...rest);
      },
      profile: () => profile && !noTimes ? [{ stem: 'head', dispatches: 4, ms: 1 }, { stem: 'qkv', dispatches: 120, ms: 3 }] : [],
    };
  }`;

let bare: string;
let equipped: string;
beforeAll(() => {
  [bare, equipped] = ['bare', 'equipped'].map((name) => {
    const folder = mkdtempSync(join(tmpdir(), `ternlm-${name}-`));
    const modules = join(folder, 'node_modules');
    for (const part of ['dist', 'demo/tales.gguf', 'package.json']) {
      cpSync(join(root, part), join(modules, 'ternlm', part), { recursive: true });
    }
    for (const dependency of ['@assemblyscript/loader', '@huggingface/jinja']) {
      mkdirSync(dirname(join(modules, dependency)), { recursive: true });
      symlinkSync(join(root, 'node_modules', dependency), join(modules, dependency));
    }
    return folder;
  });
  const plugin = join(equipped, 'node_modules/@ternlm/webgpu');
  mkdirSync(plugin, { recursive: true });
  writeFileSync(join(plugin, 'package.json'), '{ "type": "module", "exports": "./index.js" }');
  writeFileSync(join(plugin, 'index.js'), PLUGIN);
});
afterAll(() => {
  for (const folder of [bare, equipped]) rmSync(folder, { recursive: true });
});

function ternlm(folder: string, args: readonly string[], env: Record<string, string> = {}, input = '') {
  const main = join(folder, 'node_modules/ternlm/dist/cli/main.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    env: { ...process.env, ...env },
    input,
    encoding: 'utf8',
    timeout: 50_000,
  });
  return { code: status, stdout, stderr };
}

const RUN = ['run', 'Once upon a time', '-n', '12', '--temp', '0'];
const INSTALL = '@ternlm/webgpu is not installed; to compute on a GPU: npm install @ternlm/webgpu webgpu';

describe('without the plugin', () => {
  test('webgpu says what to install, auto takes the CPU and says why', () => {
    expect(ternlm(bare, [...RUN, '--backend', 'webgpu'])).toEqual({
      code: 1,
      stdout: '',
      stderr: `ternlm: ${INSTALL}\n`,
    });
    const [wasm, auto] = [ternlm(bare, RUN), ternlm(bare, [...RUN, '--backend', 'auto'])];
    expect([wasm.code, auto.code, auto.stdout]).toEqual([0, 0, wasm.stdout]);
    expect(auto.stderr).toContain(`note: the CPU computes: ${INSTALL}\n`);
    expect(wasm.stderr).not.toContain('note: ');
  });

  test('doctor says so', () => {
    expect(ternlm(bare, ['doctor']).stdout).toContain(`\nGPU            none: ${INSTALL}\n`);
    const { code, stdout } = ternlm(bare, ['doctor', '--json']);
    expect([code, JSON.parse(stdout).gpu]).toEqual([0, { none: INSTALL }]);
  });
});

describe('with it', () => {
  test.each(['webgpu', 'auto'])('%s computes there, and ends though a driver would not', (name) => {
    const [wasm, gpu] = [ternlm(equipped, RUN), ternlm(equipped, [...RUN, '--backend', name])];
    expect([gpu.code, gpu.stdout], gpu.stderr).toEqual([0, wasm.stdout]);
    expect(gpu.stderr).toMatch(/; stand-in; /);
    expect(gpu.stderr).not.toContain('note: ');
  });

  test('every verb that loads a model has it', () => {
    const text = join(equipped, 'text.txt');
    writeFileSync(text, 'Once upon a time there was a king who had a daughter, and she was as fair as the day.');
    for (const args of [
      ['embed', 'a fox'],
      ['perplexity', text],
      ['chat', '-n', '3'],
    ]) {
      const { code, stderr } = ternlm(equipped, [...args, '--backend', 'webgpu'], {}, 'Who goes there?\n');
      expect(code, stderr).toBe(0);
      expect(stderr).toMatch(/; stand-in; /);
    }
  });

  test('auto leaves a software renderer and no adapter alone, webgpu does not', () => {
    for (const [GPU, why] of [
      ['software', 'Stand-in 1 is a software renderer'],
      ['none', 'no adapter'],
    ]) {
      const { code, stderr } = ternlm(equipped, [...RUN, '--backend', 'auto'], { GPU });
      expect(code, stderr).toBe(0);
      expect(stderr).toContain(`note: the CPU computes: ${why}`);
      expect(stderr).toMatch(/; wasm \w+, \d+ threads?; /);
    }
    expect(ternlm(equipped, [...RUN, '--backend', 'webgpu'], { GPU: 'software' }).stderr).toMatch(/; stand-in; /);
    const none = ternlm(equipped, [...RUN, '--backend', 'webgpu'], { GPU: 'none' });
    expect(none).toEqual({ code: 1, stdout: '', stderr: 'ternlm: no adapter\n' });
  });

  test('one that is lost: auto writes on and says so in the end, webgpu fails', () => {
    const wasm = ternlm(equipped, RUN);
    const auto = ternlm(equipped, [...RUN, '--backend', 'auto'], { LOST_FROM: '5' });
    expect([auto.code, auto.stdout], auto.stderr).toEqual([0, wasm.stdout]);
    expect(auto.stderr).toMatch(/\nnote: the CPU took over from stand-in: it was unplugged\n$/);
    const webgpu = ternlm(equipped, [...RUN, '--backend', 'webgpu'], { LOST_FROM: '5' });
    expect(webgpu.code).toBe(1);
    expect(webgpu.stderr).toMatch(/\nternlm: it was unplugged\n$/);
  });

  test('--profile tells the time of each kernel', () => {
    const { code, stdout, stderr } = ternlm(equipped, [...RUN, '--backend', 'webgpu', '--profile']);
    expect([code, stdout]).toEqual([0, ternlm(equipped, RUN).stdout]);
    expect(stderr).toMatch(
      /\nkernel +dispatches +ms +us each +%\nqkv +120 +3\.00 +25\.0 +75\.0\nhead +4 +1\.00 +250\.0 +25\.0\n/,
    );
    const without = ternlm(equipped, [...RUN, '--backend', 'auto', '--profile'], { GPU: 'no timestamps' });
    expect(without.stderr).toMatch(/\nnote: no profile: Stand-in 1 has no timestamps, or nothing ran on it\n$/);
    expect(ternlm(equipped, [...RUN, '--profile']).stderr).toBe(
      'ternlm: --profile: only webgpu has it, expected --backend webgpu\n',
    );
  });

  test("the CPU's options are refused with it", () => {
    for (const flags of [['-t', '1'], ['--tier', 'simd'], ['--no-revectorize']]) {
      const { code, stderr } = ternlm(equipped, [...RUN, '--backend', 'webgpu', ...flags]);
      expect(code).toBe(1);
      expect(stderr).toMatch(/^ternlm: --[a-z-]+: an option of the CPU, expected --backend wasm with it\n$/);
    }
  });

  test('bench measures it', () => {
    const args = ['bench', '-p', '8', '-n', '4', '-r', '1', '--no-warmup', '--backend', 'webgpu'];
    const [md, json] = [ternlm(equipped, [...args, '--profile']), ternlm(equipped, [...args, '-o', 'json'])];
    expect(md.stdout).toMatch(/\| stand-in +\| +- \| +pp8 \| /);
    expect(md.stderr).toMatch(/\nqkv +120 /);
    expect(JSON.parse(json.stdout)[1]).toMatchObject({ backend: 'stand-in', tier: '', n_threads: 0, n_gen: 4 });
  });

  test('doctor describes it, and fails where it computes wrong numbers', () => {
    const wrong = ternlm(equipped, ['doctor'], { GPU: 'wrong' });
    expect([wrong.code, wrong.stdout.includes('\nthe GPU computes wrong numbers.')]).toEqual([1, true]);
    expect(ternlm(equipped, ['doctor']).code).toBe(0);
    expect(ternlm(equipped, ['doctor']).stdout).toMatch(/\nGPU +Stand-in 1\n +driver: of 2026\n/);
    const { gpu } = JSON.parse(ternlm(equipped, ['doctor', '--json'], { GPU: 'software' }).stdout);
    expect(gpu).toEqual({ adapter: 'Stand-in 1', software: true, ok: true, rows: [['driver', 'of 2026']] });
  });
});
