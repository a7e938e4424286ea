import { HubError } from './error.ts';
import { ask, leadsTo, type RetryOptions, type Token, timerFor, withRetries } from './http.ts';
import { printable } from './printable.ts';
import { isSafePath, type Reference } from './reference.ts';

/** A file of a repository. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Hexadecimal; of large files. */
  readonly sha256: string | undefined;
  /** Changes with the file. */
  readonly oid: string | undefined;
}

export interface HubAccess extends RetryOptions {
  readonly endpoint: URL;
  readonly token: Token | undefined;
  readonly timeoutMs: number;
}

/**
 * Which file is meant where several are there: the first kind of these in a name. I2_S is what BitNet's own files have and what
 * all others are repacked to; TL2 is the smallest.
 */
const PREFERRED: readonly string[] = ['i2_s', 'tl2', 'tq2_0', 'tl1', 'tq1_0'];
/** Who is offline shall not wait long to be told. */
const MAX_RETRIES = 2;
/** Of all pages, unpacked. The hub's lists are 200 to 350 bytes a file: 100000 files, as many as it advises at most. */
const MAX_LIST_BYTES = 32 << 20;
/** The hub's pages have 1000 files. */
const MAX_PAGES = 100;
/** GGUF files of one repository, which has some dozens of kinds in a few parts each (not tuned). */
const MAX_FILES = 10_000;
/** Files named in a message: a few lines (not tuned). */
const MAX_NAMED = 12;
/**
 * How many times as long as it may stand still a whole list may take, or one that comes byte by byte would never end: ten
 * minutes by default, in which the longest comes at 56 kB/s (not tuned).
 */
const LIST_TIMEOUTS = 10;

/** Address of a file's bytes. */
export function fileAddress(endpoint: URL, { repo, revision }: Reference, file: string): URL {
  const path = file.split('/').map(encodeURIComponent).join('/');
  return under(endpoint, `${repo}/resolve/${encodeURIComponent(revision)}/${path}`);
}

/**
 * The files of a repository at a revision that can be meant: those with a safe name that ends in .gguf, and the one that the
 * reference names. Of others so many as a message names.
 * @throws HubError when the hub has none, or answers otherwise than its HTTP API says
 */
export async function listFiles(reference: Reference, access: HubAccess): Promise<HubFile[]> {
  const { repo, revision } = reference;
  const files: HubFile[] = [];
  const others: HubFile[] = [];
  let bytes = 0;
  let next: URL | undefined = under(
    access.endpoint,
    `api/models/${repo}/tree/${encodeURIComponent(revision)}?recursive=true`,
  );
  const where = `${repo}@${revision} on ${access.endpoint.host}`;
  const tooMuch = (limit: string, got: string) =>
    new HubError('format', `${where}: a list of files of more than ${limit}: got ${got}`);
  const late = new AbortController();
  const ms = LIST_TIMEOUTS * access.timeoutMs;
  const timer = timerFor(ms, () =>
    late.abort(
      new HubError('network', `${where}: the list of files took longer than ${ms / 1000} s: got ${bytes} bytes`),
    ),
  );
  const signal = access.signal ? AbortSignal.any([access.signal, late.signal]) : late.signal;
  const asking = { ...access, signal, retries: Math.min(access.retries, MAX_RETRIES) };
  try {
    for (let pages = 0; next !== undefined; pages++) {
      if (pages === MAX_PAGES) throw tooMuch(`${MAX_PAGES} pages`, 'one more');
      const url: URL = next;
      const before = bytes;
      const count = (more: number) => {
        bytes += more;
        if (bytes > MAX_LIST_BYTES) throw tooMuch(`${MAX_LIST_BYTES} bytes`, `${bytes} by page ${pages + 1}`);
      };
      const { entries, next: following } = await withRetries(asking, () => {
        bytes = before;
        return page(url, asking, count);
      });
      for (const entry of entries) {
        const file = fileOf(entry);
        if (file === undefined) continue;
        if (isModel(file) || file.path === reference.file) files.push(file);
        else if (others.length <= MAX_NAMED) others.push(file);
        if (files.length > MAX_FILES) throw tooMuch(`${MAX_FILES} GGUF files`, `${files.length} by page ${pages + 1}`);
      }
      next = following;
    }
  } finally {
    clearTimeout(timer);
  }
  return [...files, ...others];
}

/**
 * The one file of these that a reference means.
 * @param where for messages
 * @throws HubError when it is not there, not one file, or not to be told from others
 */
export function chooseFile<F extends { readonly path: string }>(
  reference: Reference,
  files: readonly F[],
  where: string,
): F {
  const named = (list: readonly F[]) => {
    const names = list.slice(0, MAX_NAMED).map(({ path }) => printable(path));
    return [...names, ...(list.length > MAX_NAMED ? ['more'] : [])].join(', ') || 'no files';
  };
  const models = files.filter(isModel);
  if (reference.file !== undefined) {
    const file = files.find(({ path }) => path === reference.file);
    if (file === undefined) {
      throw new HubError(
        'choice',
        `${where}: no file ${reference.file}; it has ${named(models.length > 0 ? models : files)}`,
      );
    }
    if (isSplit(file)) throw split(where, file.path);
    return file;
  }
  const whole = models.filter((file) => !isSplit(file));
  if (whole.length === 0 && models.length > 0) throw split(where, models[0].path);
  if (whole.length === 0) throw new HubError('choice', `${where}: no GGUF file; it has ${named(files)}`);
  const file = preferred(whole);
  if (file !== undefined) return file;
  const example = `${reference.repo}:${printable(whole[0].path)}`;
  throw new HubError(
    'choice',
    `${where}: several GGUF files: ${named(whole)}; expected one to be named, as ${example}`,
  );
}

/** The only one, or the only one of the first kind of PREFERRED that is there. */
export function preferred<F extends { readonly path: string }>(files: readonly F[]): F | undefined {
  if (files.length === 1) return files[0];
  const kinds = PREFERRED.map((kind) => files.filter(({ path }) => path.toLowerCase().includes(kind)));
  const first = kinds.find((kind) => kind.length > 0);
  return first?.length === 1 ? first[0] : undefined;
}

const isModel = ({ path }: { readonly path: string }) => /\.gguf$/i.test(path) && isSafePath(path);

const isSplit = ({ path }: { readonly path: string }) => /-\d{5}-of-\d{5}\.gguf$/i.test(path);

function split(where: string, path: string): HubError {
  return new HubError(
    'choice',
    `${where}: ${printable(path)} is a part of a model in several files, expected one whole GGUF file`,
  );
}

/** An address under the endpoint, which may have a path itself. */
function under(endpoint: URL, path: string): URL {
  return new URL(path, endpoint.href.replace(/\/*$/, '/'));
}

/** @param count is told how many bytes came, and may throw */
async function page(
  url: URL,
  access: HubAccess,
  count: (bytes: number) => void,
): Promise<{ entries: readonly unknown[]; next: URL | undefined }> {
  const { token, signal, timeoutMs } = access;
  const answer = await ask(url, { headers: { accept: 'application/json' }, token, signal, timeoutMs });
  const wrong = (what: string) => new HubError('format', `${answer.name}: ${what}, expected a list of files`);
  const decoder = new TextDecoder();
  let text = '';
  for await (const chunk of answer.chunks()) {
    count(chunk.length);
    text += decoder.decode(chunk, { stream: true });
  }
  let entries: unknown;
  try {
    entries = JSON.parse(text);
  } catch {
    throw wrong(`HTTP ${answer.status} and no JSON`);
  }
  if (!Array.isArray(entries)) throw wrong(`HTTP ${answer.status} and no list`);
  const [, address] = /<([^<>]+)>\s*;\s*rel="?next"?/.exec(answer.headers.get('link') ?? '') ?? [];
  const next =
    address === undefined ? undefined : leadsTo(url, address, answer.status, 'a next page', 'one in its Link');
  return { entries, next };
}

/** Of an entry of the list: `{ type, path, size, oid, lfs?: { oid, size } }`. Undefined of a folder, and of what is none. */
function fileOf(entry: unknown): HubFile | undefined {
  const { type, path, size, oid, lfs } = (entry ?? {}) as Record<string, unknown>;
  if (type !== 'file' || typeof path !== 'string') return undefined;
  const large = (lfs ?? {}) as Record<string, unknown>;
  const bytes = large.size ?? size;
  if (!Number.isSafeInteger(bytes) || Number(bytes) < 0) return undefined;
  const sha256 = typeof large.oid === 'string' ? /^(?:sha256:)?([0-9a-f]{64})$/i.exec(large.oid)?.[1] : undefined;
  return {
    path,
    size: Number(bytes),
    sha256: sha256?.toLowerCase(),
    oid: sha256?.toLowerCase() ?? (typeof oid === 'string' ? oid : undefined),
  };
}
