import { createHash, randomUUID } from 'node:crypto';
import {
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  statfs,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { homedir, hostname } from 'node:os';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { HubError } from './error.ts';
import { pause } from './http.ts';
import { type Found, type Hash, type Part, readStored, type Store, type Stored, type Stores } from './store.ts';

// Node, Deno and Bun: files in a folder.

/**
 * The holder of a lock touches it this often; one that was not touched for the other while is somebody's who is gone. Several
 * touches may come late, on a loaded machine or a folder of the network (not tuned).
 */
const TOUCH_MS = 2000;
const STALE_MS = 15_000;
/** Soon enough for a person (not tuned). */
const LOOK_AGAIN_MS = 200;
/** How often a folder is made again that somebody removes meanwhile: who releases the last lock in it does (not tuned). */
const MAX_MAKES = 100;
/** Few calls, and no large allocation (not tuned). */
const READ_BYTES = 1 << 20;

export const stores: Stores = {
  open: async (folder) => openFolder(resolve(folder ?? (process.env.TERNLM_CACHE || platformFolder()), 'models')),
  exists: async (path) => (await stat(path).catch(() => undefined)) !== undefined,
  environment: (name) => process.env[name],
};

/** Where the system keeps what can be had again. */
function platformFolder(): string {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  const home = homedir();
  if (process.platform === 'darwin') return join(home, 'Library', 'Caches', 'ternlm');
  if (process.platform === 'win32') return join(LOCALAPPDATA || join(home, 'AppData', 'Local'), 'ternlm');
  return join(XDG_CACHE_HOME || join(home, '.cache'), 'ternlm');
}

function openFolder(root: string): Store {
  const pathOf = (key: string) => join(root, ...key.split('/'));

  async function found(key: string, complete: boolean): Promise<Found | undefined> {
    const path = pathOf(key) + (complete ? '' : '.part');
    if (complete) await repair(pathOf(key));
    const size = await sizeOf(path);
    if (size === undefined) return undefined;
    const stored = await storedOf(path);
    if (complete)
      return stored?.size === size && stored.sha256 !== undefined ? { key, stored, complete, bytes: size } : undefined;
    return { key, stored: stored ?? { name: key, url: '' }, complete, bytes: size };
  }

  const store: Store = {
    place: root,
    async list() {
      const paths = await readdir(root, { recursive: true }).catch(absent);
      const all = (paths ?? []).map((path) => path.split(sep).join('/')).sort();
      const parts = all.filter((path) => path.endsWith('.part')).map((path) => found(path.slice(0, -5), false));
      const whole = all.filter((path) => !/\.(part|json|lock)$/.test(path)).map((path) => found(path, true));
      return (await Promise.all([...whole, ...parts])).filter((one) => one !== undefined);
    },
    find: (key, complete = true) => found(key, complete),
    open: async (key) => pathOf(key),
    pathOf,
    async freeBytes() {
      let folder = root;
      while ((await sizeOf(folder)) === undefined && dirname(folder) !== folder) folder = dirname(folder);
      const { bavail, bsize } = await statfs(folder);
      return bavail * bsize;
    },
    async locked(key, { signal, onWait }, work) {
      const path = `${pathOf(key)}.lock`;
      const lost = new AbortController();
      const release = await lock(path, signal, onWait, lost).catch(failing(path));
      try {
        return await work(signal === undefined ? lost.signal : AbortSignal.any([signal, lost.signal]));
      } finally {
        await release();
        await removeEmpty(dirname(path), root);
      }
    },
    part: async (key) => openPart(pathOf(key)).catch(failing(pathOf(key))),
    async remove(key, complete) {
      const path = pathOf(key) + (complete ? '' : '.part');
      // What says that it is whole goes first.
      await rm(`${path}.json`, { force: true });
      await rm(path, { force: true });
    },
  };
  return store;
}

/**
 * For a promise that fails with what the system says of a path of the cache.
 * @throws HubError naming the path, and what is in its way
 */
function failing(path: string): (error: unknown) => Promise<never> {
  return async (error) => {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (code === undefined || syscall === undefined) throw error;
    const what: Readonly<Record<string, string>> = {
      ENOSPC: 'no room, the disk is full',
      EDQUOT: 'no room, the quota is used up',
      ENAMETOOLONG: 'a name too long for the file system',
    };
    const why = what[code] ?? (await inTheWay(path)) ?? message;
    throw new HubError('cache', `${path}: cannot be kept: ${why}`, { cause: error });
  };
}

/** A folder where a file shall be, or a file where a folder shall. */
async function inTheWay(path: string): Promise<string | undefined> {
  if (await isFolder(path)) return `${path} is a folder, expected a file`;
  for (let folder = dirname(path); dirname(folder) !== folder; folder = dirname(folder)) {
    const there = await sizeOf(folder).catch(() => undefined);
    if (there !== undefined) return (await isFolder(folder)) ? undefined : `${folder} is a file, expected a folder`;
  }
  return undefined;
}

const isFolder = async (path: string) => (await stat(path).catch(() => undefined))?.isDirectory() === true;

/** As mkdir does with `recursive`, which never ends in Node where a file system has no folders to make and says ENOENT (/proc). */
async function makeFolder(folder: string): Promise<void> {
  for (let makes = 1; ; makes++) {
    try {
      return await mkdir(folder);
    } catch (error) {
      if (await isFolder(folder)) return;
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' || makes === MAX_MAKES || dirname(folder) === folder) throw error;
    }
    await makeFolder(dirname(folder));
  }
}

async function openPart(path: string): Promise<Part> {
  const partPath = `${path}.part`;
  const failed = failing(path);
  let file: FileHandle | undefined;
  let bytes = (await sizeOf(partPath)) ?? 0;
  let stored = bytes === 0 ? undefined : await storedOf(partPath);
  const close = async () => {
    await file?.close();
    file = undefined;
  };
  return {
    get bytes() {
      return bytes;
    },
    get stored() {
      return stored;
    },
    async hash() {
      const hash = newHash();
      const block = new Uint8Array(READ_BYTES);
      const reading = bytes > 0 ? await open(partPath, 'r') : undefined;
      try {
        for (let at = 0; at < bytes && reading !== undefined; ) {
          const { bytesRead } = await reading.read(block, 0, Math.min(block.length, bytes - at), at);
          if (bytesRead === 0) throw new HubError('cache', `${partPath}: shorter than its ${bytes} bytes`);
          hash.update(block.subarray(0, bytesRead));
          at += bytesRead;
        }
      } finally {
        await reading?.close();
      }
      return hash;
    },
    async begin(next) {
      await close();
      // Another file of the same name: whoever still writes into the old one, not knowing that the lock was lost, does no harm.
      await rm(partPath, { force: true }).catch(failed);
      await makeFolder(dirname(path)).catch(failed);
      // Found now, and not when all has come.
      const inWay = await inTheWay(path);
      if (inWay !== undefined) throw new HubError('cache', `${path}: cannot be kept: ${inWay}`);
      stored = next;
      bytes = 0;
      await writeFile(`${partPath}.json`, JSON.stringify(next)).catch(failed);
      file = await open(partPath, 'wx').catch(failed);
    },
    async append(chunk) {
      file ??= await open(partPath, 'r+').catch(failed);
      for (let done = 0; done < chunk.length; ) {
        const { bytesWritten } = await file.write(chunk, done, chunk.length - done, bytes).catch(failed);
        done += bytesWritten;
        bytes += bytesWritten;
      }
    },
    open: async () => partPath,
    async finish(whole) {
      file ??= await open(partPath, 'r+').catch(failed);
      await file.datasync().catch(failed);
      await close();
      await writeFile(`${partPath}.json`, JSON.stringify(whole)).catch(failed);
      await rm(`${path}.json`, { force: true }).catch(failed);
      await rename(partPath, path).catch(failed);
      await rename(`${partPath}.json`, `${path}.json`).catch(failed);
    },
    async remove() {
      await close();
      await rm(partPath, { force: true });
      await rm(`${partPath}.json`, { force: true });
      stored = undefined;
      bytes = 0;
    },
    close,
  };
}

/** Ends what a `finish` began that was cut off between its two renames. */
async function repair(path: string): Promise<void> {
  if ((await sizeOf(`${path}.json`)) !== undefined || (await sizeOf(`${path}.part`)) !== undefined) return;
  const size = await sizeOf(path);
  if (size === undefined || (await storedOf(`${path}.part`))?.size !== size) return;
  await rename(`${path}.part.json`, `${path}.json`).catch(absent);
}

function newHash(): Hash {
  const hash = createHash('sha256');
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest('hex') };
}

async function storedOf(path: string): Promise<Stored | undefined> {
  const text = await readFile(`${path}.json`, 'utf8').catch(absent);
  return text === undefined ? undefined : readStored(text);
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(absent))?.size;
}

/** Undefined for what is not there; other errors are thrown. */
function absent(error: unknown): undefined {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
  return undefined;
}

async function removeEmpty(from: string, root: string): Promise<void> {
  for (let folder = from; !relative(root, folder).startsWith('..') && folder !== root; folder = dirname(folder)) {
    try {
      await rmdir(folder);
    } catch {
      return; // not empty
    }
  }
}

/** Takes a lock, a file that only one can make; gives what releases it. */
async function lock(
  path: string,
  signal: AbortSignal | undefined,
  onWait: (() => Promise<void>) | undefined,
  lost: AbortController,
): Promise<() => Promise<void>> {
  const mine = `${randomUUID()} ${process.pid} ${hostname()}`;
  for (let makes = 0; ; ) {
    signal?.throwIfAborted();
    try {
      await writeFile(path, mine, { flag: 'wx' });
      break;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // The folder goes when another releases the last lock in it.
      if (code === 'ENOENT' && makes++ < MAX_MAKES) {
        await makeFolder(dirname(path));
        continue;
      }
      if (code !== 'EEXIST') throw error;
    }
    if (await isGone(path)) await takeAway(path);
    else {
      await onWait?.();
      await pause(LOOK_AGAIN_MS, signal);
    }
  }
  const isMine = async () => (await readFile(path, 'utf8').catch(absent)) === mine;
  const touch = async () => {
    const now = new Date();
    if (await isMine()) await utimes(path, now, now);
    else lost.abort(new HubError('cache', `${path}: another process took the lock from this one, which stood still`));
  };
  const timer = setInterval(() => void touch().catch((error: unknown) => lost.abort(error)), TOUCH_MS);
  return async () => {
    clearInterval(timer);
    if (await isMine()) await rm(path, { force: true });
  };
}

/** Whether the holder of a lock is gone: its process, or for longer than it may. */
async function isGone(path: string): Promise<boolean> {
  const age = Date.now() - ((await stat(path).catch(absent))?.mtimeMs ?? Date.now());
  if (age > STALE_MS) return true;
  const [, pid, host] = (await readFile(path, 'utf8').catch(absent))?.split(' ') ?? [];
  if (pid === undefined || host !== hostname()) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Of several that find a lock to be nobody's one takes it away; if it has become somebody's meanwhile, it is put back. */
async function takeAway(path: string): Promise<void> {
  const aside = `${path}.${randomUUID()}.lock`;
  await rename(path, aside).catch(absent);
  if ((await sizeOf(aside)) !== undefined && !(await isGone(aside))) await link(aside, path).catch(() => {});
  await rm(aside, { force: true });
}
