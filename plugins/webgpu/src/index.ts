/** A WebGPU backend for ternlm. */
import { type BackendOptions, backendOver, checkOptions, type WebGpuBackend } from './backend.ts';
import { type DeviceOptions, openDevice } from './device.ts';
import { selfTest } from './self_test.ts';
import type { Variant } from './shaders/declare.ts';

export type { WebGpuBackend } from './backend.ts';
export type { DeviceInfo } from './device.ts';
export type { StemTime } from './profile.ts';
export type { Variant } from './shaders/declare.ts';

export interface WebGpuOptions extends DeviceOptions, BackendOptions {
  /** Whether the device has to compute a small model right before it is used. Default true. */
  readonly selfTest?: boolean;
}

/**
 * Opens a GPU as a backend: `loadModel(file, { backend: await webgpu() })`. Of the kernels' variants the first that computes
 * right numbers is taken.
 *
 * @throws Error when there is no adapter or, in Node, the package `webgpu` is missing, or no variant is right
 */
export async function webgpu(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  checkOptions(options);
  const own = options.device === undefined;
  const opened = await openDevice(options);
  const { device, info } = opened;
  const why = [...info.why];
  const { variant: chosen } = opened;
  const variants: Variant[] = [chosen, { ...chosen, subgroup: 0 }, { dot: 'float', subgroup: 0 }];
  let failure: unknown;
  for (const [i, variant] of variants.entries()) {
    if (variants.slice(0, i).some(({ dot, subgroup }) => dot === variant.dot && subgroup === variant.subgroup))
      continue;
    if (failure !== undefined)
      why.push(`${(failure as Error).message}; dot ${variant.dot}, subgroups ${variant.subgroup} instead`);
    const backend = backendOver({ device, variant, info: { ...info, why } }, own, options);
    try {
      if (options.selfTest ?? true) await selfTest(backend);
      return backend;
    } catch (error) {
      failure ??= error;
      await backend.dispose({ keepDevice: true });
    }
  }
  if (own) device.destroy();
  throw failure;
}

/** What `ternlm doctor` tells of a GPU. */
export interface Probe {
  readonly adapter: string;
  readonly software: boolean;
  /** Name and value. */
  readonly rows: readonly (readonly [string, string])[];
  /** Whether the small model came out right, or what was wrong. */
  readonly ok: boolean;
}

/** Looks at the adapter that `webgpu` would take, and tests it. @throws Error as `webgpu` does when there is none */
export async function probe(options: WebGpuOptions = {}): Promise<Probe> {
  const { device, info } = await openDevice({ ...options, profile: true });
  const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize } = device.limits;
  const started = performance.now();
  let ok = true;
  let result: string;
  let { why } = info;
  try {
    const backend = await webgpu({ ...options, device });
    why = backend.info.why;
    await backend.dispose();
    result = `passed in ${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    ok = false;
    result = (error as Error).message.replace(/^self-test, /, 'FAILED: ');
  }
  const features = [...device.features].sort().join(', ');
  if (options.device === undefined) device.destroy();
  const mb = (bytes: number) => `${Math.floor(bytes / 1e6)} MB`;
  return {
    adapter: info.adapter,
    software: info.software,
    ok,
    rows: [
      ['features', features],
      [
        'limits',
        `buffers ${mb(maxBufferSize)}, bindings ${mb(maxStorageBufferBindingSize)}, workgroups ${maxComputeWorkgroupStorageSize} bytes`,
      ],
      ...why.map((line, i): [string, string] => [i === 0 ? 'kernels' : '', line]),
      ['self-test', result],
    ],
  };
}
