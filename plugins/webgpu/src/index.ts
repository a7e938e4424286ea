/** A WebGPU backend for ternlm. */
import { backendOver, type WebGpuBackend } from './backend.ts';
import { type DeviceOptions, openDevice } from './device.ts';

export type { StemTime, WebGpuBackend } from './backend.ts';
export type { DeviceInfo } from './device.ts';
export type { Variant } from './shaders/declare.ts';

export interface WebGpuOptions extends DeviceOptions {
  /** Most tokens of a sequence that one submit computes, 1 to 16. Default 16; the engine begins with 1. */
  readonly maxRepeats?: number;
}

/**
 * Opens a GPU as a backend: `loadModel(file, { backend: await webgpu() })`.
 *
 * @throws Error when there is no adapter or, in Node, the package `webgpu` is missing
 */
export async function webgpu(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  return backendOver(await openDevice(options), options.device === undefined, options.maxRepeats);
}
