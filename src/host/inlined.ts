import type { Host } from './host.ts';
import type { InlinedModule, KernelsName } from './kernels.js';

/** "shared" in the flags of a memory's limits (WebAssembly, binary format of limits). */
const SHARED = 2;

/**
 * The bytes of a module. All are compiled for shared memory; for private memory that flag of the import is cleared, as the code
 * is the same: atomic operations are allowed on private memory, and with one thread none of them waits.
 *
 * @param modules those that the runtime has use for
 */
export const inlinedKernels =
  (modules: Readonly<Partial<Record<KernelsName, InlinedModule>>>): Host['kernels'] =>
  (name, shared) => {
    const module = modules[name];
    if (module === undefined) throw new Error(`${name} is not among the modules for this runtime`);
    const chars = atob(module.base64);
    const bytes = new Uint8Array(chars.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = chars.charCodeAt(i);
    if (!shared) bytes[module.memoryLimitsAt] &= ~SHARED;
    return bytes;
  };
