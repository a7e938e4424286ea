import { MAX_TIMER_MS, reasonOf } from '../gguf/source.ts';
import { HubError } from './error.ts';
import { MAX_ADDRESS_CHARS, printable } from './printable.ts';

/** A secret for one server. */
export interface Token {
  readonly value: string;
  /** The only origin that is told. */
  readonly origin: string;
}

export interface AskOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly token?: Token;
  readonly signal?: AbortSignal;
  /** Milliseconds without a byte after which a connection counts as broken; Infinity: never. */
  readonly timeoutMs: number;
}

export interface RetryOptions {
  /**
   * How often in a row something may fail that may pass: a broken connection, a server that is busy. The row ends when 64 KiB
   * more have come.
   */
  readonly retries: number;
  readonly signal?: AbortSignal;
}

/** An answer with a status of 200 to 299, or 416. */
export interface Answer {
  /** For messages: address of the last redirect, without a query. */
  readonly name: string;
  readonly status: number;
  readonly headers: Headers;
  /** The body as it comes; fails with a HubError when the connection breaks or stands still. */
  chunks(): AsyncGenerator<Uint8Array, void, undefined>;
  /** Ends an answer that is not read. */
  cancel(): void;
}

/** As browsers have it. */
const MAX_REDIRECTS = 20;
const REDIRECTS = [301, 302, 303, 307, 308];
/** Statuses that may be others a moment later. */
const PASSING = [408, 429, 500, 502, 503, 504];
/**
 * The first pause after a failure, which a person does not notice; each further one is twice as long, up to the most: with the
 * five retries that are usual 7.75 s in all, in which a connection comes back or will not soon (not tuned).
 */
const PAUSE_MS = 250;
const MAX_PAUSE_MS = 8000;
/** The longest that a server may ask to wait for: as long as a silent one is waited for by default. */
const MAX_RETRY_AFTER_MS = 60_000;
/** Fewer bytes are no progress: one at each connection would go on for ever. One read of a socket brings as many. */
const PROGRESS_BYTES = 64 << 10;

/** An address without query, which may hold a signature, and password. */
export const addressName = (url: URL): string => url.origin + url.pathname;
/** For messages. */
const shownName = (url: URL): string => printable(addressName(url), MAX_ADDRESS_CHARS);

/** setTimeout, which is not for what never comes. */
export function timerFor(ms: number, call: () => void): ReturnType<typeof setTimeout> | undefined {
  return ms > MAX_TIMER_MS ? undefined : setTimeout(call, ms);
}

/**
 * Asks for an address.
 * @throws HubError on another status, a redirect that leads too far, and when nothing comes
 * @throws the reason of the signal
 */
export async function ask(from: URL, { headers, token, signal, timeoutMs }: AskOptions): Promise<Answer> {
  const stop = new AbortController();
  const onAbort = () => stop.abort(signal?.reason);
  signal?.throwIfAborted();
  signal?.addEventListener('abort', onAbort);
  let timer: ReturnType<typeof setTimeout> | undefined;
  let late = false;
  const alive = () => {
    clearTimeout(timer);
    timer = timerFor(timeoutMs, () => {
      late = true;
      stop.abort();
    });
  };
  const end = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  };
  const failed = (name: string, cause: unknown) => {
    end();
    signal?.throwIfAborted();
    const why = late ? `nothing came for ${timeoutMs / 1000} s` : printable(reasonOf(cause), MAX_ADDRESS_CHARS);
    return new HubError('network', `${name}: the connection failed: ${why}`, { cause });
  };

  alive();
  let reached: { readonly name: string; readonly response: Response };
  try {
    reached = await follow(from, { headers, signal: stop.signal }, token, alive);
  } catch (error) {
    end();
    throw error instanceof HubError ? error : failed(shownName(from), error);
  }
  const { name, response } = reached;
  const { status } = response;
  const cancel = () => {
    end();
    stop.abort(); // which a server that sends on and on is told as well
  };
  if (!response.ok && status !== 416) {
    cancel();
    throw refused(name, response, token !== undefined);
  }
  return {
    name,
    status,
    headers: response.headers,
    async *chunks() {
      const reader = response.body?.getReader();
      try {
        while (reader) {
          alive();
          const { done, value } = await reader.read().catch((cause: unknown) => {
            throw failed(name, cause);
          });
          if (done) break;
          clearTimeout(timer); // what is done with the bytes takes its own time
          yield value;
        }
        // A runtime may end the body of an aborted request as if it were whole.
        if (stop.signal.aborted) throw failed(name, stop.signal.reason);
      } finally {
        cancel();
      }
    },
    cancel,
  };
}

/**
 * fetch, which follows redirects by itself only in a browser, where it cannot be seen where they lead; there too the token is
 * not told to another origin.
 * @throws HubError on a redirect that leads too far; what fetch throws
 */
export async function follow(
  from: URL,
  init: { readonly headers?: Readonly<Record<string, string>>; readonly signal?: AbortSignal },
  token: Token | undefined,
  onHop?: () => void,
): Promise<{ readonly name: string; readonly response: Response }> {
  let url = from;
  for (let hops = 0; ; hops++) {
    const name = shownName(url);
    if (url.username !== '' || url.password !== '') {
      throw new HubError('redirect', `${name}: an address with a user name or password, expected one without`);
    }
    const own = token?.origin === url.origin && { authorization: `Bearer ${token.value}` };
    const asking = { ...init, headers: { ...init.headers, ...own } };
    const response = await fetch(url, { ...asking, redirect: 'manual' });
    if (response.type === 'opaqueredirect') return { name, response: await fetch(url, asking) };
    if (!REDIRECTS.includes(response.status)) return { name, response };
    await response.body?.cancel().catch(() => {});
    const { status } = response;
    if (hops === MAX_REDIRECTS) {
      throw new HubError('redirect', `${name}: HTTP ${status}: more than ${MAX_REDIRECTS} redirects`, { status });
    }
    url = leadsTo(url, response.headers.get('location'), status, 'a redirect', 'a Location');
    onHop?.();
  }
}

/** Does `attempt` again after failures that may pass; their count begins anew when `made`, bytes so far, has grown by 64 KiB. */
export async function withRetries<R>(
  { retries, signal }: RetryOptions,
  attempt: () => Promise<R>,
  made: () => number = () => 0,
): Promise<R> {
  let failures = 0;
  let counted = made();
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof HubError) || !mayPass(error)) throw error;
      failures++;
      if (made() - counted >= PROGRESS_BYTES) {
        failures = 1;
        counted = made();
      }
      const { retryAfterMs = 0 } = error;
      if (failures > retries || retryAfterMs > MAX_RETRY_AFTER_MS) throw error;
      await pause(Math.max(retryAfterMs, Math.min(MAX_PAUSE_MS, PAUSE_MS * 2 ** (failures - 1))), signal);
    }
  }
}

/** Settles after a while. @throws the reason of the signal */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    }
  });
  signal?.throwIfAborted();
}

/** The entity tag that changes with every byte of the file. */
export function strongTag(headers: Headers): string | undefined {
  const tag = headers.get('etag');
  return tag?.startsWith('"') ? tag : undefined;
}

const mayPass = ({ code, status }: HubError) => code === 'network' || PASSING.includes(status ?? 0);

/**
 * Where an answer leads on to, by a header.
 * @throws HubError where that is no address, or one that nothing may be fetched from
 */
export function leadsTo(from: URL, text: string | null, status: number, what: string, header: string): URL {
  const wrong = (problem: string) =>
    new HubError('redirect', `${shownName(from)}: HTTP ${status}: ${what} ${problem}`, { status });
  if (text === null || !URL.canParse(text, from.href)) throw wrong(`without an address, expected ${header}`);
  const to = new URL(text, from);
  if (to.protocol === from.protocol || (to.protocol === 'https:' && from.protocol === 'http:')) return to;
  throw wrong(`from ${from.protocol} to ${printable(to.protocol)}, expected https:`);
}

/** What a status says that is no answer. */
export function refused(name: string, { status, headers }: Response, hadToken: boolean): HubError {
  const retryAfterMs = retryAfter(headers.get('retry-after'));
  const said = printable(headers.get('x-error-message') ?? '');
  const tokenHelp = hadToken ? 'the token that was given does not do' : 'if it is, give a token in HF_TOKEN';
  const meaning: Readonly<Record<number, string>> = {
    401: `no such model here, or one for which a token is needed; ${tokenHelp}`,
    403: `not allowed; the model may ask for its terms to be accepted, or for a token: ${tokenHelp}`,
    404:
      { RevisionNotFound: 'no such revision', EntryNotFound: 'no such file' }[headers.get('x-error-code') ?? ''] ??
      'nothing there',
    429: 'too many requests',
  };
  const wait = retryAfterMs === undefined ? undefined : `it asks to wait ${Math.ceil(retryAfterMs / 1000)} s`;
  const parts = [meaning[status] ?? (status >= 500 ? 'the server fails' : 'expected 200'), said && `"${said}"`, wait];
  const message = `${name}: HTTP ${status}: ${parts.filter((part) => part).join('; ')}`;
  return new HubError('status', message, { status, retryAfterMs });
}

/** Milliseconds of a Retry-After: seconds, or a date. */
function retryAfter(text: string | null): number | undefined {
  if (text === null) return undefined;
  const ms = /^\d+$/.test(text) ? 1000 * Number(text) : Date.parse(text) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}
