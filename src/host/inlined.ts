import { type KernelsName, kernels } from './kernels.js';

/** "shared" in the flags of a memory's limits (WebAssembly, binary format of limits). */
const SHARED = 2;

/**
 * The bytes of a module. All are compiled for shared memory; for private memory that flag of the import is cleared, as the code
 * is the same: atomic operations are allowed on private memory, and with one thread none of them waits.
 */
export function inlinedKernels(name: KernelsName, shared: boolean): Uint8Array<ArrayBuffer> {
  const { base64, memoryLimitsAt } = kernels[name];
  const chars = atob(base64);
  const bytes = new Uint8Array(chars.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = chars.charCodeAt(i);
  if (!shared) bytes[memoryLimitsAt] &= ~SHARED;
  return bytes;
}
