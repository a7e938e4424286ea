import type { KernelsName } from './kernels.js';

// What differs between the runtimes: files, threads, compiled kernels, turns of the event loop. `#host` of package.json is the
// module for the runtime: node.ts for Node, Deno and Bun, web.ts for browsers, workerd.ts for Cloudflare's.

export interface Host {
  /** Opens a regular file for reading; fails with the system's error, or with one that says that there are no files here. */
  openFile(path: string | URL): Promise<HostFile>;
  /**
   * The kernels' module of that name, not compiled unless the runtime wants it so: with a memory that threads share, or with
   * a private one, which is had where sharing is not.
   */
  kernels(name: KernelsName, shared: boolean): Uint8Array<ArrayBuffer> | WebAssembly.Module;
  /** Threads that compute if nobody says how many: physical cores where they are known, at most 16. */
  defaultThreads(): Promise<number>;
  /** Why no more than one thread can compute here, or undefined. */
  whyOneThread(): string | undefined;
  /** Starts a thread that serves programs (assembly/program.ts), which `start` tells it of. */
  startThread(start: ThreadStart, events: ThreadEvents): Promise<Thread>;
  /** Later turns of the event loop. */
  turns(): Turns;
  /**
   * Set where timers belong to the request that set them, go with it, and may not be waited for by another: a later turn of the
   * event loop, at least `ms` away, for the caller alone. There an engine goes on only when a reader without tokens comes back
   * from its turn.
   */
  readonly turn?: (ms: number) => Promise<void>;
  /** Bytes of memory that a module can have here at most. */
  readonly memoryBytes: number;
  /** Bytes that the system can give now, its limits for this process heeded; undefined where it does not tell. */
  availableBytes?(): number | undefined;
  /** Most bytes of a file that may be kept in memory beside, where a server knows no ranges. */
  readonly keptBytes: number;
  /** Whether a text can be the path of a file. */
  readonly hasFiles: boolean;
  /** Why V8 cannot be told to make 256-bit operations here, or undefined. */
  noRevectorizer(): string | undefined;
  /** Does `act`, which must not wait for anything, under flags of V8. They are the process's, and are taken back at once. */
  withFlags<T>(flags: readonly string[], act: () => T): Promise<T>;
}

export interface HostFile {
  readonly size: number;
  readonly isRegular: boolean;
  /** Reads up to dst.length bytes from `at` on into dst, which may view shared memory; gives how many, 0 at the end. */
  read(at: number, dst: Uint8Array): Promise<number>;
  readSync(at: number, dst: Uint8Array): number;
  close(): Promise<void>;
}

export interface ThreadStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly index: number;
}

/** -1: ready; otherwise the number of a finished run. */
export type ThreadReport = number;

export interface ThreadEvents {
  onReport(report: ThreadReport): void;
  onError(error: Error): void;
}

export interface Thread {
  /** Whether it keeps the process alive, where a thread can. */
  keep(alive: boolean): void;
  terminate(): void;
  readonly ended: Promise<void>;
}

export interface Turns {
  /** Calls `act` in a later turn, after those of earlier calls. */
  next(act: () => void): void;
  /** Settles when all were called. */
  close(): Promise<void>;
}

/** What 32-bit addresses reach. */
export const WASM32_BYTES: number = 2 ** 32;

/** Most threads by default: decoding waits for memory, which fewer cores already saturate (not measured beyond 2). */
export const MOST_THREADS: number = 16;
