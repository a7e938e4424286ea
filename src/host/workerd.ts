// Cloudflare's workerd, which makes no modules from bytes: those that are imported come compiled, bundlers copy their files.
import type { Host } from './host.ts';
import type { KernelsName } from './kernels.js';
import relaxed from './relaxed.wasm';
import relaxed_i16 from './relaxed_i16.wasm';
import simd from './simd.wasm';

/** For private memory, written by assembly/build.mjs. */
const MODULES: Partial<Record<KernelsName, WebAssembly.Module>> = { simd, relaxed, relaxed_i16 };

/** What a worker of Cloudflare's has for JavaScript and WebAssembly together. workerd elsewhere sets no limit. */
const WORKER_BYTES = 128 << 20;
/**
 * What of it is JavaScript's: with the demo model 8 MB after a collection, and 28 MB of heap after 1700 requests that left, which
 * nothing had made it collect (workerd 1.20261117); a vocabulary of 32,000 tokens takes 5 to 8 MB (Node 20; November 2026).
 */
const HEAP_BYTES = 32 << 20;

const ONE_THREAD = 'workerd has no threads';

export const host: Host = {
  async openFile() {
    throw new Error('no file system here; import the file as data (ArrayBuffer), or open a URL, a Blob or bytes');
  },
  kernels(name) {
    const module = MODULES[name];
    if (module === undefined) throw new Error(`${name} is not among the modules for workerd`);
    return module;
  },
  defaultThreads: async () => 1,
  whyOneThread: () => ONE_THREAD,
  async startThread() {
    throw new Error(ONE_THREAD);
  },
  // Models load while the worker starts, where there are no timers. Whoever closes comes after what is queued.
  turns: () => ({ next: (act) => queueMicrotask(act), close: async () => {} }),
  turn: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  memoryBytes: WORKER_BYTES - HEAP_BYTES,
  keptBytes: HEAP_BYTES / 2, // the other half is what JavaScript takes without (HEAP_BYTES)
  hasFiles: false,
  noRevectorizer: () => 'flags of this engine cannot be set',
  withFlags: async (_flags, act) => act(),
};
