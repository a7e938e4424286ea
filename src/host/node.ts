// Node, Deno and Bun.
import { readFileSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type Host, MOST_THREADS, type ThreadStart, WASM32_BYTES } from './host.ts';
import { inlinedKernels } from './inlined.ts';
import { relaxed, relaxed_i16, revec, simd } from './kernels.js';
import { noRevectorizer, withFlags } from './revectorize.ts';

/** Most bytes asked of one file read; the operating systems stop short of 2^31. */
const READ_BYTES = 1 << 30;

export const host: Host = {
  async openFile(path) {
    const file = await open(pathOf(path), 'r');
    const stat = await file.stat();
    const most = (dst: Uint8Array) => Math.min(dst.length, READ_BYTES);
    return {
      size: stat.size,
      isRegular: stat.isFile(),
      read: async (at, dst) => (await file.read(dst, 0, most(dst), at)).bytesRead,
      readSync: (at, dst) => readSync(file.fd, dst, 0, most(dst), at),
      close: () => file.close(),
    };
  },
  kernels: inlinedKernels({ simd, relaxed, relaxed_i16, revec }),
  /**
   * One thread a physical core, where the system tells, since the two threads of a core share its vector units. At least 2 where
   * two can run, as 1 would compute on the caller's thread.
   */
  async defaultThreads() {
    const most = Math.min(MOST_THREADS, availableParallelism());
    const cores = linuxCores((path) => {
      try {
        return readFileSync(path, 'utf8');
      } catch {
        return undefined;
      }
    });
    return Math.min(most, Math.max(2, cores ?? most));
  },
  whyOneThread: () => undefined,
  async startThread(start: ThreadStart, { onReport, onError }) {
    // The host's own arguments are not for it: with --input-type or -e it would not start.
    const worker = new Worker(new URL('../backend/wasm/worker.js', import.meta.url), { execArgv: [] });
    worker.on('message', onReport);
    worker.on('error', onError);
    const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    worker.postMessage(start);
    return {
      keep: (alive) => (alive ? worker.ref() : worker.unref()),
      terminate: () => void worker.terminate(),
      ended,
    };
  },
  turns: () => ({ next: (act) => void setImmediate(act), close: async () => {} }),
  memoryBytes: WASM32_BYTES,
  availableBytes() {
    try {
      const available: unknown = process.availableMemory?.(); // not in every version of Deno and Bun
      return typeof available === 'number' && available > 0 ? available : undefined;
    } catch {
      return undefined; // Deno tells only with --allow-sys
    }
  },
  keptBytes: WASM32_BYTES, // no larger model can be computed with on the CPU
  hasFiles: true,
  noRevectorizer,
  withFlags,
};

/** Node's own error does not name the address. */
function pathOf(path: string | URL): string {
  if (typeof path === 'string') return path;
  try {
    return fileURLToPath(path);
  } catch (cause) {
    throw new TypeError(`file://${path.host}${path.pathname}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Physical cores that this process may use: those of the CPUs it is bound to, and no more than its cgroup's quota. Undefined
 * where the system is no Linux or does not tell.
 *
 * @param read the text of a file, or undefined
 */
export function linuxCores(read: (path: string) => string | undefined): number | undefined {
  const bound = /^Cpus_allowed_list:\s*(\S+)$/m.exec(read('/proc/self/status') ?? '');
  if (bound === null) return undefined;
  const cores = new Set<string>();
  for (const range of bound[1].split(',')) {
    const [first, last = first] = range.split('-').map(Number);
    for (let cpu = first; cpu <= last; cpu++) {
      const siblings = read(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`);
      if (siblings !== undefined) cores.add(siblings);
    }
  }
  if (cores.size === 0) return undefined;
  // "quota period", or "max period" without a quota
  const [quota, period] = (read('/sys/fs/cgroup/cpu.max') ?? 'max').split(' ').map(Number);
  return quota > 0 ? Math.max(1, Math.min(cores.size, Math.floor(quota / period))) : cores.size;
}
