import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A request that came. */
export interface Seen {
  readonly path: string;
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
  readonly authorization: string | undefined;
}

/** Answers otherwise than a hub should; false leaves it to the usual answer. `n` counts the requests for bytes, from 0. */
export type Mood = (request: IncomingMessage, response: ServerResponse, n: number) => boolean;

export interface HubServer {
  readonly url: string;
  /** Paths in all repositories. */
  files: Record<string, Uint8Array>;
  /** Requests since the last `reset`. */
  seen: Seen[];
  /** How requests for bytes are answered, and for lists. */
  mood: Mood;
  listMood: Mood;
  reset(): void;
  close(): Promise<void>;
}

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A hub on this machine, which behaves unless it is told otherwise: lists with checksums, ranges, entity tags. */
export async function startHub(files: Record<string, Uint8Array>): Promise<HubServer> {
  const usual: Mood = () => false;
  let asked = 0;
  const server = createServer((request, response) => {
    const { pathname: path } = new URL(request.url ?? '/', 'http://hub');
    const { range, authorization, 'if-range': ifRange } = request.headers;
    hub.seen.push({ path, range, ifRange: ifRange?.toString(), authorization });
    // A page of another origin asks here.
    response.setHeader('access-control-allow-origin', '*');
    response.setHeader('access-control-allow-headers', '*, authorization');
    response.setHeader('access-control-expose-headers', '*');
    if (request.method === 'OPTIONS') return void response.end();
    if (path.startsWith('/api/')) {
      if (!hub.listMood(request, response, 0)) list(response, path);
    } else if (!hub.mood(request, response, asked++)) sendFile(request, response, fileOf(hub, path));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const hub: HubServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    files,
    seen: [],
    mood: usual,
    listMood: usual,
    reset() {
      Object.assign(hub, { seen: [], mood: usual, listMood: usual });
      asked = 0;
    },
    close() {
      server.closeAllConnections();
      return new Promise((done) => void server.close(() => done()));
    },
  };

  function list(response: ServerResponse, path: string): void {
    if (!/^\/api\/models\/[^/]+\/[^/]+\/tree\/main$/.test(path)) {
      response.writeHead(404, { 'x-error-code': 'RevisionNotFound', 'x-error-message': 'Invalid rev id' }).end('{}');
      return;
    }
    const entries = Object.entries(hub.files).map(([name, bytes]) => ({
      ...{ type: 'file', path: name, size: bytes.length, oid: sha256Of(bytes).slice(0, 40) },
      ...(bytes.length > 100 && { lfs: { oid: sha256Of(bytes), size: bytes.length, pointerSize: 134 } }),
    }));
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify([{ type: 'directory', path: 'more', size: 0, oid: '0' }, ...entries]));
  }
  return hub;
}

/** What a path of `/org/repo/resolve/main/FILE` has, or `/FILE`. */
function fileOf(hub: HubServer, path: string): Uint8Array | undefined {
  return hub.files[decodeURIComponent(path.replace(/^\/[^/]+\/[^/]+\/resolve\/[^/]+\//, '').replace(/^\//, ''))];
}

/** Answers as a server should. */
export function sendFile(request: IncomingMessage, response: ServerResponse, bytes: Uint8Array | undefined): void {
  if (bytes === undefined) {
    response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end('Entry not found');
    return;
  }
  const etag = `"${sha256Of(bytes).slice(0, 16)}"`;
  const { range, 'if-range': ifRange } = request.headers;
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
  if (first === undefined || (ifRange !== undefined && ifRange !== etag)) {
    response.writeHead(200, { 'content-length': bytes.length, 'accept-ranges': 'bytes', etag }).end(bytes);
    return;
  }
  const from = Number(first);
  const to = last === '' ? bytes.length - 1 : Math.min(Number(last), bytes.length - 1);
  if (from >= bytes.length) {
    response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    return;
  }
  const contentRange = `bytes ${from}-${to}/${bytes.length}`;
  response.writeHead(206, { 'content-range': contentRange, 'content-length': to - from + 1, etag });
  response.end(bytes.subarray(from, to + 1));
}

/**
 * Begins as `sendFile` would and breaks the connection off after some bytes.
 * @param written how many bytes the part has on disk: bytes that are still under way when a connection breaks may be lost
 */
export function breakOff(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  after: number,
  written: () => number,
): void {
  const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const etag = `"${sha256Of(bytes).slice(0, 16)}"`;
  const length = { 'content-length': bytes.length - from, etag };
  if (from === 0) response.writeHead(200, length);
  else response.writeHead(206, { ...length, 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` });
  response.write(bytes.subarray(from, from + after));
  breakWhen(response, () => written() >= from + after);
}

/** Breaks the connection off as soon as what was sent has reached its end. */
export function breakWhen(response: ServerResponse, reached: () => boolean): void {
  const look = setInterval(() => reached() && response.destroy(), 10);
  response.on('close', () => clearInterval(look));
}
