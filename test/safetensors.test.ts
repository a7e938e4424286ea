import { describe, expect, it, test } from 'vitest';
import { type Folder, openCheckpoint, readJson } from '../dist/safetensors/checkpoint.js';
import { SafetensorsError } from '../dist/safetensors/error.js';
import { type Bytes, readSafetensors } from '../dist/safetensors/header.js';

// Files are put together here from the format's description, without code under test.

const bytesOf = (bytes: Uint8Array, name = 'model.safetensors'): Bytes & { close(): Promise<void> } => ({
  name,
  size: bytes.length,
  read: async (at, dst) => dst.set(bytes.subarray(at, at + dst.length)),
  close: async () => {},
});

/** `header` as JSON, or as the text itself; then `data` zero bytes. */
function file(header: unknown, data = 0, length?: number | bigint): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = new BigUint64Array([BigInt(length ?? json.length)]);
  return new Uint8Array(Buffer.concat([new Uint8Array(prefix.buffer), json, new Uint8Array(data)]));
}

const tensor = (dtype: string, shape: unknown, begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const A = tensor('F32', [2, 3], 0, 24);
const B = tensor('BF16', [4], 24, 32);

const read = (bytes: Uint8Array) => readSafetensors(bytesOf(bytes));

describe('a file', () => {
  it('is read', async () => {
    const bytes = file(`${JSON.stringify({ __metadata__: { format: 'pt' }, b: B, a: A })}    `, 32);
    const at = bytes.length - 32;
    expect(await read(bytes)).toEqual({
      metadata: new Map([['format', 'pt']]),
      tensors: new Map([
        ['b', { name: 'b', dtype: 'BF16', shape: [4], at: at + 24, bytes: 8 }],
        ['a', { name: 'a', dtype: 'F32', shape: [2, 3], at, bytes: 24 }],
      ]),
    });
  });

  it('may hold scalars and empty tensors, and every dtype', async () => {
    const sizes = { BOOL: 1, U8: 1, I8: 1, F8_E4M3: 1, F8_E5M2: 1, U16: 2, I16: 2, F16: 2, BF16: 2, U32: 4, I32: 4 };
    const all = Object.entries({ ...sizes, F32: 4, U64: 8, I64: 8, F64: 8 });
    let end = 0;
    const header: Record<string, unknown> = { nothing: tensor('F32', [0, 5], 0, 0) };
    for (const [dtype, size] of all) {
      header[dtype] = tensor(dtype, [], end, end + size);
      end += size;
    }
    const { tensors } = await read(file(header, end));
    expect([...tensors.values()].map((t) => [t.dtype, t.bytes])).toEqual([['F32', 0], ...all]);
  });

  const twice =
    '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
  const escaped = twice.replace(',"a"', ',"\\u0061"');
  // What is wrong, the file, and what the error says.
  const REFUSED: [string, Uint8Array, RegExp][] = [
    ['an empty file', new Uint8Array(0), /0 bytes, expected at least 8/],
    ['a cut length', new Uint8Array(7), /7 bytes, expected at least 8/],
    ['a header longer than the file', file({ a: A }, 24, 1000), /header of 1000 bytes, expected 2 to \d+$/],
    ['a header of 2^63 bytes', file({ a: A }, 24, 2n ** 63n), /header of 9223372036854776000 bytes/],
    ['no header', file('', 8, 0), /header of 0 bytes/],
    ['no JSON object', file('[]', 0), /does not begin with \{/],
    ['a blank before it', file(' {}', 0), /does not begin with \{/],
    ['broken JSON', file('{"a":}', 0), /not JSON in UTF-8/],
    ['bytes that are not UTF-8', file('{"x":1}', 0).map((b) => (b === 0x78 ? 0xff : b)), /not JSON in UTF-8/],
    ['a name given twice', file(twice, 1), /tensor 'a': duplicate name/],
    ['a name given twice in two spellings', file(escaped, 1), /tensor 'a': duplicate name/],
    ['metadata of numbers', file({ __metadata__: { n: 1 } }), /__metadata__: expected an object of texts/],
    ['metadata as a list', file({ __metadata__: ['n'] }), /__metadata__: expected an object of texts/],
    ['a tensor that is no object', file({ a: 1 }), /tensor 'a': expected an object/],
    ['an unknown dtype', file({ a: tensor('F7', [1], 0, 1) }, 1), /tensor 'a': dtype "F7", expected one of BOOL, U8/],
    ["a dtype of Object's", file({ a: tensor('toString', [1], 0, 1) }, 1), /dtype "toString"/],
    ['no dtype', file({ a: { shape: [1], data_offsets: [0, 1] } }, 1), /dtype undefined/],
    ['a negative dim', file({ a: tensor('U8', [-1], 0, 1) }, 1), /shape \[-1\], expected up to 8 whole numbers/],
    ['half a dim', file({ a: tensor('U8', [0.5], 0, 1) }, 1), /shape \[0.5\]/],
    ['a dim as text', file({ a: tensor('U8', ['1'], 0, 1) }, 1), /shape \["1"\]/],
    ['no shape', file({ a: { dtype: 'U8', data_offsets: [0, 1] } }, 1), /shape undefined/],
    ['nine dims', file({ a: tensor('U8', [1, 1, 1, 1, 1, 1, 1, 1, 1], 0, 1) }, 1), /expected up to 8/],
    ['one offset', file({ a: { dtype: 'U8', shape: [1], data_offsets: [0] } }, 1), /data_offsets \[0\]/],
    ['a negative offset', file({ a: tensor('U8', [1], -1, 0) }, 1), /data_offsets \[-1,0\]/],
    ['end before begin', file({ a: tensor('U8', [1], 1, 0) }, 1), /\[1, 0\], expected begin <= end <= 1/],
    ['an end behind the file', file({ a: tensor('U8', [2], 0, 2) }, 1), /\[0, 2\], expected begin <= end <= 1/],
    ['too few bytes', file({ a: tensor('F32', [2], 0, 7) }, 7), /7 bytes, expected 8 for F32 \[2\]/],
    [
      'a product above 2^53',
      file({ a: tensor('U8', [2 ** 40, 2 ** 40], 0, 1) }, 1),
      /1 bytes, expected 1\.2089\d+e\+24/,
    ],
    [
      'an overlap',
      file({ a: A, b: tensor('BF16', [4], 20, 28) }, 28),
      /'b': begins at byte \d+, expected \d+: overlap with 'a'/,
    ],
    ['the same place twice', file({ a: A, b: A }, 24), /'b': begins at byte \d+, expected \d+: overlap with 'a'/],
    [
      'a hole',
      file({ a: A, b: tensor('BF16', [4], 25, 33) }, 33),
      /'b': begins at byte \d+, expected \d+: hole after 'a'/,
    ],
    ['a hole before all', file({ b: B }, 32), /'b': begins at byte \d+, expected \d+: hole after the header/],
    ['bytes of no tensor', file({ a: A }, 25), /1 bytes after 'a' that belong to no tensor/],
  ];
  test.each(REFUSED)('%s is refused', async (_, bytes, message) => {
    const error = await read(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SafetensorsError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toMatch(/^model\.safetensors: /);
  });

  it('is refused, or read as something valid, whichever byte of the header is changed', async () => {
    const good = file({ a: A, b: B }, 32);
    for (let at = 0; at < good.length - 32; at++) {
      for (const flip of [0x01, 0x10, 0x80]) {
        const bad = good.slice();
        bad[at] ^= flip;
        const error = await read(bad).then(
          ({ tensors }) => {
            let end = bad.length - 32;
            for (const t of tensors.values()) {
              expect(t.at).toBe(end);
              end += t.bytes;
            }
            expect(end).toBe(bad.length);
          },
          (e: unknown) => e,
        );
        if (error !== undefined) expect(error, `byte ${at}`).toBeInstanceOf(SafetensorsError);
      }
    }
  });

  it('with a long header is read only as far as it is there', async () => {
    const huge: Bytes = { ...bytesOf(file({ a: A }, 0, 200_000_000)), size: 400_000_000 };
    await expect(readSafetensors(huge)).rejects.toThrow(/header of 200000000 bytes, expected 2 to 100000000/);
  });
});

/** A folder of files, and the names that were asked for. */
function folder(files: Record<string, Uint8Array | object>): Folder & { asked: string[]; open: Folder['open'] } {
  const asked: string[] = [];
  return {
    name: 'checkpoint',
    asked,
    async open(name) {
      asked.push(name);
      if (!Object.hasOwn(files, name)) return undefined;
      const content = files[name];
      return bytesOf(content instanceof Uint8Array ? content : Buffer.from(JSON.stringify(content)), name);
    },
  };
}

const INDEX = 'model.safetensors.index.json';
const ONE = 'model-00001-of-00002.safetensors';
const TWO = 'model-00002-of-00002.safetensors';
const shardA = file({ a: A }, 24);
const shardB = file({ b: tensor('BF16', [4], 0, 8) }, 8);

describe('a checkpoint', () => {
  it('is one file, or the shards of its index', async () => {
    const single = await openCheckpoint(folder({ 'model.safetensors': file({ a: A, b: B }, 32) }));
    expect([...single.tensors.keys()]).toEqual(['a', 'b']);
    const shards = folder({ [INDEX]: { weight_map: { a: ONE, b: TWO } }, [ONE]: shardA, [TWO]: shardB });
    const { tensors } = await openCheckpoint(shards);
    expect([...tensors.values()].map((t) => [t.name, t.file.name])).toEqual([
      ['a', ONE],
      ['b', TWO],
    ]);
    expect(shards.asked).toEqual([INDEX, ONE, TWO]);
  });

  const both = { [ONE]: shardA, [TWO]: shardB };
  const REFUSED: [string, Record<string, Uint8Array | object>, RegExp][] = [
    ['no file', {}, /no model\.safetensors and no model\.safetensors\.index\.json/],
    [
      'a missing shard',
      { [INDEX]: { weight_map: { a: ONE, b: TWO } }, [ONE]: shardA },
      /no model-00002.*, which .* names/,
    ],
    [
      'a tensor that is not in its shard',
      { [INDEX]: { weight_map: { a: ONE, c: ONE } }, ...both },
      /'c' is not in model-00001/,
    ],
    [
      'a tensor in another shard',
      { [INDEX]: { weight_map: { a: TWO, b: TWO } }, ...both },
      /'a' is not in model-00002/,
    ],
    [
      'a tensor in two shards',
      { [INDEX]: { weight_map: { a: ONE, b: TWO } }, [ONE]: shardA, [TWO]: file({ a: A, b: B }, 32) },
      /'a' is in model-00002.*, expected in model-00001/,
    ],
    [
      'a tensor that the index lacks',
      { [INDEX]: { weight_map: { a: ONE } }, [ONE]: file({ a: A, b: B }, 32) },
      /not expected at all/,
    ],
    ['an index without a map', { [INDEX]: { weights: {} } }, /weight_map: expected an object/],
    ['an index that is no JSON', { [INDEX]: Buffer.from('{') }, /is not JSON/],
    ['an index that is no object', { [INDEX]: [1] }, /expected a JSON object/],
  ];
  test.each(REFUSED)('with %s is refused', async (_, files, message) => {
    const error = await openCheckpoint(folder(files)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SafetensorsError);
    expect((error as Error).message).toMatch(message);
  });

  const NAMES = [
    '../a.safetensors',
    '/a.safetensors',
    'x/a.safetensors',
    '..\\a.safetensors',
    'C:a.safetensors',
    '.safetensors',
    'a.bin',
    '',
    7,
  ];
  test.each(NAMES)('never follows the name %j out of its folder', async (name) => {
    const files = folder({ [INDEX]: { weight_map: { a: name } }, [String(name)]: shardA });
    await expect(openCheckpoint(files)).rejects.toThrow(/expected the plain name of a \.safetensors file/);
    expect(files.asked).toEqual([INDEX]);
  });

  it('closes what it opened when it fails', async () => {
    let open = 0;
    const counted: Folder = {
      name: 'checkpoint',
      async open(name) {
        const found = await folder({ [INDEX]: { weight_map: { a: ONE, b: TWO } }, [ONE]: shardA }).open(name);
        if (found === undefined) return undefined;
        open++;
        return { ...found, close: async () => void open-- };
      },
    };
    await expect(openCheckpoint(counted)).rejects.toThrow(/no model-00002/);
    expect(open).toBe(0);
  });

  it('reads only small JSON files', async () => {
    const files = folder({ 'config.json': { a: 'x'.repeat(100) } });
    expect(await readJson(files, 'config.json', 1000)).toEqual({ a: 'x'.repeat(100) });
    await expect(readJson(files, 'config.json', 50)).rejects.toThrow(/config\.json: 108 bytes, expected at most 50/);
    expect(await readJson(files, 'absent.json', 50)).toBeUndefined();
  });
});
