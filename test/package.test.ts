import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pack, root } from './runtimes/publish.mjs';

// The package as it is published: packed, laid into an empty folder, used from there. npm run test:runtimes installs and runs it
// in every runtime; here is what needs no network.

let folder: string;
let installed: string;

beforeAll(async () => {
  folder = mkdtempSync(join(root, 'node_modules', '.package-test-'));
  const { tarball } = await pack(folder);
  // Unpacked by hand: the dependencies are found in the folder above.
  installed = join(folder, 'node_modules', 'ternlm');
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['xzf', tarball, '-C', installed, '--strip-components=1']);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (args: string[]) => execFileSync(process.execPath, args, { cwd: folder }).toString();

describe('the packed package', () => {
  it('writes with its demo model, from a text given to node', () => {
    const code = `import { demoModel, loadModel } from 'ternlm';
      const model = await loadModel(demoModel, { threads: 2 });
      const { text } = await model.complete('Once upon a time', { temperature: 0, maxTokens: 8 });
      await model.dispose();
      console.log(text.length > 8);`;
    expect(run(['--input-type=module', '-e', code])).toBe('true\n');
  });

  it('has what another backend is written against', () => {
    const code = `import { BackendLostError, promised } from 'ternlm/backend';
      import { referenceBackend } from 'ternlm/reference';
      import { PICK_BYTES } from 'ternlm/sampler';
      const backend = referenceBackend();
      await promised((done) => backend.start(backend.record(() => {}), 1, undefined, done));
      console.log(new BackendLostError('gone').name, PICK_BYTES);`;
    expect(run(['--input-type=module', '-e', code])).toBe('BackendLostError 16\n');
  });

  it('has its command', () => {
    expect(run([join(installed, 'dist/cli/main.js'), '--version'])).toMatch(/^ternlm \d+\.\d+\.\d+\n$/);
  });

  it('has types that hold without skipLibCheck and refuse what is wrong', () => {
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const check = (code: string) => {
      writeFileSync(join(folder, 'use.mts'), code);
      const flags = [
        '--noEmit',
        '--ignoreConfig',
        '--strict',
        '--module',
        'nodenext',
        '--target',
        'es2022',
        '--lib',
        'es2022,dom,esnext.disposable',
        '--types',
        '',
      ];
      try {
        return run([tsc, ...flags, 'use.mts']);
      } catch (error) {
        return (error as { stdout: Buffer }).stdout.toString();
      }
    };
    expect(check("import { loadModel } from 'ternlm'; await loadModel('m.gguf', { tier: 'simd', threads: 2 });")).toBe(
      '',
    );
    expect(
      check(`import type { Backend } from 'ternlm/backend'; import { referenceBackend } from 'ternlm/reference';
        export const limit = (backend: Backend = referenceBackend()): number => backend.limitBytes;`),
    ).toBe('');
    expect(check("import { loadModel } from 'ternlm'; await loadModel('m.gguf', { tier: 'fast' });")).toContain(
      '\'"fast"\'',
    );
  });
});
