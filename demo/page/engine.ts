import { webgpu } from '@ternlm/webgpu';
import {
  type CachedModel,
  estimate,
  type LoadModelOptions,
  listModels,
  loadModel,
  type MemoryEstimate,
  type Model,
} from 'ternlm';

// All that the page takes of the library.

export {
  type CachedModel,
  type Completion,
  type GenerateOptions,
  HubError,
  type Model,
  type Prompt,
  removeModel,
} from 'ternlm';

export type Device = 'cpu' | 'gpu';
export const DEVICE_NAMES: Readonly<Record<Device, string>> = { cpu: 'CPU', gpu: 'GPU' };

/** What a person picked. `open` gives it anew for each device it is loaded on. */
export interface Picked {
  readonly name: string;
  /** Whether it is downloaded first, and kept. Default: as loadModel does. */
  readonly cache?: boolean;
  /** Nobody asks what memory it takes: it is small, or was there before. */
  readonly isKnown?: boolean;
  open(): Parameters<typeof loadModel>[0];
}

/** What was downloaded before; undefined where this browser keeps nothing for this page. */
export function keptModels(): Promise<CachedModel[] | undefined> {
  return listModels().catch(() => undefined);
}

/** What a person typed: an address, or a model of the hub. */
export async function pickedFromText(text: string): Promise<Picked> {
  const isAddress = /^https?:/i.test(text);
  const name =
    text
      .replace(/[?#].*/, '')
      .split(/[/:]/)
      .at(-1) || text;
  // Two devices read it, and the next visit.
  const cache = isAddress ? (await keptModels()) !== undefined : undefined;
  return { name, cache, open: () => text };
}

// One sequence at once is all that the page asks of a model.
const SHAPE = { parallel: 1 };
/** People have a button to try again, and do not wait for five tries. */
const RETRIES = 1;

/** What memory it will take on the CPU: of an address, what its header says. */
export function memoryOf(picked: Picked, signal: AbortSignal): Promise<MemoryEstimate> {
  return estimate(picked.open(), { ...SHAPE, retries: RETRIES, signal });
}

export function load(picked: Picked, device: Device, options: LoadModelOptions): Promise<Model> {
  const backend = device === 'gpu' ? () => webgpu() : undefined;
  const { cache } = picked;
  return loadModel(picked.open(), { ...SHAPE, backend, cache, retries: RETRIES, ...options });
}

/** The model that comes with the page: inside it, or a file beside it; undefined where neither can be. */
export function shippedModel(): Picked | undefined {
  const inside = document.getElementById('shipped-model')?.textContent ?? '';
  if (inside !== 'MODEL') return { name: 'tales.gguf', isKnown: true, open: () => decodeBase64(inside) };
  if (location.protocol === 'file:') return undefined;
  return { name: 'tales.gguf', isKnown: true, open: () => new URL('tales.gguf', document.baseURI) };
}

function decodeBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
