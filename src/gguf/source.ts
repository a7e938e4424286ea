import { host } from '#host';
import { GgufError } from './error.ts';
import { magicFault } from './magic.ts';

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
  readonly timeoutMs?: number;
}

/** Milliseconds without a byte after which a connection counts as broken, where nobody says: longer than any server thinks (not tuned). */
export const TIMEOUT_MS: number = 60_000;
/** The longest that a timer waits, 25 days; a longer one is over at once. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;
/** Of an address that a message shows. */
const MAX_SHOWN = 200;

/** Bytes of one block of a body that is kept in memory: few blocks, and none too large for a fragmented heap (not tuned). */
const BLOCK_BYTES = 8 << 20;

/**
 * Opens a path (Node, Deno, Bun), an http(s) or file address, a Blob or File, or bytes.
 * An http server that knows no ranges has its whole answer read into memory, as far as the host lets it (Host.keptBytes).
 * @param options.signal ends the opening and every `read` with its reason; `readSync` takes no notice
 * @param options.fetch asks in the place of the runtime's
 * @param options.timeoutMs milliseconds without a byte after which a connection counts as broken, default 60000
 * @throws GgufError on an address that is none, and on an http answer that is not what was asked for or does not come; the
 *   system's own error for a path
 */
export async function openSource(
  input: string | URL | Blob | Uint8Array | ArrayBuffer,
  options: OpenOptions = {},
): Promise<Source> {
  const { signal, timeoutMs = TIMEOUT_MS } = options;
  checkTimeout(timeoutMs);
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

const PLACES = `${host.hasFiles ? 'a path, a file://,' : 'an'} http:// or https:// address, or the file itself as a Blob or bytes`;

/** For messages: an address without user, password, query and data. */
function shown(address: string): string {
  const bare = address
    .replace(/[?#].*/s, '')
    .replace(/\/\/[^/]*@/, '//')
    .replace(/^(data:[^,]*,).*/is, '$1…');
  return bare.length > MAX_SHOWN ? `${bare.slice(0, MAX_SHOWN)}…` : bare;
}

/** @throws RangeError where no timer can wait so long */
export function checkTimeout(ms: number): void {
  if (ms > 0 && (ms <= MAX_TIMER_MS || ms === Number.POSITIVE_INFINITY)) return;
  throw new RangeError(`timeoutMs: got ${ms}, expected more than 0 and at most ${MAX_TIMER_MS}, or Infinity`);
}

async function open(input: string | URL | Blob | Uint8Array | ArrayBuffer, options: OpenOptions): Promise<Source> {
  if (typeof input === 'string') {
    // A letter alone before the colon is a drive.
    if (/^[a-z][a-z0-9+.-]+:\/\//i.test(input)) {
      if (URL.canParse(input)) return open(new URL(input), options);
      throw new GgufError(`${shown(input)}: no address that can be read, expected one like https://host/path`);
    }
    const [scheme] = /^(https?|file|data|blob):/i.exec(input) ?? [];
    if (scheme === undefined) return openFile(input, input);
    throw new GgufError(`${shown(input)}: ${scheme} without //, expected ${PLACES}`);
  }
  if (input instanceof URL) {
    if (input.protocol === 'file:') return openFile(input, input.pathname);
    if (/^https?:$/.test(input.protocol)) return openUrl(input, options);
    throw new GgufError(`${shown(input.href)}: ${input.protocol} address, expected ${PLACES}`);
  }
  if (input instanceof Blob) return openBlob(input);
  return openBytes(ArrayBuffer.isView(input) ? input : new Uint8Array(input));
}

function shortRead(name: string, at: number, wanted: number, got: number, cause?: unknown): GgufError {
  const reason = cause === undefined ? '' : ` (${reasonOf(cause)})`;
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
  const name = url.origin + url.pathname; // a query may hold a signature
  if (url.username !== '' || url.password !== '') {
    throw new GgufError(`${name}: an address with a user name or password, expected one without`);
  }
  const unreachable = (cause: unknown) =>
    new GgufError(`${name}: cannot be reached: ${reasonOf(cause)}`, undefined, { cause });
  const first = await request(url, name, 0, 1, options, unreachable, async (response, chunks) => {
    if (response.status === 200) return openBody(response, name, chunks);
    return response.status === 416 ? 0 : contentRange(response, name, 0, 1, false).size;
  });
  if (typeof first.value !== 'number') return first.value;
  const { value: size, version } = first;
  return {
    name,
    size,
    async read(at, dst) {
      const failed = (cause: unknown) => shortRead(name, at, dst.length, 0, cause);
      await request(url, name, at, dst.length, options, failed, async (response, chunks) => {
        if (response.status !== 206) throw refused(response, name, '206 for a range');
        const range = contentRange(response, name, at, dst.length);
        if (range.size !== size || strongTag(response) !== version) {
          throw new GgufError(`${name}: the file changed while it was read`, at);
        }
        let got = 0;
        for await (const chunk of chunks(dst.length)) {
          if (got + chunk.length > dst.length) throw shortRead(name, at, dst.length, got + chunk.length);
          dst.set(chunk, got);
          got += chunk.length;
        }
      });
    },
    close: async () => {},
  };
}

/** The body of an answer as it comes; it must be wanted bytes long, or of any length when that is undefined. */
type Chunks = (wanted: number | undefined) => AsyncGenerator<Uint8Array, void, undefined>;

/**
 * Asks for a range, and ends what is left of the answer after `use`. Answers 206 and 200 pass, and 416 where it says that the file
 * is empty.
 * @param failed the error where no answer comes
 */
async function request<R>(
  url: URL,
  name: string,
  at: number,
  wanted: number,
  { signal, fetch: ask = fetch, timeoutMs = TIMEOUT_MS }: OpenOptions,
  failed: (cause: unknown) => GgufError,
  use: (response: Response, chunks: Chunks) => Promise<R>,
): Promise<{ readonly value: R; readonly version: string | null }> {
  const stop = new AbortController();
  const onAbort = () => stop.abort(signal?.reason);
  signal?.addEventListener('abort', onAbort);

  /** Not left to `stop` alone: a runtime may end the body of an aborted request as if it were whole. */
  async function inTime<T>(coming: Promise<T>, fail: (cause: unknown) => GgufError): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      const over = () => reject(new Error(`nothing came for ${timeoutMs / 1000} s`));
      timer = setTimeout(over, Math.min(timeoutMs, MAX_TIMER_MS));
    });
    try {
      return await Promise.race([coming, late]);
    } catch (cause) {
      signal?.throwIfAborted();
      throw fail(cause);
    } finally {
      clearTimeout(timer);
    }
  }

  try {
    const headers = { range: `bytes=${at}-${at + wanted - 1}` };
    const response = await inTime(ask(url, { headers, signal: stop.signal }), failed);
    const empty = response.status === 416 && response.headers.get('content-range') === 'bytes */0';
    if (response.status !== 200 && response.status !== 206 && !empty) throw refused(response, name, '206 or 200');
    async function* chunks(wanted: number | undefined): AsyncGenerator<Uint8Array, void, undefined> {
      let got = 0;
      const reader = response.body?.getReader();
      while (reader) {
        const next = await inTime(reader.read(), (cause) => shortRead(name, at, wanted ?? got + 1, got, cause));
        if (next.done) break;
        got += next.value.length;
        yield next.value;
      }
      if (wanted !== undefined && got !== wanted) throw shortRead(name, at, wanted, got);
    }
    return { value: await use(response, chunks), version: strongTag(response) };
  } finally {
    signal?.removeEventListener('abort', onAbort);
    stop.abort();
  }
}

function refused(response: Response, name: string, expected: string): GgufError {
  return new GgufError(`${name}: HTTP ${response.status}, expected ${expected}`);
}

/** fetch wraps what went wrong in a TypeError; some runtimes name the whole address in it. */
export function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  if (cause.cause instanceof Error) return reasonOf(cause.cause);
  const { code } = cause as { readonly code?: unknown };
  return (cause.message || (typeof code === 'string' ? code : cause.name)).replace(/\?[^\s)"']*/g, '');
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

/** The whole body in memory, in blocks: its length need not be known, and is not believed before it has come. */
async function openBody(response: Response, name: string, chunks: Chunks): Promise<Source> {
  const length = response.headers.get('content-length');
  const promised = length === null || response.headers.has('content-encoding') ? undefined : Number(length);
  const tooMany = (bytes: string) =>
    new GgufError(
      `${name}: no ranges, and ${bytes} bytes, expected at most ${host.keptBytes} to be kept in memory here`,
    );
  if (promised !== undefined && promised > host.keptBytes) throw tooMany(`${promised}`);
  const blocks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunks(promised)) {
    if (size + chunk.length > host.keptBytes) throw tooMany(`${size + chunk.length} or more`);
    for (let from = 0; from < chunk.length; ) {
      const inBlock = size % BLOCK_BYTES;
      if (inBlock === 0) blocks.push(new Uint8Array(BLOCK_BYTES));
      const part = chunk.subarray(from, from + BLOCK_BYTES - inBlock);
      blocks[blocks.length - 1].set(part, inBlock);
      from += part.length;
      size += part.length;
    }
    // What is something else, a page maybe, is not waited for.
    const fault = size < 4 ? undefined : magicFault(blocks[0]);
    if (fault !== undefined) throw new GgufError(`${name}: magic at byte 0: ${fault}`, 0);
  }
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
