// The cache of models. `#store` of package.json is the module for the runtime: store_node.ts keeps files in a folder,
// store_opfs.ts in the private files of a page's origin, store_none.ts has none (workerd).
//
//   KEY             the model, whole and checked: it gets this name when it is
//   KEY.json        its Stored; without it, or with another size, KEY counts for nothing
//   KEY.part        bytes so far
//   KEY.part.json   its Stored as far as it is known; becomes KEY.json after KEY.part became KEY
//
// A key is a path of names that isSafePath allows, beginning with the host that the model is from.

/** What is known of a file. */
export interface Stored {
  /** The reference or address that gives it again. */
  readonly name: string;
  /** Where it is from, without a query. */
  readonly url: string;
  /** Bytes of the whole file. */
  readonly size?: number;
  /** Of a part: what it shall be. Of a whole file: what it is. Hexadecimal. */
  readonly sha256?: string;
  /** What the server calls this state of the file: the strong entity tag. */
  readonly etag?: string;
  /** What the hub calls it. */
  readonly oid?: string;
  /** When it was there, ISO 8601. */
  readonly pulledAt?: string;
}

export interface Found {
  readonly key: string;
  readonly stored: Stored;
  readonly complete: boolean;
  /** There now. */
  readonly bytes: number;
}

/** A file that is being written, by one at a time. Bytes are added at its end. */
export interface Part {
  readonly bytes: number;
  /** What it was begun for, if it was. */
  readonly stored: Stored | undefined;
  /** SHA-256 of the bytes so far, to be continued. */
  hash(): Promise<Hash>;
  /** Throws the bytes away and begins one for `stored`. */
  begin(stored: Stored): Promise<void>;
  append(chunk: Uint8Array): Promise<void>;
  /** What openSource takes of the bytes so far; to be called when it is closed. */
  open(): Promise<string | Blob>;
  /** Makes it the whole file, which it replaces. */
  finish(stored: Stored): Promise<void>;
  /** Throws it away. */
  remove(): Promise<void>;
  /** Keeps what there is. */
  close(): Promise<void>;
}

export interface Hash {
  update(bytes: Uint8Array): void;
  hex(): string;
}

export interface Store {
  /** For messages: the folder, or what stands for it. */
  readonly place: string;
  /** Whole files and parts. */
  list(): Promise<Found[]>;
  /** The whole file of a key, or the part of one, if it is there. */
  find(key: string, complete?: boolean): Promise<Found | undefined>;
  /** What openSource takes of a whole file. */
  open(key: string): Promise<string | Blob>;
  /** Path of a whole file, where files have one. */
  pathOf(key: string): string | undefined;
  /** Bytes that may still be written, where that is known. */
  freeBytes(): Promise<number | undefined>;
  /**
   * Does `work` while nobody else, in this process or another, does anything under the same key.
   * @param options.signal ends the waiting; the signal that `work` gets is aborted too when the lock is lost to somebody
   * @param options.onWait called each time it is found that somebody else has the lock
   */
  locked<R>(
    key: string,
    options: { readonly signal?: AbortSignal; readonly onWait?: () => Promise<void> },
    work: (signal: AbortSignal | undefined) => Promise<R>,
  ): Promise<R>;
  /** To be called under the lock. */
  part(key: string): Promise<Part>;
  /** Removes the whole file, or the part; to be called under the lock. */
  remove(key: string, complete: boolean): Promise<void>;
}

/** What a runtime has. */
export interface Stores {
  /** @param folder of all that ternlm keeps; default: the platform's. @returns undefined where nothing can be kept */
  open(folder?: string): Promise<Store | undefined>;
  /** Whether there is a file or folder of that path. */
  exists(path: string): Promise<boolean>;
  environment(name: string): string | undefined;
}

/** A sidecar's text, which anybody may have written; undefined where it is none. */
export function readStored(text: string): Stored | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { name, url, size, sha256, etag, oid, pulledAt } = value as Record<string, unknown>;
  const texts = [sha256, etag, oid, pulledAt].every((text) => text === undefined || typeof text === 'string');
  if (typeof name !== 'string' || typeof url !== 'string' || !texts) return undefined;
  if (size !== undefined && !(Number.isSafeInteger(size) && Number(size) >= 0)) return undefined;
  return value as Stored;
}
