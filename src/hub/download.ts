import { GgufError } from '../gguf/error.ts';
import { readHeader } from '../gguf/header.ts';
import { magicFault } from '../gguf/magic.ts';
import { openSource } from '../gguf/source.ts';
import { HubError } from './error.ts';
import { type Answer, ask, type RetryOptions, strongTag, type Token, withRetries } from './http.ts';
import { MAX_ADDRESS_CHARS, printable } from './printable.ts';
import { type DownloadProgress, progressMeter } from './progress.ts';
import type { Hash, Part, Store, Stored } from './store.ts';

export interface Wanted {
  /** As for Stored. */
  readonly name: string;
  readonly address: URL;
  readonly url: string;
  /** What the hub tells of the file, where there is one. */
  readonly size?: number;
  readonly sha256?: string;
  readonly oid?: string;
}

export interface DownloadOptions extends RetryOptions {
  readonly token?: Token;
  readonly timeoutMs: number;
  readonly onProgress?: (progress: DownloadProgress) => void;
}

/** More than the pieces in which a server that limits its answers would send a file (not tuned). */
const MAX_ANSWERS = 10_000;
const MAGIC_BYTES = 4;

/**
 * Fetches a file into a part, from where an earlier attempt ended, and makes it the whole file when length and checksum are
 * right. What came stays in the part when the connection or the caller breaks off.
 * @returns what is now known of the file
 * @throws HubError when the bytes are not those wanted, which are then thrown away
 */
export async function download(part: Part, store: Store, wanted: Wanted, options: DownloadOptions): Promise<Stored> {
  const { signal, onProgress } = options;
  const { name } = wanted;
  if (!goesOn(part, wanted)) await part.remove();
  let stored: Stored = part.stored ?? {
    name,
    url: wanted.url,
    size: wanted.size,
    sha256: wanted.sha256,
    oid: wanted.oid,
  };
  let kept = part.stored === undefined ? 0 : part.bytes;
  let hash: Hash = await part.hash();
  await checkRoom(store, wanted.url, stored.size, kept);
  const report = onProgress && progressMeter(onProgress, kept);
  report?.(kept, stored.size);

  const isWhole = () => stored.size !== undefined && kept === stored.size;
  /** One answer of the server. @returns whether that was all */
  async function transfer(): Promise<boolean> {
    if (isWhole()) return true;
    // Nothing would show that the rest is of the same file.
    if (kept > 0 && stored.etag === undefined && wanted.sha256 === undefined) await restart();
    const answer = await ask(wanted.address, { ...options, headers: rangeHeaders(wanted.address, kept, stored.etag) });
    try {
      const { status } = answer;
      if (status === 416 && kept > 0) {
        if (answer.headers.get('content-range') === `bytes */${kept}` && stored.size === undefined) return true;
        // Shorter than what is here: another file.
        await restart();
        return false;
      }
      if (status !== 200 && status !== 206) {
        throw new HubError('status', `${answer.name}: HTTP ${status}, expected 200 or 206`, { status });
      }
      const range = status === 206 ? rangeOf(answer, kept) : wholeOf(answer);
      const tag = strongTag(answer.headers);
      if (kept > 0 && (status === 200 || isOther(range.size, tag))) {
        // No ranges here, or another file by now.
        await restart();
        if (status === 206) return false;
      }
      stored = { ...stored, size: stored.size ?? range.size, ...(kept === 0 && { etag: tag }) };
      await take(answer, range);
      return stored.size === undefined || isWhole();
    } finally {
      answer.cancel();
    }
  }

  const isOther = (size: number | undefined, tag: string | undefined) =>
    (stored.size !== undefined && size !== stored.size) || (stored.etag !== undefined && tag !== stored.etag);

  async function restart(): Promise<void> {
    await part.remove();
    kept = 0;
    stored = { name, url: wanted.url, size: wanted.size, sha256: wanted.sha256, oid: wanted.oid };
  }

  /** Reads a body, which may not tell how long it is. */
  async function take(answer: Answer, range: BodyRange): Promise<void> {
    const bytes = range.wanted ?? stored.size;
    let got = 0;
    /** Of the beginning, until there is enough to see what it is. */
    let first: Uint8Array = new Uint8Array(0);
    for await (const chunk of answer.chunks()) {
      signal?.throwIfAborted();
      got += chunk.length;
      if (bytes !== undefined && got > bytes) {
        await part.remove();
        throw new HubError('length', `${answer.name}: more than the ${bytes} bytes that were promised`);
      }
      let added = chunk;
      if (kept === 0) {
        added = joined(first, chunk);
        first = added;
        if (added.length < MAGIC_BYTES) continue;
        checkMagic(answer, added); // first, as a page to log in has another length too
        checkSize(answer, range.size, wanted.size);
        if (wanted.size === undefined) await checkRoom(store, wanted.url, stored.size, 0);
        await part.begin(stored);
        hash = await part.hash();
      }
      await part.append(added);
      hash.update(added);
      kept += added.length;
      report?.(kept, stored.size);
    }
    if (kept === 0) checkMagic(answer, first);
    if (bytes !== undefined && got < bytes) {
      throw new HubError('network', `${answer.name}: the connection ended after ${got} of ${bytes} bytes`);
    }
  }

  // Restarts are no failures, but a server that asks for one again and again never ends.
  try {
    const transferAll = async () => {
      for (let answers = 0; !(await transfer()); answers++) {
        if (answers < MAX_ANSWERS) continue;
        throw new HubError('length', `${wanted.url}: ${answers} answers without the end of the file`);
      }
    };
    await withRetries(options, transferAll, () => kept);
  } finally {
    report?.(kept, stored.size, true);
  }
  const sha256 = hash.hex();
  if (wanted.sha256 !== undefined && sha256 !== wanted.sha256) {
    await part.remove();
    throw new HubError(
      'checksum',
      `${wanted.url}: sha256 ${sha256} of ${kept} bytes, expected ${wanted.sha256}; they were thrown away`,
    );
  }
  if (stored.size === undefined) await checkEnd(part, wanted);
  const whole = { ...stored, size: kept, sha256, pulledAt: new Date().toISOString() };
  signal?.throwIfAborted();
  await part.finish(whole);
  return whole;
}

/** Whether a part is of the file that is wanted now: the same by checksum, or a tag will show it. */
function goesOn({ stored, bytes }: Part, { url, size, sha256 }: Wanted): boolean {
  if (stored === undefined || stored.url !== url) return false;
  if (size !== undefined && (stored.size !== size || bytes > size)) return false;
  return sha256 === undefined ? stored.etag !== undefined : stored.sha256 === sha256;
}

function rangeHeaders(address: URL, from: number, etag: string | undefined): Record<string, string> {
  // Of whatever encoding, it is the bytes of the file that are counted.
  const plain = { 'accept-encoding': 'identity' };
  if (from === 0) return plain;
  const range = { ...plain, range: `bytes=${from}-` };
  // A page would ask another origin for leave to send it; the tag of the answer is looked at in any case.
  const { location } = globalThis as { readonly location?: Location };
  const isOwn = location === undefined || location.origin === address.origin;
  return etag !== undefined && isOwn ? { ...range, 'if-range': etag } : range;
}

interface BodyRange {
  /** Of the whole file. */
  readonly size: number | undefined;
  /** In this body. */
  readonly wanted: number | undefined;
}

function wholeOf({ headers }: Answer): BodyRange {
  const encoding = headers.get('content-encoding') ?? 'identity';
  const length = headers.get('content-length');
  const size = length === null || encoding !== 'identity' ? undefined : Number(length);
  return { size, wanted: size };
}

function rangeOf({ name, headers }: Answer, from: number): BodyRange {
  const text = headers.get('content-range');
  const [first, last, size] = (/^bytes (\d+)-(\d+)\/(\d+)$/.exec(text ?? '') ?? []).slice(1).map(Number);
  if (first === from && last >= first && last < size && Number.isSafeInteger(size)) {
    return { size, wanted: last - first + 1 };
  }
  // A page sees this header of another origin only where the server exposes it.
  throw new HubError(
    'length',
    `${name}: Content-Range ${printable(text ?? 'missing')}, expected bytes ${from}- to the end and the size`,
  );
}

function checkMagic({ name, headers }: Answer, bytes: Uint8Array): void {
  if (magicFault(bytes) === undefined) return;
  const seen = [...bytes.subarray(0, 16)].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.'));
  const type = printable(headers.get('content-type') ?? 'no type');
  throw new HubError('format', `${name}: no GGUF file: it begins with "${seen.join('')}" (${type}), expected "GGUF"`);
}

function checkSize({ name }: Answer, size: number | undefined, wanted: number | undefined): void {
  if (size === undefined || wanted === undefined || size === wanted) return;
  throw new HubError('length', `${name}: ${size} bytes, expected ${wanted} as the hub lists it`);
}

/**
 * Nobody told how long the file is: a connection that was cut looks like its end. The file's own header knows how far its tensors
 * go. What came is thrown away, as nothing shows that what is there the next time is the same file.
 */
async function checkEnd(part: Part, { url }: Wanted): Promise<void> {
  await part.close();
  const { bytes } = part;
  try {
    const source = await openSource(await part.open());
    try {
      await readHeader(source);
    } finally {
      await source.close();
    }
  } catch (error) {
    if (!(error instanceof GgufError)) throw error;
    await part.remove();
    const message = `${url}: the server did not tell the length, and the ${bytes} bytes that came are no whole GGUF file`;
    throw new HubError('length', `${message}: ${printable(error.message, MAX_ADDRESS_CHARS)}; they were thrown away`, {
      cause: error,
    });
  }
}

async function checkRoom(store: Store, url: string, size: number | undefined, kept: number): Promise<void> {
  const free = size === undefined ? undefined : await store.freeBytes();
  if (size === undefined || free === undefined || free >= size - kept) return;
  throw new HubError('cache', `${store.place}: no room for ${url}: ${free} bytes free, expected ${size - kept}`);
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
