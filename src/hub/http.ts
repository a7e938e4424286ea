import { HubError } from './error.ts';

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
  /** Milliseconds without a byte after which a connection counts as broken. */
  readonly timeoutMs: number;
}

export interface RetryOptions {
  /** How often in a row something may fail that may pass: a broken connection, a server that is busy. */
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
/** The first pause after a failure; each further one is twice as long. */
const PAUSE_MS = 250;
const MAX_PAUSE_MS = 8000;
/** The longest that a server may ask to wait for. */
const MAX_RETRY_AFTER_MS = 60_000;
/** Of what a server says about its error. */
const MAX_SAID = 200;

/** For messages: an address without query, which may hold a signature, and password. */
export const addressName = (url: URL): string => url.origin + url.pathname;

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
    timer = setTimeout(() => {
      late = true;
      stop.abort();
    }, timeoutMs);
  };
  const end = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  };
  const failed = (name: string, cause: unknown) => {
    end();
    signal?.throwIfAborted();
    const why = late ? `nothing came for ${timeoutMs / 1000} s` : reasonOf(cause);
    return new HubError('network', `${name}: the connection failed: ${why}`, { cause });
  };

  alive();
  let reached: { readonly name: string; readonly response: Response };
  try {
    reached = await follow(from, { headers, signal: stop.signal }, token, alive);
  } catch (error) {
    end();
    throw error instanceof HubError ? error : failed(addressName(from), error);
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
    const name = addressName(url);
    if (url.username !== '' || url.password !== '') {
      throw new HubError('redirect', `${name}: an address with a user name or password, expected one without`);
    }
    const own = token?.origin === url.origin && { authorization: `Bearer ${token.value}` };
    const asking = { ...init, headers: { ...init.headers, ...own } };
    const response = await fetch(url, { ...asking, redirect: 'manual' });
    if (response.type === 'opaqueredirect') return { name, response: await fetch(url, asking) };
    if (!REDIRECTS.includes(response.status)) return { name, response };
    await response.body?.cancel().catch(() => {});
    url = redirected(url, response.headers.get('location'), response.status, hops);
    onHop?.();
  }
}

/** Does `attempt` again after failures that may pass; their count begins anew when `made`, bytes so far, is more than ever. */
export async function withRetries<R>(
  { retries, signal }: RetryOptions,
  attempt: () => Promise<R>,
  made: () => number = () => 0,
): Promise<R> {
  let failures = 0;
  let most = made();
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof HubError) || !mayPass(error)) throw error;
      failures = made() > most ? 1 : failures + 1;
      most = Math.max(most, made());
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

function redirected(from: URL, location: string | null, status: number, hops: number): URL {
  const name = addressName(from);
  const wrong = (what: string) => new HubError('redirect', `${name}: HTTP ${status}: ${what}`, { status });
  if (hops === MAX_REDIRECTS) throw wrong(`more than ${MAX_REDIRECTS} redirects`);
  if (location === null || !URL.canParse(location, from.href)) {
    throw wrong('a redirect without an address, expected a Location');
  }
  const to = new URL(location, from);
  if (to.protocol === from.protocol || (to.protocol === 'https:' && from.protocol === 'http:')) return to;
  throw wrong(`a redirect from ${from.protocol} to ${to.protocol}, expected https:`);
}

/** What a status says that is no answer. */
export function refused(name: string, { status, headers }: Response, hadToken: boolean): HubError {
  const retryAfterMs = retryAfter(headers.get('retry-after'));
  const said = headers
    .get('x-error-message')
    ?.replace(/[^\x20-\x7e]/g, ' ')
    .slice(0, MAX_SAID);
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

/** fetch wraps what went wrong in a TypeError; some runtimes name the whole address in it. */
function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  if (cause.cause instanceof Error) return reasonOf(cause.cause);
  const { code } = cause as { readonly code?: unknown };
  return (cause.message || (typeof code === 'string' ? code : cause.name)).replace(/\?[^\s)"']*/g, '');
}
