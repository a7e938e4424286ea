import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { create, globals } from 'webgpu';
import { deviceErrors } from '../../dist/errors.js';
import { webgpu } from '../../dist/index.js';
import { createGpuMemory } from '../../dist/memory.js';
import { createRecorder } from '../../dist/recorder.js';
import { counting } from '../counting_device.js';

// Starts that fail, each with what went wrong. Dawn's null backend has a device everywhere, of 512 MB, that computes nothing.

const plugin = new URL('../../dist/index.js', import.meta.url).href;

/** What the plugin says in a process of its own. */
function startIn(env: Readonly<Record<string, string>>, first = ''): string {
  const code = `${first}
    const { webgpu } = await import('${plugin}');
    console.log(await webgpu().then(() => 'opened', (error) => error.constructor.name + ': ' + error.message));`;
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
  return stdout.trim();
}

Object.assign(globalThis, globals);
/** For the life of the process, as it may not be released. */
const dawn = create(['backend=null']);

async function nullDevice(): Promise<GPUDevice> {
  const adapter = await dawn.requestAdapter();
  if (adapter === null) throw new Error('Dawn without its null backend');
  return adapter.requestDevice();
}

describe('webgpu() fails', () => {
  it('where there is no adapter', () => {
    const nowhere = { VK_DRIVER_FILES: '/nowhere.json', VK_ICD_FILENAMES: '/nowhere.json' };
    expect(startIn(nowhere)).toBe('Error: webgpu: no adapter; the system has no GPU that its drivers offer to WebGPU');
  });

  it("where Node has no package 'webgpu'", () => {
    const hooks = `export const resolve = (name, context, next) => {
      if (name === 'webgpu') throw new Error('hidden');
      return next(name, context);
    }`;
    const hide = `import { register } from 'node:module';
      register('data:text/javascript,${encodeURIComponent(hooks).replaceAll("'", '%27')}');`;
    expect(startIn({}, hide)).toBe(
      "Error: webgpu: no navigator.gpu here, and the package 'webgpu' cannot be loaded: npm install webgpu",
    );
  });

  it('on a device that computes wrong numbers', async () => {
    const device = await nullDevice();
    const counts = counting(device);
    await expect(webgpu({ device })).rejects.toThrow(/^self-test, bit_linear: number \d+ is .*, expected/);
    expect([counts.buffers, counts.bytes]).toEqual([0, 0]);
    device.destroy();
  });
});

describe('a shader that does not compile', () => {
  it.each([
    ['a type', '@compute @workgroup_size(1) fn main() {\n  let x: u32 = 1.5;\n}', /^webgpu: broken: .*\b2:16\b/s],
    ['its entry point', 'fn other() {}', /^webgpu: broken: .*main/s],
  ])('by %s is named, with its line', async (_what, code, message) => {
    const device = await nullDevice();
    const errors = deviceErrors(device);
    const memory = createGpuMemory(device, errors);
    const { recorder, record } = createRecorder(device, memory, { dot: 'packed', subgroup: 0 }, errors);
    const { ready } = record(() => recorder.dispatch({ stem: 'broken', code }, [], [], [1]));
    await expect(ready).rejects.toThrow(message);
    memory.dispose();
    device.destroy();
  });
});

describe('a device that is too small', () => {
  it('says how much was wanted in one buffer', async () => {
    const device = await nullDevice();
    const backend = await webgpu({ device, selfTest: false });
    const { maxBufferSize } = device.limits;
    expect(() => backend.alloc(maxBufferSize + 16)).toThrow(
      new RangeError(
        `webgpu: ${maxBufferSize + 16} bytes wanted in one buffer; this device has ${maxBufferSize} at most`,
      ),
    );
    await backend.dispose();
    device.destroy();
  });

  it('says how much was wanted in all, with the next thing that is waited for', async () => {
    const device = await nullDevice();
    const backend = await webgpu({ device, selfTest: false });
    const tensors = [200, 200, 200].map((mb) => backend.alloc(mb * 1e6));
    const writing = backend.fill(tensors[2], async () => {});
    await expect(writing).rejects.toThrow(RangeError);
    await expect(writing).rejects.toThrow(/^webgpu: 200000000 bytes wanted, 400000000 in use: /);
    await backend.dispose();
    device.destroy();
  });
});
