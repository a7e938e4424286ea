import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GgufError } from '../dist/gguf/error.js';
import { type GgufHeader, type Limits, readHeader, type TensorInfo } from '../dist/gguf/header.js';
import * as i2s from '../dist/gguf/layouts/i2_s.js';
import { decode } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import type { GgufValue } from '../dist/gguf/value.js';
import { headerBytes, type TypedMetadata, type TypedValue, typedMetadata, writeGguf } from '../dist/gguf/writer.js';
import { packedTensors } from './rewrite.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const golden = (name: string) => join(root, 'test/golden', name);

async function read(bytes: Uint8Array, limits?: Partial<Limits>): Promise<GgufHeader> {
  return readHeader(await openSource(bytes), limits);
}

/** What readHeader throws for a small file; anything but a GgufError within 100 ms of processor time fails. */
async function refusal(bytes: Uint8Array, limits?: Partial<Limits>): Promise<GgufError | undefined> {
  const before = process.cpuUsage();
  const error = await read(bytes, limits).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  const { user, system } = process.cpuUsage(before);
  if (user + system > 100_000) throw new Error(`${(user + system) / 1000} ms, expected at most 100`);
  if (error !== undefined && !(error instanceof GgufError)) throw error;
  return error;
}

// Files in pieces, put together without the code under test.

type Piece = Uint8Array | string | Piece[];

function pack(piece: Piece): Uint8Array {
  if (typeof piece === 'string') return new TextEncoder().encode(piece);
  return piece instanceof Uint8Array ? piece : new Uint8Array(Buffer.concat(piece.map(pack)));
}

const u8 = (n: number) => Uint8Array.of(n);
const u32 = (n: number) => new Uint8Array(Uint32Array.of(n).buffer);
const u64 = (n: number | bigint) => new Uint8Array(BigUint64Array.of(BigInt(n)).buffer);
const string = (text: Piece): Piece => [u64(pack(text).length), text];
const key = (name: Piece, type: number, value: Piece): Piece => [string(name), u32(type), value];
const tensor = (name: Piece, dims: (number | bigint)[], type: number, offset: number | bigint): Piece => [
  string(name),
  u32(dims.length),
  dims.map(u64),
  u32(type),
  u64(offset),
];

const ARCHITECTURE = key('general.architecture', 8, string('bitnet-b1.58'));
const A = tensor('a', [8], 0, 0);
const B = tensor('b', [128, 2], 36, 32);

interface Parts {
  start?: Piece;
  tensorCount?: number | bigint;
  keyCount?: number | bigint;
  keys?: Piece[];
  tensors?: Piece[];
  data?: number;
  alignment?: number;
}

/** By default a valid file: one key, F32 [8] and I2_S [128, 2] (32 + 96 bytes). */
function file(parts: Parts = {}): Uint8Array {
  const { start = ['GGUF', u32(3)], keys = [ARCHITECTURE], tensors = [A, B], data = 128, alignment = 32 } = parts;
  const { tensorCount = tensors.length, keyCount = keys.length } = parts;
  const header = pack([start, u64(tensorCount), u64(keyCount), keys, tensors]);
  const padding = (alignment - (header.length % alignment)) % alignment;
  return pack([header, new Uint8Array(padding), new Uint8Array(data)]);
}

const withKey = (piece: Piece) => file({ keys: [ARCHITECTURE, piece] });
const alignmentKey = (n: number) => key('general.alignment', 4, u32(n));
const ALL_ONES = 2n ** 64n - 1n;

test('a valid file', async () => {
  const header = await read(file());
  expect(header).toEqual({
    version: 3,
    alignment: 32,
    metadata: new Map([['general.architecture', 'bitnet-b1.58']]),
    metadataTypes: new Map([['general.architecture', { type: 'string', array: false }]]),
    tensors: new Map([
      ['a', { name: 'a', type: 'F32', typeId: 0, dims: [8], at: 160, bytes: 32 }],
      ['b', { name: 'b', type: 'I2_S', typeId: 36, dims: [128, 2], at: 192, bytes: 96 }],
    ]),
    dataAt: 160,
    size: 288,
    warnings: [],
  });
});

test('a value of every type', async () => {
  const long = 'Ġé漢😀 and more letters, so many that they take the way of a long string';
  const values: [string, Piece, GgufValue][] = [
    ['u8', key('u8', 0, u8(200)), 200],
    ['i8', key('i8', 1, u8(200)), -56],
    ['u16', key('u16', 2, Uint8Array.of(1, 128)), 32769],
    ['i16', key('i16', 3, Uint8Array.of(1, 128)), -32767],
    ['u32', key('u32', 4, u32(4e9)), 4e9],
    ['i32', key('i32', 5, u32(4e9)), 4e9 - 2 ** 32],
    ['f32', key('f32', 6, new Uint8Array(Float32Array.of(1e-5).buffer)), Math.fround(1e-5)],
    ['no', key('no', 7, u8(0)), false],
    ['yes', key('yes', 7, u8(1)), true],
    ['string', key('string', 8, string(long)), long],
    ['u64', key('u64', 10, u64(2n ** 53n - 1n)), 2 ** 53 - 1],
    ['big u64', key('big u64', 10, u64(ALL_ONES)), ALL_ONES],
    ['i64', key('i64', 11, u64(ALL_ONES)), -1],
    ['big i64', key('big i64', 11, u64(2n ** 63n)), -(2n ** 63n)],
    ['f64', key('f64', 12, new Uint8Array(Float64Array.of(Math.PI).buffer)), Math.PI],
    ['[u8]', key('[u8]', 9, [u32(0), u64(2), u8(1), u8(255)]), Uint8Array.of(1, 255)],
    ['[i8]', key('[i8]', 9, [u32(1), u64(2), u8(1), u8(255)]), Int8Array.of(1, -1)],
    ['[u16]', key('[u16]', 9, [u32(2), u64(1), u8(1), u8(255)]), Uint16Array.of(0xff01)],
    ['[i16]', key('[i16]', 9, [u32(3), u64(1), u8(1), u8(255)]), Int16Array.of(-255)],
    ['[u32]', key('[u32]', 9, [u32(4), u64(1), u32(4e9)]), Uint32Array.of(4e9)],
    ['[i32]', key('[i32]', 9, [u32(5), u64(1), u32(4e9)]), Int32Array.of(4e9)],
    ['[f32]', key('[f32]', 9, [u32(6), u64(1), new Uint8Array(Float32Array.of(2.5).buffer)]), Float32Array.of(2.5)],
    ['[bool]', key('[bool]', 9, [u32(7), u64(3), u8(0), u8(1), u8(0)]), [false, true, false]],
    ['[string]', key('[string]', 9, [u32(8), u64(3), string('a'), string(''), string('Ġb')]), ['a', '', 'Ġb']],
    ['[u64]', key('[u64]', 9, [u32(10), u64(1), u64(ALL_ONES)]), BigUint64Array.of(ALL_ONES)],
    ['[i64]', key('[i64]', 9, [u32(11), u64(1), u64(ALL_ONES)]), BigInt64Array.of(-1n)],
    ['[f64]', key('[f64]', 9, [u32(12), u64(1), new Uint8Array(Float64Array.of(0.1).buffer)]), Float64Array.of(0.1)],
    ['[]', key('[]', 9, [u32(8), u64(0)]), []],
    ['bom', key('bom', 8, string('\ufeffx')), '\ufeffx'],
  ];
  const header = await read(file({ keys: [ARCHITECTURE, ...values.map(([, piece]) => piece)] }));
  for (const [name, , value] of values) expect(header.metadata.get(name), name).toStrictEqual(value);
  expect(header.metadata.size).toBe(values.length + 1);
  expect(header.warnings).toEqual([]);
});

describe('odd but accepted', () => {
  test.each<[string, Uint8Array, RegExp | undefined]>([
    ['no general.architecture', file({ keys: [] }), /no string general\.architecture/],
    ['trailing bytes', file({ data: 128 + 32 }), /32 bytes after the last tensor/],
    ['no tensors', file({ tensors: [], data: 0 }), undefined],
    ['no padding after the last tensor', file({ tensors: [tensor('a', [3], 0, 0)], data: 12 }), undefined],
    ['invalid UTF-8 in a value', withKey(key('x', 8, string(u8(0xff)))), /'x': 1 not valid UTF-8/],
    ['half a character in a value', withKey(key('x', 8, string(Uint8Array.of(0xc4, 65)))), /'x': 1 not valid UTF-8/],
    ['overlong UTF-8 in a value', withKey(key('x', 8, string(Uint8Array.of(0xc0, 0x80)))), /'x': 1 not valid UTF-8/],
    [
      'invalid UTF-8 in a vocabulary',
      withKey(key('v', 9, [u32(8), u64(3), string('a'), string(u8(0xc4)), string(u8(0xa0))])),
      /'v': 2 not valid UTF-8/,
    ],
    [
      'alignment 64',
      file({ keys: [ARCHITECTURE, alignmentKey(64)], tensors: [A], alignment: 64, data: 32 }),
      undefined,
    ],
    ['a name that looks like a path', file({ tensors: [tensor('../a', [8], 0, 0)], data: 32 }), undefined],
    ['a type that is only listed', file({ tensors: [tensor('q', [256, 2], 14, 0)], data: 420 }), undefined],
  ])('%s', async (_name, bytes, warning) => {
    const { warnings } = await read(bytes);
    expect(warnings.length).toBe(warning ? 1 : 0);
    if (warning) expect(warnings[0]).toMatch(warning);
  });

  test('invalid UTF-8 becomes U+FFFD', async () => {
    const { metadata } = await read(withKey(key('x', 8, string(['a', u8(0xff), 'b']))));
    expect(metadata.get('x')).toBe('a\ufffdb');
  });

  test('keys that name parts of Object', async () => {
    const keys = ['__proto__', 'constructor.prototype.z', 'toString'];
    const header = await read(file({ keys: keys.map((name) => key(name, 8, string('polluted'))) }));
    expect([...header.metadata.keys()]).toEqual(keys);
    expect(Object.hasOwn(Object.prototype, 'z')).toBe(false);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  test('the span of a tensor that is only listed is its size', async () => {
    const { tensors } = await read(file({ tensors: [tensor('q', [256], 10, 0), tensor('a', [8], 0, 96)], data: 128 }));
    expect([...tensors.values()].map(({ type, bytes }) => [type, bytes])).toEqual([
      ['Q2_K', 96],
      ['F32', 32],
    ]);
  });
});

describe('a type id that was given twice', () => {
  const arch = (name: string) => key('general.architecture', 8, string(name));
  const fileType = (n: number) => key('general.file_type', 4, u32(n));
  const wide = alignmentKey(2 ** 16);
  /** 128 x 256: TL2 takes 8224 bytes, MXFP4 17408; 256 x 512: 30080 and 69632. */
  const t = (offset = 0, dims = [256, 128]) => tensor('t', dims, 39, offset);
  const A_AT = (offset: number) => tensor('a', [8], 0, offset);

  test.each<[string, Parts, string | undefined, number?]>([
    ['TL2 by its size', { tensors: [t(), A_AT(8224)], data: 8256 }, 'TL2', 8224],
    ['MXFP4 by its size', { tensors: [t(), A_AT(17408)], data: 17440 }, 'MXFP4', 17408],
    ['TL2 as the last', { tensors: [t()], data: 8224 }, 'TL2', 8224],
    ['MXFP4 as the last, whatever the keys say', { tensors: [t()], data: 17408 }, 'MXFP4', 17408],
    ['TL2 of odd size, padded', { keys: [alignmentKey(256)], alignment: 256, tensors: [t()], data: 8448 }, 'TL2', 8224],
    ['MXFP4 of another architecture', { keys: [arch('llama')], tensors: [t()], data: 17408 }, 'MXFP4', 17408],
    ['TL2 of another architecture', { keys: [arch('llama')], tensors: [t(0, [512, 256])], data: 30080 }, 'TL2', 30080],
    ['a row too short for TL2', { tensors: [tensor('t', [224, 2], 39, 0)], data: 256 }, 'MXFP4', 238],
    [
      'both sizes, fork',
      { keys: [ARCHITECTURE, wide], alignment: 2 ** 16, tensors: [t()], data: 2 ** 16 },
      'TL2',
      8224,
    ],
    [
      'both sizes, file type 38',
      { keys: [arch('llama'), fileType(38), wide], alignment: 2 ** 16, tensors: [t()], data: 2 ** 16 },
      'MXFP4',
      17408,
    ],
    [
      'both sizes, file type 39',
      { keys: [arch('llama'), fileType(39), wide], alignment: 2 ** 16, tensors: [t()], data: 2 ** 16 },
      'TL2',
      8224,
    ],
    ['both sizes, no key', { keys: [wide], alignment: 2 ** 16, tensors: [t()], data: 2 ** 16 }, undefined],
    ['bytes behind the last, fork', { tensors: [t()], data: 17440 + 64 }, 'TL2', 8224],
    ['bytes behind the last, file type', { keys: [fileType(38)], tensors: [t()], data: 17440 + 64 }, 'MXFP4', 17408],
    ['bytes behind the last, no key', { keys: [], tensors: [t()], data: 17440 + 64 }, undefined],
    ['MXFP4 truncated', { keys: [arch('llama'), fileType(38)], tensors: [t()], data: 17407 - 32 }, undefined],
    ['TL2 truncated', { tensors: [t()], data: 8223 }, undefined],
    ['a hole behind either', { tensors: [t(), A_AT(8256)], data: 8288 }, undefined],
    ['an overlap', { tensors: [t(), A_AT(8192)], data: 8224 }, undefined],
  ])('%s', async (_name, parts, type, size) => {
    const bytes = file(parts);
    const error = await refusal(bytes);
    if (type === undefined) {
      const span = /in (\d+) bytes/.exec(error?.message ?? '')?.[1];
      expect(error?.message).toMatch(/^bytes: tensor 't' at byte \d+: type id 39, \[256, 128\] in/);
      expect(error?.message).toMatch(/: TL2 takes 8224, MXFP4 takes 17408, which nothing decides$/);
      expect(Number(span)).toBe(parts.tensors?.length === 1 ? parts.data : Number(parts.data) - 32);
      return;
    }
    expect(error).toBeUndefined();
    expect((await read(bytes)).tensors.get('t')).toMatchObject({ type, typeId: 39, bytes: size });
  });

  test('but with a row that no type has', async () => {
    const error = await refusal(file({ tensors: [tensor('t', [100, 2], 39, 0)], data: 1000 }));
    expect(error?.message).toMatch(/100, expected a multiple of 32 \(TL2\); row length 100, .* \(MXFP4\)/);
  });
});

const nested = (depth: number): Piece => [
  ...Array.from({ length: depth }, (): Piece => [u32(9), u64(1)]),
  u32(0),
  u64(1),
  u8(0),
];
const tensors = (...list: Piece[]) => file({ tensors: list });

describe('malformed and refused', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['empty file', new Uint8Array(0), /magic at byte 0: the file ends, wanted 4 bytes, got 0/],
    ['3 bytes', file().slice(0, 3), /magic at byte 0: the file ends/],
    ['only the magic', file().slice(0, 4), /version at byte 4: the file ends/],
    ['wrong magic', file({ start: ['GGUX', u32(3)] }), /"GGUX", expected "GGUF"/],
    ['old ggml magic', file({ start: ['lmgg', u32(1)] }), /older than GGUF/],
    ['version 0', file({ start: ['GGUF', u32(0)] }), /version at byte 4: 0, expected 3/],
    ['version 1', file({ start: ['GGUF', u32(1)] }), /version at byte 4: 1, expected 3/],
    ['version 4', file({ start: ['GGUF', u32(4)] }), /version at byte 4: 4, expected 3/],
    ['big-endian', file({ start: ['GGUF', u32(0x03000000)] }), /big-endian/],
    ['2^64 - 1 tensors', file({ tensorCount: ALL_ONES }), /tensor count at byte 8/],
    ['2^40 tensors', file({ tensorCount: 2n ** 40n }), /tensor count at byte 8: 1099511627776, expected at most \d/],
    ['2^64 - 1 keys', file({ keyCount: ALL_ONES }), /key count at byte 16/],
    ['2^40 keys', file({ keyCount: 2n ** 40n }), /key count at byte 16/],
    ['key length 2^64 - 1', file({ keys: [[u64(ALL_ONES), 'abcdefghijklmnop']] }), /key 0: name length at byte 24/],
    ['key length 2^30', file({ keys: [[u64(2 ** 30), 'abcdefghijklmnop']] }), /key 0: name length at byte 24/],
    ['empty key', withKey(key('', 4, u32(1))), /key 1 at byte \d+: empty name/],
    ['duplicate key', withKey(ARCHITECTURE), /key 'general\.architecture' at byte \d+: duplicate/],
    ['NUL in a key', withKey(key('a\0b', 4, u32(1))), /control character/],
    ['invalid UTF-8 in a key', withKey(key(u8(0xff), 4, u32(1))), /name is not valid UTF-8/],
    ['value type 99', withKey(key('x', 99, u32(1))), /key 'x' at byte \d+: value type 99/],
    ['element type 77', withKey(key('x', 9, [u32(77), u64(0)])), /key 'x': element at byte \d+: value type 77/],
    ['string length 2^64 - 1', withKey(key('x', 8, u64(ALL_ONES))), /key 'x': string length/],
    [
      'string in a list longer than the file',
      withKey(key('x', 9, [u32(8), u64(2), string('a'), u64(2 ** 40)])),
      /1: string/,
    ],
    ['array length 2^63', withKey(key('x', 9, [u32(0), u64(2n ** 63n)])), /key 'x': array length/],
    ['array length 2^32 of u8', withKey(key('x', 9, [u32(0), u64(2 ** 32)])), /key 'x': array length/],
    [
      'array of f64 longer than the file',
      withKey(key('x', 9, [u32(12), u64(40)])),
      /array length .* 40, expected at most/,
    ],
    ['array nested 3 times', withKey(key('x', 9, nested(3))), /array of arrays/],
    ['array nested 5000 times', withKey(key('x', 9, nested(5000))), /array of arrays/],
    ['bool 2', withKey(key('x', 7, u8(2))), /key 'x' at byte \d+: bool 2/],
    ['bool 2 in an array', withKey(key('x', 9, [u32(7), u64(2), u8(1), u8(2)])), /element 1: bool 2/],
    ['alignment 0', withKey(alignmentKey(0)), /'general\.alignment' .* 0, expected a power of two/],
    ['alignment 13', withKey(alignmentKey(13)), /13, expected a power of two/],
    ['alignment 2^30', withKey(alignmentKey(2 ** 30)), /expected a power of two up to 1048576/],
    ['alignment 2^31', withKey(alignmentKey(2 ** 31)), /expected a power of two up to 1048576/],
    ['alignment as u64', withKey(key('general.alignment', 10, u64(32))), /type u64, expected u32/],
    ['alignment as string', withKey(key('general.alignment', 8, string('32'))), /type string, expected u32/],
    ['5 dims', tensors(tensor('a', [8, 1, 1, 1, 1], 0, 0), B), /tensor 'a' at byte \d+: 5 dims, expected 1 to 4/],
    ['2^32 - 1 dims', tensors([string('a'), u32(2 ** 32 - 1), u64(8)], B), /4294967295 dims/],
    ['0 dims', tensors(tensor('a', [], 0, 0), B), /0 dims/],
    ['a dim 0', tensors(tensor('a', [8, 0], 0, 0), B), /dims \[8, 0\]/],
    ['a dim 2^64 - 1', tensors(tensor('a', [ALL_ONES], 0, 0), B), /dims \[18446744073709552000\]/],
    ['dims 2^33 x 2^33', tensors(tensor('a', [2n ** 33n, 2n ** 33n], 0, 0), B), /at most 2\^53 weights/],
    ['dims 2^62 x 4', tensors(tensor('a', [2n ** 62n, 4], 0, 0), B), /at most 2\^53 weights/],
    ['dims that a byte count overflows', tensors(tensor('a', [2n ** 53n - 1n], 0, 0), B), /takes 3\d{16} bytes/],
    ['type 250', tensors(tensor('a', [8], 250, 0), B), /tensor 'a' at byte \d+: unknown type 250/],
    ['type 4', tensors(tensor('a', [8], 4, 0), B), /removed type 4 \(Q4_2\)/],
    ['type 31', tensors(tensor('a', [8], 31, 0), B), /removed type 31 \(Q4_0_4_4\)/],
    ['empty tensor name', tensors(tensor('', [8], 0, 0), B), /tensor 0 at byte \d+: empty name/],
    ['tensor name of 5000 letters', tensors(tensor('a'.repeat(5000), [8], 0, 0), B), /name of 5000 bytes/],
    ['tensor name length 2^64 - 1', tensors([u64(ALL_ONES), A], B), /tensor 0 at byte \d+: name of/],
    ['duplicate tensor name', tensors(A, tensor('a', [128, 2], 36, 32)), /tensor 'a' at byte \d+: duplicate/],
    ['NUL in a tensor name', tensors(tensor('a\0', [8], 0, 0), B), /control character in name "a\\u0000"/],
    ['escape in a tensor name', tensors(tensor('\x1b[2J', [8], 0, 0), B), /control character/],
    ['C1 control in a tensor name', tensors(tensor('\x9b2J', [8], 0, 0), B), /control character/],
    ['invalid UTF-8 in a tensor name', tensors(tensor(u8(0xff), [8], 0, 0), B), /name is not valid UTF-8/],
    [
      'I2_S row of 100',
      tensors(A, tensor('b', [100, 2], 36, 32)),
      /row length 100, expected a multiple of 128 \(I2_S\)/,
    ],
    ['Q8_0 row of 48', tensors(A, tensor('b', [48, 2], 8, 32)), /row length 48, expected a multiple of 32 \(Q8_0\)/],
    ['Q6_K row of 128', tensors(A, tensor('b', [128, 2], 14, 32)), /128, expected a multiple of 256 \(Q6_K\)/],
    ['TL1 row of 48', tensors(A, tensor('b', [48, 2], 38, 32)), /48, expected a multiple of 32 \(TL1\)/],
    ['TQ1_0 row of 128', tensors(A, tensor('b', [128, 2], 34, 32)), /128, expected a multiple of 256 \(TQ1_0\)/],
    ['TQ2_0 row of 128', tensors(A, tensor('b', [128, 2], 35, 32)), /128, expected a multiple of 256 \(TQ2_0\)/],
    ['Q4_0 row of 48', tensors(A, tensor('b', [48, 2], 2, 32)), /48, expected a multiple of 32 \(Q4_0\)/],
    [
      'type 38 with the size of another layout',
      file({ tensors: [tensor('b', [128, 2], 38, 0), tensor('a', [8], 0, 160)], data: 192 }),
      /offset 160, expected 96: hole after 'b', TL1 \[128, 2\], 96 bytes/,
    ],
    ['Q6_K beyond the end', tensors(A, tensor('b', [256, 2], 14, 32)), /takes 420 bytes, the file has 96 left/],
    ['full overlap', tensors(A, tensor('b', [128, 2], 36, 0)), /'b' .* offset 0, expected 32: overlap with 'a', F32/],
    ['partial overlap', tensors(tensor('a', [16], 0, 0), B), /offset 32, expected 64: overlap with 'a'/],
    ['tensors out of order', tensors(B, A), /tensor 'b' at byte \d+: offset 32, expected 0: hole/],
    ['misaligned', tensors(A, tensor('b', [128, 2], 36, 33)), /offset 33, expected a multiple of 32/],
    ['offset past the end', tensors(A, tensor('b', [128, 2], 36, 2 ** 20)), /offset 1048576, expected less than 128/],
    ['offset 2^64 - 32', tensors(A, tensor('b', [128, 2], 36, 2n ** 64n - 32n)), /expected less than 128/],
    [
      'hole',
      file({ tensors: [A, tensor('b', [128, 2], 36, 64)], data: 160 }),
      /offset 64, expected 32: hole after 'a'/,
    ],
    ['hole before the first', file({ tensors: [tensor('a', [8], 0, 32)], data: 64 }), /hole after start of the data/],
    ['data truncated', file({ data: 127 }), /'b' .* I2_S \[128, 2\] takes 96 bytes, the file has 95 left/],
    ['no data', file({ data: 0 }), /offset 0, expected less than 0/],
    ['tensor table truncated', file({ tensors: [A], tensorCount: 2, data: 0 }), /tensor (count|1) at byte/],
    ['too few bytes for a listed type', tensors(tensor('q', [2 ** 20], 12, 0)), /128 bytes, too few for Q4_K/],
    ['listed type overlapped', tensors(tensor('q', [256], 12, 0), tensor('a', [8], 0, 0)), /'q' .* 0 bytes, too few/],
    [
      'type 36 with the size of another layout',
      file({ tensors: [tensor('b', [128, 2], 36, 0), tensor('a', [8], 0, 160)], data: 192 }),
      /offset 160, expected 96: hole after 'b', I2_S \[128, 2\], 96 bytes/,
    ],
  ])('%s', async (_name, bytes, message) => {
    const error = await refusal(bytes);
    expect(error?.message).toMatch(message);
    expect(error?.message).toMatch(/^bytes: /);
    expect(error?.offset).toBeTypeOf('number');
  });
});

describe('limits', () => {
  const strings = (n: number) => withKey(key('x', 9, [u32(8), u64(n), Array.from({ length: n }, () => string(''))]));
  test.each<[string, (n: number) => Uint8Array, (n: number) => Partial<Limits>, number]>([
    ['stringBytes', (n) => withKey(key('x', 8, string('s'.repeat(n)))), (n) => ({ stringBytes: n }), 100],
    [
      'stringBytes in an array',
      (n) => withKey(key('x', 9, [u32(8), u64(1), string('s'.repeat(n))])),
      (n) => ({ stringBytes: n }),
      100,
    ],
    ['elements', strings, (n) => ({ elements: n }), 10],
    [
      'keys',
      (n) => file({ keys: Array.from({ length: n }, (_, i) => key(`${i}`, 0, u8(0))) }),
      (n) => ({ keys: n }),
      5,
    ],
    [
      'tensors',
      (n) => file({ tensors: Array.from({ length: n }, (_, i) => tensor(`${i}`, [8], 0, 32 * i)), data: 32 * n }),
      (n) => ({ tensors: n }),
      5,
    ],
    ['name bytes', (n) => file({ tensors: [tensor('a'.repeat(n), [8], 0, 0)], data: 32 }), () => ({}), 63],
    [
      'alignment',
      (n) => file({ keys: [alignmentKey(n - (n % 2))], tensors: [A], alignment: 2 ** 20, data: n % 2 ? 0 : 32 }),
      () => ({}),
      2 ** 20,
    ],
  ])('%s', async (_name, make, limits, most) => {
    expect((await refusal(make(most), limits(most)))?.message).toBeUndefined();
    expect((await refusal(make(most + 1), limits(most)))?.message).toMatch(/expected (at most|less than)/);
  });

  test('300000 tokens and 600000 merges pass', async () => {
    const tokens = Array.from({ length: 300_000 }, (_, i) => `Ġ${i}`);
    const merges = Array.from({ length: 600_000 }, (_, i) => `Ġ ${i}`);
    const bytes = writeGguf(
      [
        ['tokens', { type: 'array', of: 'string', value: tokens }],
        ['merges', { type: 'array', of: 'string', value: merges }],
      ],
      [],
    );
    const { metadata } = await read(bytes);
    expect((metadata.get('tokens') as string[]).join()).toBe(tokens.join());
    expect((metadata.get('merges') as string[]).join()).toBe(merges.join());
  });
});

// About 4 KB with every kind of piece in it.
function smallModel(): Uint8Array {
  const tokens = Array.from({ length: 60 }, (_, i) => `Ġ${i.toString(36)}é`);
  const metadata: TypedMetadata = [
    ['general.architecture', { type: 'string', value: 'bitnet-b1.58' }],
    ['general.alignment', { type: 'u32', value: 32 }],
    ['bitnet-b1.58.block_count', { type: 'u32', value: 1 }],
    ['bitnet-b1.58.rope.freq_base', { type: 'f32', value: 10000 }],
    ['big', { type: 'u64', value: 2n ** 60n }],
    ['tokenizer.ggml.tokens', { type: 'array', of: 'string', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', value: tokens.map(() => 1) }],
    ['flags', { type: 'array', of: 'bool', value: [true, false] }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: true }],
  ];
  const I2_S = i2s.encode({ weights: new Int8Array(512), scales: Float32Array.of(0.5) }, [128, 4]);
  return writeGguf(metadata, [
    { name: 'token_embd.weight', type: 'F16', dims: [16, 40], packed: new Uint8Array(1280) },
    { name: 'blk.0.attn_norm.weight', type: 'F32', dims: [16], packed: new Uint8Array(64) },
    { name: 'blk.0.attn_q.weight', type: 'I2_S', dims: [128, 4], packed: I2_S },
    { name: 'blk.0.x.weight', type: 'BF16', dims: [3, 2, 2], packed: new Uint8Array(24) },
    { name: 'output_norm.weight', type: 'F32', dims: [16], packed: new Uint8Array(64) },
  ]);
}

/** What an accepted header may be trusted with. */
function expectSound({ tensors, dataAt, size }: GgufHeader): void {
  let end = dataAt;
  for (const { at, bytes, dims } of tensors.values()) {
    if (at < end || at + bytes > size || bytes < 1 || !dims.every((d) => Number.isSafeInteger(d) && d > 0)) {
      expect.fail(`${at}, ${bytes}, ${dims}`);
    }
    end = at + bytes;
  }
}

describe('damage', () => {
  const model = smallModel();
  const expectSane = async (bytes: Uint8Array) => {
    if ((await refusal(bytes)) === undefined) expectSound(await read(bytes));
  };

  test('every truncation is refused, but for the padding at the end', async () => {
    const { tensors } = await read(model);
    const last = [...tensors.values()].at(-1);
    expect(model.length).toBeGreaterThan(3000);
    for (let n = 0; n < model.length; n++) {
      const error = await refusal(model.slice(0, n));
      if ((error === undefined) !== n >= (last ? last.at + last.bytes : 0)) expect.fail(`${n} bytes: ${error}`);
    }
  });

  test('every byte of the header changed', async () => {
    const { dataAt } = await read(model);
    let refused = 0;
    for (let at = 0; at < dataAt; at++) {
      for (const byte of [0, 0xff, model[at] ^ 1, (model[at] + 1) & 0xff]) {
        const bytes = model.slice();
        bytes[at] = byte;
        const error = await refusal(bytes);
        if (error === undefined) expectSound(await read(bytes));
        else refused++;
      }
    }
    expect(refused).toBeGreaterThan(dataAt); // lengths, types, dims, offsets: more than a quarter of all
  });

  test('random cuts, copies and changes', async () => {
    const change = fc.record({
      at: fc.nat(model.length - 1),
      from: fc.nat(model.length - 1),
      n: fc.integer({ min: 1, max: 40 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), fc.boolean(), async (changes, shift) => {
        let bytes: Uint8Array = model.slice();
        for (const { at, from, n } of changes) {
          const piece = model.subarray(from, from + n);
          bytes = shift ? pack([bytes.subarray(0, at), piece, bytes.subarray(at)]) : bytes;
          bytes.set(piece.subarray(0, Math.max(0, bytes.length - at)), Math.min(at, bytes.length));
        }
        await expectSane(bytes);
      }),
      { numRuns: 500 },
    );
  });

  test('random bytes after the magic', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), (rest) => expectSane(pack(['GGUF', u32(3), rest]))),
      { numRuns: 500 },
    );
  });
});

describe('writer', () => {
  const numbers = ['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'f32', 'f64'] as const;
  const ranges = {
    u8: fc.integer({ min: 0, max: 255 }),
    i8: fc.integer({ min: -128, max: 127 }),
    u16: fc.integer({ min: 0, max: 65535 }),
    i16: fc.integer({ min: -32768, max: 32767 }),
    u32: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    i32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    f32: fc.float(),
    f64: fc.double(),
  };
  const text = fc.string({ unit: 'grapheme', maxLength: 100 });
  const value: fc.Arbitrary<TypedValue> = fc.oneof(
    ...numbers.map((type) => ranges[type].map((value): TypedValue => ({ type, value }))),
    ...numbers.map((of) => fc.array(ranges[of]).map((value): TypedValue => ({ type: 'array', of, value }))),
    fc.bigInt(0n, ALL_ONES).map((value): TypedValue => ({ type: 'u64', value })),
    fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n).map((value): TypedValue => ({ type: 'i64', value })),
    fc.boolean().map((value): TypedValue => ({ type: 'bool', value })),
    fc.array(fc.boolean()).map((value): TypedValue => ({ type: 'array', of: 'bool', value })),
    text.map((value): TypedValue => ({ type: 'string', value })),
    fc.array(text).map((value): TypedValue => ({ type: 'array', of: 'string', value })),
  );
  /** Numbers of every kind to plain arrays and numbers, as far as they are exact. */
  const plain = (value: unknown): unknown =>
    ArrayBuffer.isView(value) ? Array.from(value as Uint8Array) : typeof value === 'bigint' ? value.toString() : value;

  test('what is written is read', async () => {
    const name = fc.stringMatching(/^[a-z._0-9]{1,63}$/);
    const metadata = fc.uniqueArray(fc.tuple(name, value), { selector: ([key]) => key });
    await fc.assert(
      fc.asyncProperty(metadata, async (entries) => {
        const header = await read(writeGguf(entries, []));
        expect([...header.metadata.keys()]).toEqual(entries.map(([key]) => key));
        for (const [key, { type, value }] of entries) {
          const got = header.metadata.get(key);
          if (type === 'u64' || type === 'i64') expect(BigInt(got as bigint)).toBe(value);
          else expect(plain(got)).toStrictEqual(plain(value));
        }
      }),
      { numRuns: 200 },
    );
  });

  test.each([...['b1.58-i2_s', 'b1.58-tl2', 'tq1_0', 'tq2_0']])(
    'golden model tiny-bitnet-%s, byte for byte',
    async (name) => {
      const bytes = new Uint8Array(readFileSync(golden(`models/tiny-bitnet-${name}.gguf`)));
      const header = await read(bytes);
      const metadata = typedMetadata(header);
      const list = packedTensors(header, bytes);
      expect(Buffer.compare(writeGguf(metadata, list), bytes)).toBe(0);
      const { bytes: start, at, size } = headerBytes(metadata, list);
      expect(Buffer.compare(start, bytes.subarray(0, header.dataAt))).toBe(0);
      expect(at).toEqual([...header.tensors.values()].map((t) => t.at));
      expect(size).toBe(bytes.length);
    },
  );

  test('general.alignment is obeyed', async () => {
    const packed = new Uint8Array(4);
    const list = ['a', 'b'].map((name) => ({ name, type: 'F32' as const, dims: [1], packed }));
    const header = await read(writeGguf([['general.alignment', { type: 'u32', value: 256 }]], list));
    expect(header.alignment).toBe(256);
    expect(header.size - header.dataAt).toBe(512);
  });

  test('refuses what does not fit', () => {
    const packed = new Uint8Array(5);
    expect(() => writeGguf([], [{ name: 'a', type: 'F32', dims: [1], packed }])).toThrow(/5 bytes, expected 4/);
    expect(() => headerBytes([], [{ name: 'a', type: 'I2_S', dims: [64] }])).toThrow(/row length 64/);
    expect(() => headerBytes([], [{ name: 'a', type: 'TL2', dims: [224, 32] }])).toThrow(
      "tensor 'a': row length 224, expected at least 256 (TL2)",
    );
    expect(() => headerBytes([], [{ name: 'a', type: 'Q4_1', dims: [256] }])).toThrow(/type Q4_1; this build reads/);
  });
});

describe('golden models', () => {
  test.each(['bitnet-b1.58', 'bitnet'])('%s', async (architecture) => {
    const source = await openSource(golden(`models/tiny-${architecture}-i2_s.gguf`));
    const { metadata, tensors, warnings } = await readHeader(source);
    expect(warnings).toEqual([]);
    expect(metadata.get('general.architecture')).toBe(architecture);
    expect([metadata.size, tensors.size]).toEqual([23, 46]);
    expect(metadata.get('tokenizer.ggml.tokens')).toHaveLength(512);
    expect((metadata.get('tokenizer.ggml.merges') as string[])[0]).toBe('e e');
    expect(metadata.get(`${architecture}.attention.layer_norm_rms_epsilon`)).toBe(Math.fround(1e-5));
    for (const { name, type, dims, at, bytes } of tensors.values()) {
      const packed = new Uint8Array(bytes);
      await source.read(at, packed);
      const values = decode(type, packed, dims, name);
      expect(values).toHaveLength(dims.reduce((a, b) => a * b, 1));
      expect(values.findIndex((v) => !Number.isFinite(v))).toBe(-1);
    }
    await source.close();
  });
});

describe('a header longer than one window', () => {
  const tokens = Array.from({ length: 60_000 }, (_, i) => (i % 1000 === 0 ? 'long '.repeat(3000) : `Ġtoken${i}漢`));
  const types = Int32Array.from(tokens, (_, i) => i % 7);
  const bytes = writeGguf(
    [
      ['tokens', { type: 'array', of: 'string', value: tokens }],
      ['types', { type: 'array', of: 'i32', value: types }],
    ],
    [{ name: 'a', type: 'F32', dims: [1], packed: new Uint8Array(4) }],
  );

  test('is read in growing pieces, each byte once', async () => {
    const source = await openSource(bytes);
    let end = 0;
    const pieces: number[] = [];
    const { metadata, tensors } = await readHeader({
      ...source,
      async read(at, dst) {
        expect(at).toBe(end);
        end += dst.length;
        pieces.push(dst.length);
        await source.read(at, dst);
      },
    });
    expect((metadata.get('tokens') as string[]).join()).toBe(tokens.join());
    expect(metadata.get('types')).toEqual(types);
    expect(tensors.get('a')?.bytes).toBe(4);
    expect(pieces.slice(0, 3)).toEqual([256 << 10, 512 << 10, 1024 << 10]);
    expect(pieces.length).toBeLessThan(6);
  });

  test('truncated anywhere is refused', async () => {
    for (let n = 0; n < bytes.length; n += 99_991) await expect(read(bytes.subarray(0, n))).rejects.toThrow(GgufError);
  });
});

test('bench/synthetic.mjs writes a model that holds what it promises', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'gguf-'));
  const write = (name: string, seed: string, embedding = 'f16', ...more: string[]) => {
    const path = join(dir, name);
    const options = ['--shape', 'tiny', '--embedding', embedding, '--seed', seed, ...more];
    execFileSync(process.execPath, ['bench/synthetic.mjs', path, ...options], { cwd: root });
    return new Uint8Array(readFileSync(path));
  };
  const bytes = write('a.gguf', '1');
  expect(Buffer.compare(write('b.gguf', '1'), bytes)).toBe(0);
  expect(Buffer.compare(write('c.gguf', '2'), bytes)).not.toBe(0);
  const files = [bytes, write('d.gguf', '1', 'q8_0'), write('e.gguf', '1', 'q6_k')];
  const sparse = write('f.gguf', '1', 'f16', '--sparse');
  rmSync(dir, { recursive: true });

  // As large; all weights are -1, all tables 0.
  expect(sparse).toHaveLength(bytes.length);
  for (const { name, type, dims, at, bytes: n } of (await read(sparse)).tensors.values()) {
    if (type === 'F32') continue;
    const [first, ...values] = decode(type, sparse.subarray(at, at + n), dims, name);
    expect(first < 0, name).toBe(type === 'I2_S');
    expect(values.every((value) => value === first)).toBe(true);
  }

  const { metadata, tensors, warnings } = await read(bytes);
  expect(warnings).toEqual([]);
  expect(tensors.size).toBe(46);
  const tokens = metadata.get('tokenizer.ggml.tokens') as string[];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  expect([tokens.length, ids.size]).toEqual([512, 512]);
  for (const merge of metadata.get('tokenizer.ggml.merges') as string[]) {
    const [left, right] = merge.split(' ');
    const id = ids.get(left + right) ?? -1;
    expect(id).toBeGreaterThan(Math.max(ids.get(left) ?? 512, ids.get(right) ?? 512));
  }
  expect(ids.get('<|begin_of_text|>')).toBe(metadata.get('tokenizer.ggml.bos_token_id'));
  const all: [TensorInfo, Uint8Array][] = [];
  for (const file of files) for (const info of (await read(file)).tensors.values()) all.push([info, file]);
  expect(all.length).toBe(3 * 46);
  for (const [{ name, type, dims, at, bytes: n }, file] of all) {
    const values = decode(type, file.subarray(at, at + n), dims, name);
    const sigma = Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
    const [least, most] = {
      F32: [0.9, 1.2],
      F16: [0.03, 0.045],
      Q8_0: [0.03, 0.045],
      Q6_K: [0.03, 0.045],
      I2_S: [0.7 / Math.sqrt(dims[0]), 1.4 / Math.sqrt(dims[0])],
    }[type as 'F32' | 'F16' | 'Q8_0' | 'Q6_K' | 'I2_S'];
    expect(sigma, name).toBeGreaterThan(least);
    expect(sigma, name).toBeLessThan(most);
  }
});
