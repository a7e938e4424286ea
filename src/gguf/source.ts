import { host } from '#host';
import { GgufError } from './error.ts';

/** Bytes of a file, wherever it lies. */
export interface Source {
  /** For messages: path, address without query, or kind. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /**
   * Fills dst, which may view shared memory, with the bytes from `at` on.
   * @throws GgufError with offset, wanted and got when there are fewer
   */
  read(at: number, dst: Uint8Array): Promise<void>;
  /** The same without a promise, where the place allows it: files and bytes. */
  readSync?(at: number, dst: Uint8Array): void;
  close(): Promise<void>;
}

/** How a server is asked for a range. */
export type Fetch = (
  url: URL,
  init: { readonly headers: { readonly range: string }; readonly signal?: AbortSignal },
) => Promise<Response>;

/** How a source is opened. */
interface OpenOptions {
  readonly signal?: AbortSignal;
  readonly fetch?: Fetch;
}

/** Bytes of one block of a body that is kept in memory: few blocks, and none too large for a fragmented heap (not tuned). */
const BLOCK_BYTES = 8 << 20;

/**
 * Opens a path (Node, Deno, Bun), an http(s) or file address, a Blob or File, or bytes.
 * An http server that knows no ranges has its whole answer read into memory, as far as the host lets it (Host.keptBytes).
 * @param options.signal ends the opening and every `read` with its reason; `readSync` takes no notice
 * @param options.fetch asks in the place of the runtime's
 * @throws GgufError on an http answer that is not what was asked for; the system's own error for a path
 */
export async function openSource(
  input: string | URL | Blob | Uint8Array | ArrayBuffer,
  options: OpenOptions = {},
): Promise<Source> {
  const { signal } = options;
  signal?.throwIfAborted();
  const source = await open(input, options);
  const { name, size, readSync } = source;
  function check(at: number, dst: Uint8Array): void {
    if (at < 0 || at + dst.length > size) throw shortRead(name, at, dst.length, Math.max(0, size - at));
  }
  return {
    name,
    size,
    async read(at, dst) {
      signal?.throwIfAborted();
      check(at, dst);
      if (dst.length > 0) await source.read(at, dst);
    },
    ...(readSync && {
      readSync(at: number, dst: Uint8Array): void {
        check(at, dst);
        readSync(at, dst);
      },
    }),
    close: source.close,
  };
}

async function open(input: string | URL | Blob | Uint8Array | ArrayBuffer, options: OpenOptions): Promise<Source> {
  if (typeof input === 'string') {
    // A letter alone before the colon is a drive.
    return /^[a-z][a-z0-9+.-]+:\/\//i.test(input) ? open(new URL(input), options) : openFile(input, input);
  }
  if (input instanceof URL) {
    if (input.protocol === 'file:') return openFile(input, input.pathname);
    if (/^https?:$/.test(input.protocol)) return openUrl(input, options);
    throw new GgufError(`${input.href}: ${input.protocol} address, expected a path, or an http, https or file address`);
  }
  if (input instanceof Blob) return openBlob(input);
  return openBytes(ArrayBuffer.isView(input) ? input : new Uint8Array(input));
}

function shortRead(name: string, at: number, wanted: number, got: number, cause?: unknown): GgufError {
  const reason = cause instanceof Error ? ` (${cause.message})` : '';
  return new GgufError(`${name}: read at byte ${at}: wanted ${wanted} bytes, got ${got}${reason}`, at, { cause });
}

function openBytes(bytes: Uint8Array): Source {
  function readSync(at: number, dst: Uint8Array): void {
    dst.set(bytes.subarray(at, at + dst.length));
  }
  return {
    name: 'bytes',
    size: bytes.length,
    read: async (at, dst) => readSync(at, dst),
    readSync,
    close: async () => {},
  };
}

function openBlob(blob: Blob): Source {
  return {
    name: 'name' in blob && typeof blob.name === 'string' ? blob.name : 'blob',
    size: blob.size,
    async read(at, dst) {
      dst.set(new Uint8Array(await blob.slice(at, at + dst.length).arrayBuffer()));
    },
    close: async () => {},
  };
}

async function openFile(path: string | URL, name: string): Promise<Source> {
  const file = await host.openFile(path);
  if (!file.isRegular) {
    await file.close();
    throw new GgufError(`${name}: not a regular file`);
  }
  return {
    name,
    size: file.size,
    async read(at, dst) {
      for (let got = 0; got < dst.length; ) {
        const bytesRead = await file.read(at + got, got === 0 ? dst : dst.subarray(got));
        if (bytesRead === 0) throw shortRead(name, at, dst.length, got);
        got += bytesRead;
      }
    },
    readSync(at, dst) {
      for (let got = 0; got < dst.length; ) {
        const bytesRead = file.readSync(at + got, got === 0 ? dst : dst.subarray(got));
        if (bytesRead === 0) throw shortRead(name, at, dst.length, got);
        got += bytesRead;
      }
    },
    close: () => file.close(),
  };
}

async function openUrl(url: URL, options: OpenOptions): Promise<Source> {
  const { signal } = options;
  const name = url.origin + url.pathname; // a query may hold a signature
  const first = await request(url, name, 0, 1, options);
  if (first.status === 200) return openBody(first, name, signal);
  const size = first.status === 416 ? 0 : contentRange(first, name, 0, 1, false).size;
  await first.body?.cancel();
  const version = strongTag(first);
  return {
    name,
    size,
    async read(at, dst) {
      const response = await request(url, name, at, dst.length, options);
      if (response.status !== 206) throw await refused(response, name, '206 for a range');
      const range = contentRange(response, name, at, dst.length);
      if (range.size !== size || strongTag(response) !== version) {
        await response.body?.cancel();
        throw new GgufError(`${name}: the file changed while it was read`, at);
      }
      let got = 0;
      await eachChunk(response, name, at, dst.length, signal, (chunk) => {
        if (got + chunk.length > dst.length) throw shortRead(name, at, dst.length, got + chunk.length);
        dst.set(chunk, got);
        got += chunk.length;
      });
    },
    close: async () => {},
  };
}

/** Answers 206 and 200 pass, and 416 where it says that the file is empty. */
async function request(
  url: URL,
  name: string,
  at: number,
  wanted: number,
  { signal, fetch: ask = fetch }: OpenOptions,
): Promise<Response> {
  const response = await ask(url, { headers: { range: `bytes=${at}-${at + wanted - 1}` }, signal }).catch(
    (cause: unknown) => {
      signal?.throwIfAborted();
      throw shortRead(name, at, wanted, 0, deepest(cause));
    },
  );
  const empty = response.status === 416 && response.headers.get('content-range') === 'bytes */0';
  if (response.status !== 200 && response.status !== 206 && !empty) throw await refused(response, name, '206 or 200');
  return response;
}

async function refused(response: Response, name: string, expected: string): Promise<GgufError> {
  await response.body?.cancel();
  return new GgufError(`${name}: HTTP ${response.status}, expected ${expected}`);
}

/**
 * Checks that a 206 answer begins with the bytes asked for, and ends with them where it is to be read; returns the size of the
 * file. Vite's server for development takes the 0 of 0-0 for no end and sends all.
 */
function contentRange(response: Response, name: string, at: number, wanted: number, exact = true): { size: number } {
  const text = response.headers.get('content-range');
  const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(text ?? '');
  const [first, last, size] = range?.slice(1).map(Number) ?? [];
  const ends = exact ? last === at + wanted - 1 : last < size;
  if (range && first === at && ends && size <= Number.MAX_SAFE_INTEGER) return { size };
  const hint = text === null ? '; a page of another origin sees it where Access-Control-Expose-Headers names it' : '';
  throw new GgufError(
    `${name}: Content-Range ${text ?? 'missing'}, expected bytes ${at}-${at + wanted - 1} and the size of the file${hint}`,
    at,
  );
}

/** The entity tag that changes with every byte of the file, or null. */
function strongTag(response: Response): string | null {
  const tag = response.headers.get('etag');
  return tag?.startsWith('"') ? tag : null;
}

/** Hands on the body of an answer as it comes; it must be wanted bytes long, or of any length when that is undefined. */
async function eachChunk(
  response: Response,
  name: string,
  at: number,
  wanted: number | undefined,
  signal: AbortSignal | undefined,
  take: (chunk: Uint8Array) => void,
): Promise<void> {
  let got = 0;
  const reader = response.body?.getReader();
  while (reader) {
    const { done, value } = await reader.read().catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw shortRead(name, at, wanted ?? got + 1, got, deepest(cause));
    });
    if (done) break;
    try {
      take(value);
    } catch (error) {
      await reader.cancel();
      throw error;
    }
    got += value.length;
  }
  if (wanted !== undefined && got !== wanted) throw shortRead(name, at, wanted, got);
}

/** fetch wraps what went wrong in a TypeError. */
function deepest(cause: unknown): unknown {
  return cause instanceof Error && cause.cause ? deepest(cause.cause) : cause;
}

/** The whole body in memory, in blocks: its length need not be known, and is not believed before it has come. */
async function openBody(response: Response, name: string, signal?: AbortSignal): Promise<Source> {
  const length = response.headers.get('content-length');
  const promised = length === null || response.headers.has('content-encoding') ? undefined : Number(length);
  const tooMany = (bytes: string) =>
    new GgufError(
      `${name}: no ranges, and ${bytes} bytes, expected at most ${host.keptBytes} to be kept in memory here`,
    );
  if (promised !== undefined && promised > host.keptBytes) {
    await response.body?.cancel();
    throw tooMany(`${promised}`);
  }
  const blocks: Uint8Array[] = [];
  let size = 0;
  await eachChunk(response, name, 0, promised, signal, (chunk) => {
    if (size + chunk.length > host.keptBytes) throw tooMany(`${size + chunk.length} or more`);
    for (let from = 0; from < chunk.length; ) {
      const inBlock = size % BLOCK_BYTES;
      if (inBlock === 0) blocks.push(new Uint8Array(BLOCK_BYTES));
      const part = chunk.subarray(from, from + BLOCK_BYTES - inBlock);
      blocks[blocks.length - 1].set(part, inBlock);
      from += part.length;
      size += part.length;
    }
  });
  function readSync(at: number, dst: Uint8Array): void {
    for (let got = 0; got < dst.length; ) {
      const inBlock = (at + got) % BLOCK_BYTES;
      const part = blocks[Math.floor((at + got) / BLOCK_BYTES)].subarray(inBlock, inBlock + dst.length - got);
      dst.set(part, got);
      got += part.length;
    }
  }
  return { name, size, read: async (at, dst) => readSync(at, dst), readSync, close: async () => {} };
}
