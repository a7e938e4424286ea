/** A model of a hub, as `org/repo[:file][@revision]` names it. */
export interface Reference {
  /** "org/repo". */
  readonly repo: string;
  /** Path in the repository; undefined leaves the choice. */
  readonly file: string | undefined;
  /** Branch, tag or commit. */
  readonly revision: string;
  /** Whether it began with `hf:`, and can be nothing else. */
  readonly explicit: boolean;
}

/** The branch that is meant where none is named. */
const MAIN = 'main';
/** Names as the hub allows them. */
const NAME = String.raw`\w(?:[\w.-]{0,94}\w)?`;
/** File systems allow 255, and the cache adds up to 47: of a lock that is set aside. */
const MAX_NAME_BYTES = 200;
/** More than any path of the hub; systems allow from 1000 on, with the cache's own folders (not tuned). */
const MAX_PATH_BYTES = 500;
const REFERENCE = new RegExp(`^(hf:)?(${NAME}/${NAME})(?::([^:@]+))?(?:@([^:@]+))?$`);

/** What `text` refers to if it has the shape of a reference, else undefined. */
export function parseReference(text: string): Reference | undefined {
  const [, hf, repo, file, revision = MAIN] = REFERENCE.exec(text) ?? [];
  if (repo === undefined || /\.\.|--/.test(repo) || !isSafePath(repo)) return undefined;
  // models/tiny.gguf is a path.
  if (hf === undefined && file === undefined && /\.gguf$/i.test(repo)) return undefined;
  if ((file !== undefined && !isSafePath(file)) || !isSafePath(revision)) return undefined;
  // One folder of the cache.
  if (encodeURIComponent(revision).length > MAX_NAME_BYTES) return undefined;
  return { repo, file, revision, explicit: hf !== undefined };
}

/** The reference of a file, as lists show it and as it can be given again. */
export function referenceName({ repo, revision }: Reference, file: string): string {
  return `${repo}:${file}${revision === MAIN ? '' : `@${revision}`}`;
}

const byteLength = (text: string) => new TextEncoder().encode(text).length;

/**
 * Whether the parts of a path are names in every file system, none of which leads elsewhere: no `..`, separators, devices of
 * Windows, nor names of the cache's own files.
 */
export function isSafePath(path: string): boolean {
  return (
    byteLength(path) <= MAX_PATH_BYTES &&
    path.split('/').every((part) => {
      if (byteLength(part) > MAX_NAME_BYTES || !/^[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\\/:*?"<>|%]+$/u.test(part))
        return false;
      return !/^\.|[. ]$|\.(part|json|lock)$|^(con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(\.|$)/i.test(part);
    })
  );
}
