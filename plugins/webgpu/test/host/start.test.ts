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

describe('starts', () => {
  it('are told in their order, those that fail too', async () => {
    const device = await nullDevice();
    const backend = await webgpu({ device, selfTest: false });
    const [from, index, x, weight, out] = [64, 16, 64, 64, 64].map((bytes) => backend.alloc(bytes));
    const norm = { weight, eps: 1e-5 };
    const program = backend.record(() => backend.ops.hidden({ outs: 1, dim: 16, index, x, norm, out }));
    const told: string[] = [];
    const start = (name: string, repeats: number, bytes: number) =>
      new Promise<void>((resolve) => {
        const into = new Uint8Array(16 * bytes);
        const results = bytes === 0 ? undefined : { from, bytes, into };
        backend.start(program, repeats, results, (error) => {
          told.push(error === undefined ? name : `${name}: ${error.message}`);
          resolve();
        });
      });
    await Promise.all([start('maps', 16, 64), start('is refused', 17, 0), start('leaves nothing', 1, 0)]);
    expect(told).toEqual(['maps', 'is refused: webgpu: 17 runs at one start, expected 1 to 16', 'leaves nothing']);
    await backend.dispose();
    device.destroy();
  });

  it('keep no buffer of what was read, nor the device an ear for its errors', async () => {
    const device = await nullDevice();
    const counts = counting(device);
    const backend = await webgpu({ device, selfTest: false });
    const tensor = backend.alloc(4096);
    for (let bytes = 4; bytes <= 4096; bytes += 4) await backend.read(tensor, 0, new Uint8Array(bytes));
    expect(counts.buffers).toBe(1);
    await backend.dispose();
    const heard = new Promise<string>((resolve) => {
      device.addEventListener('uncapturederror', (event) => resolve(`prevented: ${event.defaultPrevented}`));
    });
    device.createBuffer({ size: 4, usage: 0 });
    expect(await heard).toBe('prevented: false');
    device.destroy();
  });

  it('of options that are out of range open no device', async () => {
    await expect(webgpu({ maxRepeats: 99 })).rejects.toThrow(
      'maxRepeats: got 99, expected a whole number from 1 to 16',
    );
  });
});

describe('a device that is too small', () => {
  it('says how much a kernel would read at once', async () => {
    const device = await nullDevice();
    const backend = await webgpu({ device, selfTest: false });
    const most = device.limits.maxStorageBufferBindingSize;
    const [h, x, scratch, tensor] = [512, 16, 16, most + 32].map((bytes) => backend.alloc(bytes));
    const wdown = { type: 'i2_s', rows: most / 32, cols: 128, tensor } as const;
    const record = () => backend.record(() => backend.ops.down({ rows: 1, h, norm: undefined, wdown, x, scratch }));
    expect(record).toThrow(
      new RangeError(`webgpu: down reads ${most + 32} bytes at once; this device binds ${most} at most`),
    );
    await backend.dispose();
    device.destroy();
  });

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
