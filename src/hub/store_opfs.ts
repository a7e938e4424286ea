import { HubError } from './error.ts';
import { type Found, type Hash, type Part, readStored, type Store, type Stored, type Stores } from './store.ts';

// Browsers: the private file system of the page's origin (OPFS), which no other origin sees.

const FOLDER = 'ternlm';
/** Few calls, and no large allocation (not tuned). */
const READ_BYTES = 1 << 20;

export const stores: Stores = {
  async open(folder) {
    if (folder !== undefined) throw new RangeError('cacheFolder: there are no folders here, expected none');
    // Only in a secure context: https, or this machine.
    if (globalThis.navigator?.storage?.getDirectory === undefined) return undefined;
    // Pages from disk are refused, and those of some private windows.
    const root = await navigator.storage.getDirectory().catch(() => undefined);
    if (root === undefined) return undefined;
    return openFolder(
      await (await root.getDirectoryHandle(FOLDER, { create: true })).getDirectoryHandle('models', { create: true }),
    );
  },
  exists: async () => false,
  environment: () => undefined,
};

/** What TypeScript's own declarations of file handles lack. */
interface MovableHandle extends FileSystemFileHandle {
  move?(name: string): Promise<void>;
  createSyncAccessHandle?(): Promise<SyncHandle>;
}

/** Of a worker: writes at once, where createWritable writes a copy that counts when it is closed. */
interface SyncHandle {
  write(bytes: Uint8Array, options: { at: number }): number;
  flush(): void;
  close(): void;
}

/** Where the bytes of a part go. */
interface Writer {
  write(bytes: Uint8Array, at: number): Promise<void>;
  close(): Promise<void>;
}

interface Place {
  readonly folder: FileSystemDirectoryHandle;
  readonly name: string;
}

function openFolder(root: FileSystemDirectoryHandle): Store {
  /** @returns undefined where its folder is not there and none is made */
  async function placeOf(key: string, create: boolean): Promise<Place | undefined> {
    const names = key.split('/');
    const name = names.pop() ?? '';
    let folder: FileSystemDirectoryHandle | undefined = root;
    for (const part of names) folder = await folder?.getDirectoryHandle(part, { create }).catch(absent);
    return folder && { folder, name };
  }

  async function found(key: string, complete: boolean): Promise<Found | undefined> {
    const place = await placeOf(key, false);
    if (place === undefined) return undefined;
    const name = place.name + (complete ? '' : '.part');
    if (complete) await repair(place);
    const file = await fileOf(place.folder, name);
    if (file === undefined) return undefined;
    const stored = await storedOf(place.folder, name);
    const bytes = file.size;
    if (complete)
      return stored?.size === bytes && stored.sha256 !== undefined ? { key, stored, complete, bytes } : undefined;
    return { key, stored: stored ?? { name: key, url: '' }, complete, bytes };
  }

  const store: Store = {
    place: "this origin's private files",
    async list() {
      const all: Found[] = [];
      for await (const path of paths(root, '')) {
        const isPart = path.endsWith('.part');
        if (path.endsWith('.json')) continue;
        const one = await (isPart ? found(path.slice(0, -5), false) : found(path, true));
        if (one !== undefined) all.push(one);
      }
      return all.sort((a, b) => (a.key < b.key ? -1 : 1));
    },
    find: (key, complete = true) => found(key, complete),
    async open(key) {
      const place = await placeOf(key, false);
      const file = place && (await fileOf(place.folder, place.name));
      if (file === undefined) throw new HubError('cache', `${store.place}: ${key} is not there any more`);
      return file;
    },
    pathOf: () => undefined,
    async freeBytes() {
      const { quota, usage } = await navigator.storage.estimate();
      return quota === undefined || usage === undefined ? undefined : quota - usage;
    },
    async locked(key, { signal, onWait }, work) {
      const name = `${FOLDER}/${key}`;
      const taken = await navigator.locks.request(name, { ifAvailable: true }, async (lock) =>
        lock === null ? undefined : { result: await work(signal) },
      );
      if (taken !== undefined) return taken.result;
      await onWait?.();
      return navigator.locks.request(name, { signal }, () => work(signal));
    },
    async part(key) {
      const place = await placeOf(key, true);
      if (place === undefined)
        throw new HubError('cache', `${store.place}: no folder for ${key}: a file is in its way`);
      return openPart(place, store.place);
    },
    async remove(key, complete) {
      const place = await placeOf(key, false);
      if (place === undefined) return;
      const name = place.name + (complete ? '' : '.part');
      await removeFile(place.folder, `${name}.json`);
      await removeFile(place.folder, name);
    },
  };
  return store;
}

async function openPart({ folder, name }: Place, where: string): Promise<Part> {
  const partName = `${name}.part`;
  const full = (error: unknown): never => {
    if (!(error instanceof DOMException) || error.name !== 'QuotaExceededError') throw error;
    throw new HubError('cache', `${where}: no room for ${name}: what the browser allows is used up`, { cause: error });
  };
  let writer: Writer | undefined;
  let bytes = (await fileOf(folder, partName))?.size ?? 0;
  let stored = bytes === 0 ? undefined : await storedOf(folder, partName);
  const close = async () => {
    await writer?.close();
    writer = undefined;
  };
  return {
    get bytes() {
      return bytes;
    },
    get stored() {
      return stored;
    },
    async hash() {
      const hash = await newHash();
      // Nothing has been written yet where there is something to read.
      const file = bytes > 0 ? await fileOf(folder, partName) : undefined;
      for (let at = 0; file !== undefined && at < bytes; at += READ_BYTES) {
        hash.update(new Uint8Array(await file.slice(at, at + READ_BYTES).arrayBuffer()));
      }
      return hash;
    },
    async begin(next) {
      await close();
      await removeFile(folder, partName);
      stored = next;
      bytes = 0;
      await writeText(folder, `${partName}.json`, JSON.stringify(next)).catch(full);
      writer = await openWriter(folder, partName);
    },
    async append(chunk) {
      writer ??= await openWriter(folder, partName);
      await writer.write(chunk, bytes).catch(full);
      bytes += chunk.length;
    },
    async open() {
      const file = await fileOf(folder, partName);
      if (file === undefined) throw new HubError('cache', `${where}: ${partName} is not there any more`);
      return file;
    },
    async finish(whole) {
      await close();
      await writeText(folder, `${partName}.json`, JSON.stringify(whole)).catch(full);
      await removeFile(folder, `${name}.json`);
      await rename(folder, partName, name).catch(full);
      await rename(folder, `${partName}.json`, `${name}.json`).catch(full);
    },
    async remove() {
      await close();
      await removeFile(folder, partName);
      await removeFile(folder, `${partName}.json`);
      stored = undefined;
      bytes = 0;
    },
    close,
  };
}

async function openWriter(folder: FileSystemDirectoryHandle, name: string): Promise<Writer> {
  const handle: MovableHandle = await folder.getFileHandle(name, { create: true });
  if (handle.createSyncAccessHandle !== undefined) {
    const access = await handle.createSyncAccessHandle();
    return {
      async write(bytes, at) {
        for (let done = 0; done < bytes.length; ) done += access.write(bytes.subarray(done), { at: at + done });
      },
      async close() {
        access.flush();
        access.close();
      },
    };
  }
  // On a page's own thread: what was written counts when it is closed, so a page that is left meanwhile begins anew.
  const writable = await handle.createWritable({ keepExistingData: true });
  return {
    write: (bytes, position) => writable.write({ type: 'write', position, data: bytes as Uint8Array<ArrayBuffer> }),
    close: () => writable.close(),
  };
}

/** Takes the place of a file of the new name. */
async function rename(folder: FileSystemDirectoryHandle, from: string, to: string): Promise<void> {
  const handle: MovableHandle = await folder.getFileHandle(from);
  if (handle.move !== undefined) return handle.move(to);
  // A copy, which counts when it is closed.
  const target = await folder.getFileHandle(to, { create: true });
  await (await handle.getFile()).stream().pipeTo(await target.createWritable());
  await removeFile(folder, from);
}

/** Ends what a `finish` began that was cut off between its two renames. */
async function repair({ folder, name }: Place): Promise<void> {
  if ((await fileOf(folder, `${name}.json`)) !== undefined || (await fileOf(folder, `${name}.part`)) !== undefined)
    return;
  const size = (await fileOf(folder, name))?.size;
  if (size === undefined || (await storedOf(folder, `${name}.part`))?.size !== size) return;
  await rename(folder, `${name}.part.json`, `${name}.json`).catch(absent);
}

async function newHash(): Promise<Hash> {
  // The browser's own takes all bytes at once.
  const { sha256 } = await import('@noble/hashes/sha2.js');
  const hash = sha256.create();
  const hex = (digest: Uint8Array) => [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return { update: (bytes) => void hash.update(bytes), hex: () => hex(hash.digest()) };
}

async function* paths(folder: FileSystemDirectoryHandle, before: string): AsyncGenerator<string> {
  for await (const [name, handle] of folder.entries()) {
    if (handle.kind === 'directory') yield* paths(handle as FileSystemDirectoryHandle, `${before}${name}/`);
    else yield before + name;
  }
}

async function fileOf(folder: FileSystemDirectoryHandle, name: string): Promise<File | undefined> {
  return (await folder.getFileHandle(name).catch(absent))?.getFile();
}

async function storedOf(folder: FileSystemDirectoryHandle, name: string): Promise<Stored | undefined> {
  const text = await (await fileOf(folder, `${name}.json`))?.text();
  return text === undefined ? undefined : readStored(text);
}

async function writeText(folder: FileSystemDirectoryHandle, name: string, text: string): Promise<void> {
  await removeFile(folder, name);
  const writer = await openWriter(folder, name);
  await writer.write(new TextEncoder().encode(text), 0);
  await writer.close();
}

async function removeFile(folder: FileSystemDirectoryHandle, name: string): Promise<void> {
  await folder.removeEntry(name).catch(absent);
}

/** Undefined for what is not there; other errors are thrown. */
function absent(error: unknown): undefined {
  if (!(error instanceof DOMException) || !['NotFoundError', 'TypeMismatchError'].includes(error.name)) throw error;
}
