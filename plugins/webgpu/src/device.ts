import { BackendLostError } from 'ternlm/backend';
import type { Variant } from './shaders/declare.ts';

export interface DeviceOptions {
  /** Part of the adapter's name, where there are several: a driver's, such as "llvmpipe". Node only. */
  readonly adapter?: string;
  readonly powerPreference?: GPUPowerPreference;
  /** A device of the caller's own, with the limits and features it was made with; it is not destroyed in the end. */
  readonly device?: GPUDevice;
  /** Overrides of what is chosen by the device's features. */
  readonly variant?: Partial<Variant>;
  /** Asks the device for timestamps, where it has them. */
  readonly profile?: boolean;
}

export interface OpenDevice {
  readonly device: GPUDevice;
  readonly variant: Variant;
  readonly info: DeviceInfo;
}

export interface DeviceInfo {
  /** Description, or vendor and architecture, as far as the system tells. */
  readonly adapter: string;
  /** A software renderer: right, but slower than the CPU backend. */
  readonly software: boolean;
  /** Why the kernels are those of this variant, a line each. */
  readonly why: readonly string[];
}

/** Limits that are asked for: large tensors want large buffers, all else is what every adapter has. */
const LIMITS = ['maxBufferSize', 'maxStorageBufferBindingSize'] as const;

/** Instances live as long as the process: releasing one crashes some drivers, and a device holds on to it anyway. */
const instances = new Map<string, GPU>();

/** The platform's GPU, or Dawn's where the platform has none, as in Node: the package `webgpu`, loaded when first asked for. */
async function gpuOf({ adapter, profile }: DeviceOptions): Promise<GPU> {
  if (typeof navigator === 'object' && navigator.gpu !== undefined) return navigator.gpu;
  const flags = adapter === undefined ? [] : [`adapter=${adapter}`];
  // Else Dawn rounds timestamps to steps of 131 us, longer than most dispatches.
  if (profile) flags.push('disable-dawn-features=timestamp_quantization');
  const key = flags.join(' ');
  const known = instances.get(key);
  if (known !== undefined) return known;
  const name = 'webgpu';
  const dawn = (await import(name).catch((cause: unknown) => {
    throw new Error("webgpu: no navigator.gpu here, and the package 'webgpu' cannot be loaded: npm install webgpu", {
      cause,
    });
  })) as { create(flags: string[]): GPU; globals: Record<string, unknown> };
  Object.assign(globalThis, dawn.globals);
  const gpu = dawn.create(flags);
  instances.set(key, gpu);
  return gpu;
}

/**
 * @throws Error when there is no adapter, or the package that Node needs is not installed
 */
export async function openDevice(options: DeviceOptions): Promise<OpenDevice> {
  const { device: given } = options;
  if (given !== undefined) return { device: given, ...(await variantOf(given, given.adapterInfo, options.variant)) };
  const gpu = await gpuOf(options);
  const adapter = await gpu.requestAdapter({ powerPreference: options.powerPreference ?? 'high-performance' });
  if (adapter === null) throw new Error('webgpu: no adapter; the system has no GPU that its drivers offer to WebGPU');
  const wanted = [...(options.profile ? (['timestamp-query'] as const) : []), 'subgroups' as const];
  const requiredFeatures = wanted.filter((feature) => adapter.features.has(feature));
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  return { device, ...(await variantOf(device, adapter.info, options.variant)) };
}

/** Whether the device's compiler knows the packed dot; not all platforms list it among their features. */
async function hasPackedDot(device: GPUDevice): Promise<boolean> {
  device.pushErrorScope('validation');
  device.createShaderModule({ code: '@compute @workgroup_size(1) fn main() { _ = dot4I8Packed(1u, 1u); }' });
  return (await device.popErrorScope()) === null;
}

async function variantOf(
  device: GPUDevice,
  info: GPUAdapterInfo | undefined,
  wished: Partial<Variant> = {},
): Promise<Omit<OpenDevice, 'device'>> {
  // Older engines do not tell of a device's adapter, or of its subgroups.
  const { vendor = '', architecture = '', description = '', subgroupMinSize = 0 } = info ?? {};
  const packed = await hasPackedDot(device);
  const subgroup = device.features.has('subgroups') ? Math.min(subgroupMinSize, 32) : 0;
  const chosen: Variant = { dot: packed ? 'packed' : 'float', subgroup };
  const variant = { ...chosen, ...wished };
  // The description says it all where there is one; browsers keep it to themselves.
  const adapter = description || [vendor, architecture].filter((text) => text !== '').join(' ');
  const why = [
    variant.dot !== chosen.dot
      ? `dot ${variant.dot}, as was asked for`
      : packed
        ? 'dot packed: WGSL has dot4I8Packed here'
        : 'dot float: WGSL has no dot4I8Packed here',
    variant.subgroup !== subgroup
      ? `subgroups of ${variant.subgroup}, as was asked for`
      : subgroup > 0
        ? `sums over subgroups of at least ${subgroup}`
        : 'sums in workgroup memory: the device has no subgroups',
  ];
  // Chrome tells by a flag, Dawn by the names of the drivers.
  const named = /swiftshader|llvmpipe|lavapipe|software/i.test(`${architecture} ${description}`);
  const software = info?.isFallbackAdapter === true || named;
  return { variant, info: { adapter: adapter || 'unnamed adapter', software, why } };
}

/** Tells of the device's end, once. */
export function lostError(info: GPUDeviceLostInfo): BackendLostError {
  const message = info.message.trim();
  return new BackendLostError(`webgpu: the device was lost (${info.reason})${message === '' ? '' : `: ${message}`}`);
}
