import { stores } from '#store';
import { checkTimeout, TIMEOUT_MS } from '../gguf/source.ts';
import { download, type Wanted } from './download.ts';
import { HubError } from './error.ts';
import { addressName, ask, strongTag, type Token, withRetries } from './http.ts';
import { chooseFile, fileAddress, type HubAccess, listFiles, preferred } from './listing.ts';
import { keepSecret, printable, printableAddress } from './printable.ts';
import type { DownloadProgress } from './progress.ts';
import { parseReference, type Reference, referenceName } from './reference.ts';
import type { Found, Store } from './store.ts';

/** Where models come from and are kept. */
export interface HubOptions {
  /** Address of the hub. Default: HF_ENDPOINT of the environment, else https://huggingface.co. */
  readonly endpoint?: string;
  /** For private and gated models; told to the hub alone. '' is none. Default: HF_TOKEN of the environment. */
  readonly token?: string;
  /**
   * Folder of what ternlm keeps (Node, Deno, Bun). Default: TERNLM_CACHE of the environment, else `ternlm` in the system's folder
   * of caches.
   */
  readonly cacheFolder?: string;
  /**
   * How often in a row a broken connection, or a server that is busy, is tried again; a row ends when 64 KiB more have come.
   * Default 5.
   */
  readonly retries?: number;
  /**
   * Milliseconds without a byte after which a connection counts as broken, up to 2147483647; Infinity: never. The hub's whole list
   * of files may take ten times as long. Default 60000.
   */
  readonly timeoutMs?: number;
}

export interface PullOptions extends HubOptions {
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Ends it with the signal's reason; what came is kept, and the next pull goes on from there. */
  readonly signal?: AbortSignal;
}

export interface PulledModel {
  /** Gives the model again, in loadModel too: org/repo:file, or the address. */
  readonly name: string;
  /** Where files have one. */
  readonly path?: string;
  readonly bytes: number;
  /** Hexadecimal, of the bytes that came. */
  readonly sha256: string;
  /** 'offline': nobody could be asked whether there is a newer one. */
  readonly status: 'downloaded' | 'up to date' | 'offline';
  /** Why it is offline. */
  readonly reason?: string;
}

export interface CachedModel {
  readonly name: string;
  /** Where it is from. */
  readonly url: string;
  readonly complete: boolean;
  /** There now. */
  readonly bytes: number;
  /** Of the whole file; undefined of a part where the server did not tell. */
  readonly totalBytes: number | undefined;
  /** Of a whole file. */
  readonly sha256?: string;
  /** ISO 8601, of a whole file. */
  readonly pulledAt?: string;
  /** Of a whole file, where files have one. */
  readonly path?: string;
}

/** What a text names that is to be had from a hub or an address. */
export type Remote = { readonly reference: Reference } | { readonly address: URL };

const HUB = 'https://huggingface.co';
/** With their pauses 7.75 s (not tuned). */
const RETRIES = 5;

/** What pulling came to. */
interface Pulled {
  readonly store: Store;
  readonly found: Found;
  readonly status: PulledModel['status'];
  readonly reason?: string;
}

/**
 * Puts a model into the cache, or brings it up to date: `org/repo[:file][@revision]` of the hub, or an http(s) address.
 * @throws HubError with what, where, expected and got
 */
export async function pullModel(ref: string | URL, options: PullOptions = {}): Promise<PulledModel> {
  const { store, found, status, reason } = await pull(remoteOf(ref), options);
  const { name, sha256 = '' } = found.stored;
  const path = store.pathOf(found.key);
  return { name, ...(path !== undefined && { path }), bytes: found.bytes, sha256, status, ...(reason && { reason }) };
}

export async function pull(remote: Remote, options: PullOptions): Promise<Pulled> {
  const { signal, onProgress } = options;
  signal?.throwIfAborted();
  const access = accessOf(options);
  const store = await openStore(options);
  const cached = await findCached(remote, options);
  let offer: Offer;
  try {
    offer = 'address' in remote ? await probe(remote.address, access, cached) : await listed(remote.reference, access);
  } catch (error) {
    if (cached === undefined || !(error instanceof HubError) || error.code !== 'network') throw error;
    return { store, found: cached, status: 'offline', reason: error.message };
  }
  const { wanted, isNew } = offer;
  const { key, size: totalBytes = 0 } = wanted;
  const onWait = async () => {
    const { bytes: loadedBytes = 0 } = (await store.find(key, false)) ?? {};
    onProgress?.({ phase: 'download', loadedBytes, totalBytes, bytesPerSecond: 0 });
  };
  return store.locked(key, { signal, onWait }, async (locked) => {
    const there = await store.find(key);
    if (there !== undefined && !isNew(there)) return { store, found: there, status: 'up to date' };
    const part = await store.part(key);
    try {
      const stored = await download(part, store, wanted, { ...access, signal: locked, onProgress });
      return { store, found: { key, stored, complete: true, bytes: stored.size ?? 0 }, status: 'downloaded' };
    } finally {
      await part.close();
    }
  });
}

/** Models in the cache, whole ones and those that were not finished. */
export async function listModels(options: Pick<HubOptions, 'cacheFolder'> = {}): Promise<CachedModel[]> {
  const store = await openStore(options);
  return (await store.list()).map((found) => cachedModel(store, found));
}

/**
 * Removes a model from the cache, whole or not finished: what `ref` names, and of `org/repo` all files.
 * @returns what was removed; nothing where there was nothing
 * @throws HubError while it is being downloaded
 */
export async function removeModel(
  ref: string | URL,
  options: Pick<HubOptions, 'cacheFolder'> = {},
): Promise<CachedModel[]> {
  const text = String(ref);
  const store = await openStore(options);
  const removed = (await store.list()).filter(({ stored }) => isNamed(text, stored.name));
  for (const { key, stored, complete } of removed) {
    const busy = async () => {
      throw new HubError(
        'cache',
        `${printable(stored.name)}: it is being downloaded; expected that to be stopped first`,
      );
    };
    await store.locked(key, { onWait: busy }, () => store.remove(key, complete));
  }
  return removed.map((found) => cachedModel(store, found));
}

/** @throws HubError on what is neither a reference nor an http(s) address */
export function remoteOf(ref: string | URL): Remote {
  const text = String(ref);
  if (/^[a-z][a-z0-9+.-]+:\/\//i.test(text)) {
    if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
      throw new HubError('choice', `${printableAddress(text)}: expected an http or https address`);
    }
    return { address: new URL(text) };
  }
  const reference = parseReference(text);
  if (reference !== undefined) return { reference };
  throw new HubError(
    'choice',
    `${JSON.stringify(printable(text))}: expected a model as org/repo[:file][@revision], or its address`,
  );
}

/** The whole file in the cache that is meant, if it is there; asks nobody. */
export async function findCached(remote: Remote, options: HubOptions): Promise<Found | undefined> {
  const store = await stores.open(options.cacheFolder);
  if (store === undefined) return undefined;
  if ('address' in remote) return store.find(await addressKey(remote.address));
  const { file } = remote.reference;
  const folder = folderKey(endpointOf(options), remote.reference);
  if (file !== undefined) return store.find(`${folder}/${file}`);
  const files = (await store.list()).flatMap((found) => {
    const inside = found.complete && found.key.startsWith(`${folder}/`);
    return inside ? [{ path: found.key.slice(folder.length + 1), found }] : [];
  });
  return preferred(files)?.found;
}

/** @throws HubError where there is none */
export async function openStore({ cacheFolder }: HubOptions): Promise<Store> {
  const store = await stores.open(cacheFolder);
  if (store === undefined)
    throw new HubError('cache', 'no cache here: nothing can be kept, expected a file system or OPFS');
  return store;
}

/** The hub, checked. @throws RangeError naming the option */
export function accessOf(options: PullOptions): HubAccess {
  const { retries = RETRIES, timeoutMs = TIMEOUT_MS, signal } = options;
  if (!Number.isInteger(retries) || retries < 0) throw new RangeError(`retries: got ${retries}, expected 0 or more`);
  checkTimeout(timeoutMs);
  const endpoint = endpointOf(options);
  const value = (options.token ?? stores.environment('HF_TOKEN') ?? '').trim();
  // The secret itself is shown to nobody.
  if (!/^[\x21-\x7e]*$/.test(value)) throw new RangeError('token: got one with blanks or letters that no token has');
  keepSecret(value);
  const token: Token | undefined = value === '' ? undefined : { value, origin: endpoint.origin };
  return { endpoint, token, retries, timeoutMs, signal };
}

/** The address of what a reference means, by the hub's list. */
export async function addressOf(reference: Reference, access: HubAccess): Promise<URL> {
  return (await listed(reference, access)).wanted.address;
}

/** Whether a list's name is what `text` asks for: the name itself, or a reference of the repository that leaves the file open. */
function isNamed(text: string, name: string): boolean {
  if (text === name || (URL.canParse(text) && addressName(new URL(text)) === name)) return true;
  const [asked, has] = [parseReference(text), parseReference(name)];
  if (asked === undefined || has === undefined || asked.repo !== has.repo || asked.revision !== has.revision)
    return false;
  return asked.file === undefined || asked.file === has.file;
}

interface Offer {
  readonly wanted: Wanted & { readonly key: string };
  /** Whether the hub's file is another one than this. */
  readonly isNew: (found: Found) => boolean;
}

async function listed(reference: Reference, access: HubAccess): Promise<Offer> {
  const where = `${reference.repo}@${reference.revision} on ${access.endpoint.host}`;
  const { path, size, sha256, oid } = chooseFile(reference, await listFiles(reference, access), where);
  const address = fileAddress(access.endpoint, reference, path);
  return {
    wanted: {
      ...{ name: referenceName(reference, path), key: `${folderKey(access.endpoint, reference)}/${path}` },
      ...{ address, url: addressName(address), size, sha256, oid },
    },
    isNew: ({ stored }) =>
      sha256 === undefined ? stored.oid !== oid || stored.size !== size : stored.sha256 !== sha256,
  };
}

/** What an address has; it is asked only where something is in the cache already. */
async function probe(address: URL, access: HubAccess, cached: Found | undefined): Promise<Offer> {
  const name = addressName(address);
  const wanted = { name, key: await addressKey(address), address, url: name };
  if (cached === undefined) return { wanted, isNew: () => false };
  return withRetries(access, async () => {
    const answer = await ask(address, { ...access, headers: { range: 'bytes=0-0', 'accept-encoding': 'identity' } });
    answer.cancel();
    const range = answer.headers.get('content-range');
    const size = answer.status === 200 ? answer.headers.get('content-length') : /\/(\d+)$/.exec(range ?? '')?.[1];
    const tag = strongTag(answer.headers);
    return { wanted, isNew: ({ stored }) => stored.etag !== tag || (size != null && Number(size) !== stored.size) };
  });
}

function cachedModel(store: Store, { key, stored, complete, bytes }: Found): CachedModel {
  const { name, url, size, sha256, pulledAt } = stored;
  const path = complete ? store.pathOf(key) : undefined;
  return {
    ...{ name, url, complete, bytes, totalBytes: size },
    ...(complete && { sha256, pulledAt }),
    ...(path !== undefined && { path }),
  };
}

function endpointOf({ endpoint }: HubOptions): URL {
  const text = endpoint ?? (stores.environment('HF_ENDPOINT') || HUB);
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) return new URL(text);
  throw new RangeError(`endpoint: got ${JSON.stringify(printableAddress(text))}, expected an http or https address`);
}

/** Folder of a repository at a revision; what no file name may hold is written as %XX. */
function folderKey(endpoint: URL, { repo, revision }: Reference): string {
  const hub = endpoint.host + endpoint.pathname.replace(/\/+$/, '');
  return `${encodeURIComponent(hub)}/${repo}/${encodeURIComponent(revision)}`;
}

/** As readable as any address allows, and different for each. */
async function addressKey(address: URL): Promise<string> {
  const text = new TextEncoder().encode(address.origin + address.pathname + address.search);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', text));
  const short = [...digest.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const [last = 'model'] = address.pathname
    .split('/')
    .filter((part) => part !== '')
    .slice(-1);
  const readable = last
    .replace(/\.gguf$/i, '')
    .replace(/[^\w-]+/g, '_')
    .slice(-100);
  return `address/${encodeURIComponent(address.host)}/${readable}-${short}.gguf`;
}
