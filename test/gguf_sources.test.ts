import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { GgufError } from '../dist/gguf/error.js';
import { readHeader } from '../dist/gguf/header.js';
import { openSource, type Source } from '../dist/gguf/source.js';

const dir = mkdtempSync(join(tmpdir(), 'gguf-'));
const bytes = new Uint8Array(readFileSync(new URL('golden/models/tiny-bitnet-b1.58-i2_s.gguf', import.meta.url)));
const path = join(dir, 'model.gguf');
let server: Server;
let base = '';
let requests: string[] = [];
/** Answers that were left before their end. */
const ended: string[] = [];

beforeAll(async () => {
  writeFileSync(path, bytes);
  server = createServer((request, response) => {
    requests.push(request.headers.range ?? 'all');
    answer(request.url ?? '', request.headers.range, response);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((done) => server.close(done));
  rmSync(dir, { recursive: true });
});

/** A server in its different moods, one a path. Lies begin with the second request. */
function answer(url: string, range: string | undefined, response: ServerResponse): void {
  const mood = url.split('?')[0];
  const [, from, to] = (/^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [0, 0, bytes.length - 1]).map(Number);
  const part = bytes.subarray(from, to + 1);
  const partial = (headers: Record<string, string | number> = {}, body: Uint8Array = part, size = bytes.length) => {
    const contentRange = `bytes ${from}-${from + part.length - 1}/${size}`;
    response.writeHead(206, { 'content-range': contentRange, 'content-length': body.length, ...headers });
    response.end(body);
  };
  const breakOff = (status: number, headers: Record<string, string | number>, n: number) => {
    response.writeHead(status, headers);
    response.write(bytes.subarray(0, n), () => setTimeout(() => response.destroy(), 20));
  };
  const lying = requests.length > 1;
  if (mood === '/ranges') partial();
  else if (mood === '/all-first' && !lying)
    partial({ 'content-range': `bytes 0-${bytes.length - 1}/${bytes.length}` }, bytes);
  else if (mood === '/beyond') partial({ 'content-range': `bytes 0-${bytes.length}/${bytes.length}` });
  else if (mood === '/plain') response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  else if (mood === '/chunked') {
    response.writeHead(200);
    response.write(bytes.subarray(0, 1000));
    response.end(bytes.subarray(1000));
  } else if (mood === '/empty') response.writeHead(416, { 'content-range': 'bytes */0' }).end();
  else if (mood === '/breaks') breakOff(200, { 'content-length': bytes.length }, 1000);
  else if (mood === '/breaks-later' && lying) {
    breakOff(206, { 'content-range': `bytes ${from}-${to}/${bytes.length}`, 'content-length': part.length }, 1000);
  } else if (mood === '/short' && lying) partial({}, part.subarray(0, part.length - 1));
  else if (mood === '/long' && lying) partial({}, bytes.subarray(from, to + 2));
  else if (mood === '/elsewhere' && lying) partial({ 'content-range': `bytes ${from + 1}-${to + 1}/${bytes.length}` });
  else if (mood === '/late-start' && lying) partial({ 'content-range': `bytes ${from + 1}-${to}/${bytes.length}` });
  else if (mood === '/early-end' && lying) partial({ 'content-range': `bytes ${from}-${to - 1}/${bytes.length}` });
  else if (mood === '/grown' && lying) partial({}, part, bytes.length + 1);
  else if (mood === '/replaced') partial({ etag: `"${requests.length}"` });
  else if (mood === '/same') partial({ etag: '"1"' });
  else if (mood === '/whole-later' && lying) response.writeHead(200).end(bytes);
  else if (mood === '/fails-later' && lying) response.writeHead(503).end();
  else if (mood === '/silent' || (mood === '/silent-later' && lying)) response.on('close', () => ended.push(mood));
  else if (mood === '/stalls' && lying) {
    response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${bytes.length}`, 'content-length': part.length });
    response.on('close', () => ended.push(mood)).write(part.subarray(0, 1000));
  } else if (mood === '/stalls-plain') response.writeHead(200).write(bytes.subarray(0, 1000));
  else if (mood === '/slow') {
    response.writeHead(200, { 'content-length': 8 });
    const letters = [...'GGUFslow'];
    const timer = setInterval(() => {
      response.write(letters.shift());
      if (letters.length > 0) return;
      clearInterval(timer);
      response.end();
    }, 100);
  } else if (mood === '/endless') {
    response.writeHead(200).on('close', () => ended.push(mood));
    const more = () => response.destroyed || response.write(Buffer.alloc(1 << 16, 'A'), () => setImmediate(more));
    more();
  } else if (mood === '/huge') response.writeHead(200, { 'content-length': 2 ** 32 + 1 }).write('GGUF');
  else if (mood === '/no-range-header') response.writeHead(206).end(part);
  else if (mood === '/unknown-size') partial({ 'content-range': `bytes ${from}-${to}/*` });
  else if (/^\/\d+$/.test(mood)) response.writeHead(Number(mood.slice(1))).end('sorry');
  else partial();
}

async function expectWhole(source: Source): Promise<void> {
  expect(source.size).toBe(bytes.length);
  const all = new Uint8Array(source.size);
  await source.read(0, all);
  expect(Buffer.compare(all, bytes)).toBe(0);
  const some = new Uint8Array(new SharedArrayBuffer(1000), 10, 500);
  await source.read(777, some);
  expect(Buffer.compare(some, bytes.subarray(777, 1277))).toBe(0);
  if (source.readSync) {
    some.fill(0);
    source.readSync(bytes.length - 500, some);
    expect(Buffer.compare(some, bytes.subarray(-500))).toBe(0);
    expect(() => source.readSync?.(bytes.length - 499, some)).toThrow(GgufError);
  }
  await source.read(source.size, new Uint8Array(0));
  await expect(source.read(source.size - 1, new Uint8Array(2))).rejects.toMatchObject({
    name: 'GgufError',
    offset: source.size - 1,
    message: `${source.name}: read at byte ${source.size - 1}: wanted 2 bytes, got 1`,
  });
  await expect(source.read(-1, new Uint8Array(1))).rejects.toThrow(GgufError);
  await source.close();
}

test('path', async () => {
  const source = await openSource(path);
  expect(source.name).toBe(path);
  expect(source.readSync).toBeTypeOf('function');
  await expectWhole(source);
  await expect(source.read(0, new Uint8Array(1))).rejects.toThrow(); // closed
});

test('file address', async () => {
  const { href } = pathToFileURL(path);
  await expectWhole(await openSource(href));
  await expectWhole(await openSource(new URL(href)));
});

test('a file that shrinks while it is open', async () => {
  const shrinking = join(dir, 'shrinking.gguf');
  writeFileSync(shrinking, bytes);
  const source = await openSource(shrinking);
  truncateSync(shrinking, 100);
  const message = `${shrinking}: read at byte 50: wanted 100 bytes, got 50`;
  await expect(source.read(50, new Uint8Array(100))).rejects.toThrow(message);
  expect(() => source.readSync?.(50, new Uint8Array(100))).toThrow(message);
  await source.close();
});

test('no file', async () => {
  await expect(openSource(join(dir, 'none.gguf'))).rejects.toThrow(/ENOENT/);
  await expect(openSource(dir)).rejects.toThrow(/not a regular file|EISDIR/);
});

test('bytes', async () => {
  await expectWhole(await openSource(bytes));
  await expectWhole(await openSource(bytes.buffer));
  await expectWhole(await openSource(new Uint8Array(Buffer.concat([bytes.slice(0, 2), bytes])).subarray(2)));
});

test('Blob and File', async () => {
  const source = await openSource(new Blob([bytes]));
  expect([source.name, source.readSync]).toEqual(['blob', undefined]);
  await expectWhole(source);
  const file = await openSource(new File([bytes], 'm.gguf'));
  expect(file.name).toBe('m.gguf');
  await expectWhole(file);
});

const open = (mood: string, options?: { signal?: AbortSignal; timeoutMs?: number }) => {
  requests = [];
  return openSource(base + mood, options);
};

test('http with ranges', async () => {
  const source = await open('/ranges?signature=secret');
  expect(source.name).toBe(`${base}/ranges`);
  await expectWhole(source);
  expect(requests.slice(0, 2)).toEqual(['bytes=0-0', `bytes=0-${bytes.length - 1}`]);
  await expectWhole(await open('/same'));
  await expectWhole(await open('/all-first'));
});

test('a header takes few requests', async () => {
  const source = await open('/ranges');
  expect((await readHeader(source)).tensors.size).toBe(46);
  expect(requests).toEqual(['bytes=0-0', 'bytes=0-262143']);
});

test('http without ranges', async () => {
  await expectWhole(await open('/plain'));
  expect(requests).toEqual(['bytes=0-0']);
  await expectWhole(await open('/chunked'));
});

test('http, an empty file', async () => {
  const source = await open('/empty');
  expect(source.size).toBe(0);
  await expect(readHeader(source)).rejects.toThrow(GgufError);
});

test.each<[string, RegExp]>([
  ['/404', /\/404: HTTP 404, expected 206 or 200/],
  ['/500', /\/500: HTTP 500, expected 206 or 200/],
  ['/204', /HTTP 204/],
  ['/416', /HTTP 416/],
  ['/breaks', /read at byte 0: wanted 888032 bytes, got (0|1000)/],
  ['/no-range-header', /Content-Range missing, expected bytes 0-0 and the size/],
  ['/beyond', /Content-Range bytes 0-888032\/888032, expected bytes 0-0 and the size/],
  ['/unknown-size', /Content-Range bytes 0-0\/\*, expected/],
])('http, opening %s', async (mood, message) => {
  await expect(open(mood)).rejects.toMatchObject({ name: 'GgufError', message: expect.stringMatching(message) });
});

test.each<[string, RegExp]>([
  ['/breaks-later', /read at byte 10: wanted 5000 bytes, got (0|1000) \(/],
  ['/short', /read at byte 10: (wanted 5000 bytes, got 4999|.*Content-Range)/],
  ['/long', /read at byte 10: wanted 5000 bytes, got 5001/],
  ['/elsewhere', /Content-Range bytes 11-5010\/888032, expected bytes 10-5009/],
  ['/late-start', /Content-Range bytes 11-5009\/888032, expected bytes 10-5009/],
  ['/early-end', /Content-Range bytes 10-5008\/888032, expected bytes 10-5009/],
  ['/grown', /changed while it was read/],
  ['/replaced', /changed while it was read/],
  ['/whole-later', /HTTP 200, expected 206 for a range/],
  ['/fails-later', /HTTP 503/],
])('http, reading %s', async (mood, message) => {
  const source = await open(mood);
  await expect(source.read(10, new Uint8Array(5000))).rejects.toMatchObject({
    name: 'GgufError',
    message: expect.stringMatching(message),
  });
});

test('http, nobody answers', async () => {
  const nobody = createServer();
  await new Promise<void>((done) => nobody.listen(0, '127.0.0.1', done));
  const { port } = nobody.address() as AddressInfo;
  await new Promise((done) => nobody.close(done));
  const name = `http://127.0.0.1:${port}/m.gguf`;
  await expect(openSource(`${name}?signature=secret`)).rejects.toThrow(
    new RegExp(`^${name}: cannot be reached: .*ECONNREFUSED`),
  );
});

test('http, a server that stands still', async () => {
  const still = { timeoutMs: 300 };
  const nothing = 'nothing came for 0.3 s';
  await expect(open('/silent?signature=secret', still)).rejects.toMatchObject({
    name: 'GgufError',
    message: `${base}/silent: cannot be reached: ${nothing}`,
  });
  await expect(open('/stalls-plain', still)).rejects.toThrow(
    `${base}/stalls-plain: read at byte 0: wanted 1001 bytes, got 1000 (${nothing})`,
  );
  const read = async (mood: string) => (await open(mood, still)).read(10, new Uint8Array(5000));
  await expect(read('/silent-later')).rejects.toThrow(
    `${base}/silent-later: read at byte 10: wanted 5000 bytes, got 0 (${nothing})`,
  );
  await expect(read('/stalls')).rejects.toThrow(
    `${base}/stalls: read at byte 10: wanted 5000 bytes, got 1000 (${nothing})`,
  );
  await expect.poll(() => ended.sort()).toEqual(['/silent', '/silent-later', '/stalls']); // the server is told
  expect((await open('/slow', still)).size).toBe(8); // as long as bytes come
});

test('http, how long is waited', async () => {
  for (const timeoutMs of [0, -1, Number.NaN, 2 ** 31]) {
    await expect(open('/ranges', { timeoutMs })).rejects.toThrow(`timeoutMs: got ${timeoutMs}, expected more than 0`);
  }
  for (const timeoutMs of [Number.POSITIVE_INFINITY, 2 ** 31 - 1])
    await expectWhole(await open('/ranges', { timeoutMs }));
  // Where nothing is fetched no timer is set: in the global scope of workerd there is none.
  const timers = vi.spyOn(globalThis, 'setTimeout');
  try {
    for (const input of [bytes, new Blob([bytes]), path])
      await expectWhole(await openSource(input, { timeoutMs: 321 }));
    expect(timers.mock.calls.filter(([, ms]) => ms === 321)).toEqual([]);
    await expectWhole(await open('/ranges', { timeoutMs: 321 }));
    expect(timers.mock.calls.filter(([, ms]) => ms === 321).length).toBeGreaterThan(0);
  } finally {
    timers.mockRestore();
  }
});

test('http without ranges, what is no model', async () => {
  ended.length = 0;
  await expect(open('/endless')).rejects.toThrow(`${base}/endless: magic at byte 0: "AAAA", expected "GGUF"`);
  await expect.poll(() => ended).toEqual(['/endless']);
  await expect(open('/huge')).rejects.toThrow(
    `${base}/huge: no ranges, and 4294967297 bytes, expected at most 4294967296 to be kept in memory here`,
  );
});

test.each<[string, string]>([
  ['ftp://user:secret@h/m.gguf?signature=secret', 'ftp://h/m.gguf: ftp: address, expected a path, '],
  ['s3://bucket/m.gguf?signature=secret', 's3://bucket/m.gguf: s3: address, expected a path, '],
  ['data:text/plain,secret', 'data:text/plain,…: data: without //, expected a path, '],
  ['http:m.gguf?secret', 'http:m.gguf: http: without //, expected a path, '],
  ['http://', 'http://: no address that can be read, expected one like https://host/path'],
  ['http://user:secret@h:x/m.gguf?secret', 'http://h:x/m.gguf: no address that can be read, '],
  ['http://user:secret@h/m.gguf?secret', 'http://h/m.gguf: an address with a user name or password, expected one '],
  ['file://host/m.gguf?secret', 'file://host/m.gguf: File URL host must be '],
  ['file:///a%2Fb.gguf', 'file:///a%2Fb.gguf: File URL path must not include encoded / '],
])('an address that cannot be opened: %s', async (address, start) => {
  const inputs =
    URL.canParse(address) && !/^(http|data):(?!\/\/)/.test(address) ? [address, new URL(address)] : [address];
  for (const input of inputs) {
    const { message } = await openSource(input).then(
      () => expect.unreachable('it was opened'),
      (error: Error) => error,
    );
    expect(message.slice(0, start.length)).toBe(start);
    expect(message).not.toContain('secret');
  }
});

test('an address that is mostly data is not shown whole', async () => {
  for (const address of [`data:,${'x'.repeat(1e5)}`, `s3://bucket/${'x'.repeat(1e5)}`]) {
    const error = await openSource(new URL(address)).catch((error: Error) => error);
    expect((error as Error).message.length).toBeLessThan(400);
  }
});

test('a runtime that names the whole address in its error', async () => {
  const address = new URL('https://hub/m.gguf?signature=secret');
  const fetch = () => Promise.reject(new TypeError(`error sending request for url (${address.href})`));
  await expect(openSource(address, { fetch })).rejects.toThrow(
    /^https:\/\/hub\/m\.gguf: cannot be reached: error sending request for url \(https:\/\/hub\/m\.gguf\)$/,
  );
});

test('a signal ends opening and reading with its reason', async () => {
  const reason = new Error('enough');
  await expect(open('/ranges', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  for (const input of [bytes, path, `${base}/ranges`]) {
    const stop = new AbortController();
    const source = await openSource(input, { signal: stop.signal });
    await source.read(0, new Uint8Array(10));
    stop.abort(reason);
    await expect(source.read(0, new Uint8Array(10))).rejects.toBe(reason);
    await source.close();
  }
  const stop = new AbortController();
  const source = await openSource(`${base}/ranges`, { signal: stop.signal });
  const reading = source.read(0, new Uint8Array(bytes.length));
  stop.abort(reason);
  await expect(reading).rejects.toBe(reason);
});
