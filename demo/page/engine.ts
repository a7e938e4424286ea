import { webgpu } from '@ternlm/webgpu';
import { type LoadModelOptions, loadModel, type Model } from 'ternlm';

// All that the page takes of the library.

export type { Completion, GenerateOptions, Model, Prompt } from 'ternlm';

export type Device = 'cpu' | 'gpu';
export const DEVICE_NAMES: Readonly<Record<Device, string>> = { cpu: 'CPU', gpu: 'GPU' };

/** What a person picked. `open` gives it anew for each device it is loaded on. */
export interface Picked {
  readonly name: string;
  open(): Parameters<typeof loadModel>[0];
}

export function load(picked: Picked, device: Device, options: LoadModelOptions): Promise<Model> {
  // One sequence at once is all that the page asks of a model.
  const backend = device === 'gpu' ? () => webgpu() : undefined;
  return loadModel(picked.open(), { backend, parallel: 1, ...options });
}

/** The model that comes with the page: inside it, or a file beside it; undefined where neither can be. */
export function shippedModel(): Picked | undefined {
  const inside = document.getElementById('shipped-model')?.textContent ?? '';
  if (inside !== 'MODEL') return { name: 'tales.gguf', open: () => decodeBase64(inside) };
  if (location.protocol === 'file:') return undefined;
  return { name: 'tales.gguf', open: () => new URL('tales.gguf', document.baseURI) };
}

function decodeBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
