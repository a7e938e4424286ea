import { host } from '#host';
import { stores } from '#store';
import { GgufError } from '../gguf/error.ts';
import { type Fetch, openSource, type Source } from '../gguf/source.ts';
import { HubError } from './error.ts';
import { follow, refused, type Token } from './http.ts';
import { checkedInput } from './input.ts';
import { accessOf, addressOf, findCached, openStore, type PullOptions, pull, type Remote } from './pull.ts';
import { parseReference } from './reference.ts';

export interface OpenOptions extends PullOptions {
  /**
   * Whether a model of the hub or behind an address is put into the cache, and loaded from there without asking anybody when it
   * is there whole. Otherwise it is read by ranges into memory alone; only what the cache has of the hub already is taken from
   * it. Default: true for the hub where there is a cache, false for addresses.
   */
  readonly cache?: boolean;
}

/**
 * Opens what loadModel takes: an address, bytes, an existing path, or a reference to a model of the hub.
 * @throws HubError, GgufError, TypeError on what is none of these, and the system's own error for a path
 */
export async function openModel(
  given: string | URL | Blob | Uint8Array | ArrayBuffer,
  options: OpenOptions = {},
): Promise<Source> {
  const input = checkedInput(given);
  const { signal, timeoutMs } = options;
  signal?.throwIfAborted();
  const remote = await remoteIn(input, options.cache);
  if (remote === undefined) return openSource(input, { signal, timeoutMs });
  try {
    const cached = await findCached(remote, options);
    const keeps = cached !== undefined || (options.cache ?? (await stores.open(options.cacheFolder)) !== undefined);
    if ('reference' in remote && !keeps) {
      const access = accessOf(options);
      const address = await addressOf(remote.reference, access);
      const fetch: Fetch = (url, init) => range(url, init, access.token);
      return await openSource(address, { signal, timeoutMs, fetch }).catch((error: unknown) => {
        throw error instanceof GgufError && error.cause instanceof HubError ? error.cause : error;
      });
    }
    const { key } = cached ?? (await pull(remote, options)).found;
    return await openSource(await (await openStore(options)).open(key), { signal });
  } catch (error) {
    if (!('reference' in remote) || !isNotThere(error)) throw error;
    const { code, message, status } = error;
    const other = host.hasFiles ? 'no such file here; and as a model of the hub' : 'as a model of the hub';
    const before = remote.reference.explicit ? '' : `${String(input)}: ${other}: `;
    const hasCache = code === 'network' && (await stores.open(options.cacheFolder)) !== undefined;
    const after = hasCache ? '; only models in the cache can be opened offline' : '';
    throw before + after === '' ? error : new HubError(code, before + message + after, { status, cause: error });
  }
}

/** A part of a file of the hub. */
async function range(url: URL, init: Parameters<typeof follow>[1], token: Token | undefined): Promise<Response> {
  const { name, response } = await follow(url, init, token);
  if (response.ok || response.status === 416) return response;
  await response.body?.cancel();
  throw refused(name, response, token !== undefined);
}

/** What is not opened as it is: a reference, and an address that is to be kept. */
async function remoteIn(
  input: string | URL | Blob | Uint8Array | ArrayBuffer,
  cache: boolean | undefined,
): Promise<Remote | undefined> {
  if (typeof input !== 'string' && !(input instanceof URL)) return undefined;
  const text = String(input);
  if (/^[a-z][a-z0-9+.-]+:\/\//i.test(text)) {
    return cache && /^https?:/i.test(text) && URL.canParse(text) ? { address: new URL(text) } : undefined;
  }
  const reference = parseReference(text);
  return reference === undefined || (await stores.exists(text)) ? undefined : { reference };
}

/** Whether the hub has no such model, or cannot be asked. */
function isNotThere(error: unknown): error is HubError {
  return error instanceof HubError && (error.code === 'network' || error.status === 404 || error.status === 401);
}
