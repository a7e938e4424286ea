// What every store of models must do, in a folder and in a browser's private files alike. Plain, as it runs in a page too.

const KEY = '127.0.0.1%3A8080/org/repo/refs%2Fpr%2F1/more/m-i2_s.gguf';
const STORED = { name: 'org/repo:more/m-i2_s.gguf@refs/pr/1', url: 'http://hub/m', size: 3_000_000, etag: '"1"' };

function equal(actual, expected, what) {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== e) throw new Error(`${what}: ${a}, expected ${e}`);
}

const some = (length, seed) => Uint8Array.from({ length }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 13) & 255);

async function sha256Of(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * @param store of the stores under test, with nothing in it
 * @param openSource of the package, which reads what the store gives
 * @throws Error where it does something else
 */
export async function storeContract(store, openSource) {
  const bytesOf = async (key) => {
    const source = await openSource(await store.open(key));
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    await source.close();
    return bytes;
  };
  const states = async () => (await store.list()).map(({ key, complete, bytes }) => [key, complete, bytes]);
  const bytes = some(3_000_000, 1);
  const sha256 = await sha256Of(bytes);

  equal(await states(), [], 'an empty store');
  equal(await store.find(KEY), undefined, 'a file that is not there');
  const free = await store.freeBytes();
  if (!(free > 1e6)) throw new Error(`${free} bytes free, expected some`);

  let part = await store.part(KEY);
  equal([part.bytes, part.stored], [0, undefined], 'a new part');
  equal(await (await part.hash()).hex(), await sha256Of(new Uint8Array(0)), 'the checksum of nothing');
  await part.begin(STORED);
  await part.append(bytes.subarray(0, 1_500_000));
  await part.append(bytes.subarray(1_500_000, 2_000_001));
  await part.close();
  equal(await states(), [[KEY, false, 2_000_001]], 'a part');
  const soFar = await openSource(await part.open());
  const last = new Uint8Array(1);
  await soFar.read(2_000_000, last);
  await soFar.close();
  equal([soFar.size, last[0]], [2_000_001, bytes[2_000_000]], 'a part that is read');
  equal(await store.find(KEY), undefined, 'a whole file of which there is a part');
  equal((await store.find(KEY, false))?.stored, STORED, 'what is known of a part');

  part = await store.part(KEY);
  equal([part.bytes, part.stored], [2_000_001, STORED], 'a part that is taken up again');
  const hash = await part.hash();
  await part.append(bytes.subarray(2_000_001));
  hash.update(bytes.subarray(2_000_001));
  equal(hash.hex(), sha256, 'the checksum');
  const whole = { ...STORED, sha256, pulledAt: '2026-01-01T00:00:00.000Z' };
  await part.finish(whole);
  await part.close();
  equal(await states(), [[KEY, true, 3_000_000]], 'a whole file');
  equal((await store.find(KEY))?.stored, whole, 'what is known of a whole file');
  equal(await sha256Of(await bytesOf(KEY)), sha256, 'its bytes');

  const newer = some(1_000_000, 2);
  part = await store.part(KEY);
  equal([part.bytes, part.stored], [0, undefined], 'a part beside a whole file');
  await part.begin(STORED);
  await part.append(some(500_000, 3));
  await part.begin({ ...STORED, size: 1_000_000 });
  await part.append(newer);
  equal(await sha256Of(await bytesOf(KEY)), sha256, 'the old bytes until the new ones are there');
  await part.finish({ ...whole, size: 1_000_000, sha256: await sha256Of(newer) });
  equal(await sha256Of(await bytesOf(KEY)), await sha256Of(newer), 'the new bytes');

  await part.begin(STORED);
  await part.append(newer);
  await part.remove();
  equal(await states(), [[KEY, true, 1_000_000]], 'after a part was removed');
  part = await store.part(KEY);
  await part.begin(STORED);
  await part.append(newer);
  await part.close();
  await store.remove(KEY, true);
  equal(await states(), [[KEY, false, 1_000_000]], 'after the whole file was removed');
  await store.remove(KEY, false);
  equal(await states(), [], 'after all was removed');
  await store.remove(KEY, true);

  await lockContract(store);
}

async function lockContract(store) {
  const order = [];
  let waits = 0;
  const onWait = async () => {
    waits++;
  };
  let release;
  const held = new Promise((resolve) => {
    release = resolve;
  });
  const first = store.locked(KEY, {}, async () => {
    order.push('first begins');
    await held;
    order.push('first ends');
    return 1;
  });
  while (order.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  const second = store.locked(KEY, { onWait }, async () => order.push('second'));
  await store.locked('other/key', {}, async () => order.push('another key'));
  const reason = new Error('enough');
  const stop = new AbortController();
  const third = store.locked(KEY, { signal: stop.signal, onWait: async () => stop.abort(reason) }, async () => {
    order.push('third');
  });
  equal(await third.catch((error) => error === reason), true, 'a wait that was ended');
  release();
  equal(await first, 1, 'what the work gives');
  await second;
  equal(order, ['first begins', 'another key', 'first ends', 'second'], 'the order');
  if (waits === 0) throw new Error('onWait was not called');
  const failed = await store.locked(KEY, {}, () => Promise.reject(reason)).catch((error) => error);
  equal(failed === reason, true, 'work that fails');
  await store.locked(KEY, {}, async () => {});
}
