import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GgufError } from '../dist/gguf/error.js';
import { readHeader } from '../dist/gguf/header.js';
import { f16Value } from '../dist/gguf/layouts/f16.js';
import * as i2s from '../dist/gguf/layouts/i2_s.js';
import { readScale, type Ternary, type Tiles } from '../dist/gguf/layouts/ternary.js';
import * as tl1 from '../dist/gguf/layouts/tl1.js';
import * as tl2 from '../dist/gguf/layouts/tl2.js';
import * as tq10 from '../dist/gguf/layouts/tq1_0.js';
import * as tq20 from '../dist/gguf/layouts/tq2_0.js';
import { decode, TERNARY, type TernaryType } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import { chooseTiles, isTiled, tilesOf } from '../dist/gguf/tiles.js';
import { random } from './random.js';

const packing = fileURLToPath(new URL('golden/packing/', import.meta.url));
const bytesOf = (name: string) => new Uint8Array(readFileSync(packing + name));
const weightsFile = (name: string) => new Int8Array(bytesOf(name).buffer);
const floatsOf = (name: string) => new Float32Array(bytesOf(name).buffer);
const same = (a: ArrayBufferView, b: ArrayBufferView) =>
  Buffer.compare(
    new Uint8Array(a.buffer, a.byteOffset, a.byteLength),
    new Uint8Array(b.buffer, b.byteOffset, b.byteLength),
  ) === 0;
const TYPES = Object.keys(TERNARY) as TernaryType[];
const isTq = (type: TernaryType) => type === 'TQ1_0' || type === 'TQ2_0';

/** [n] of -1, 0 and 1. */
function randomWeights(n: number, seed: number): Int8Array {
  const r = random(seed);
  const base = Int8Array.from({ length: Math.min(n, 100_003) }, () => r.below(3) - 1); // a prime: no row is like another
  const weights = new Int8Array(n);
  for (let i = 0; i < n; i += base.length) weights.set(base.subarray(0, n - i), i);
  return weights;
}

describe('matrices that the packers of bitnet.cpp packed', () => {
  const names = readdirSync(packing).filter((name) => /^(i2_s|tl1|tl2)_.*\.packed$/.test(name));

  test('are nine', () => expect(names).toHaveLength(9));

  test.each(names)('%s', (name) => {
    const [, stem, rows, cols, bm, bk, sub] =
      /^([a-z0-9_]+?)_(\d+)x(\d+)(?:_BM(\d+)_BK(\d+)_bm(\d+))?/.exec(name) ?? [];
    const layout = TERNARY[stem.toUpperCase() as TernaryType];
    const dims = [Number(cols), Number(rows)];
    const tiles = bm === undefined ? undefined : { rows: Number(bm), cols: Number(bk), sub: Number(sub) };
    // Those in tiles come without scale, and TL2 without what fills up its last 32 bytes.
    const packed = new Uint8Array(layout.sizeBytes(dims));
    const file = bytesOf(name);
    expect(packed.length - file.length).toBeLessThanOrEqual(tiles === undefined ? 0 : 63);
    packed.set(file);
    new DataView(packed.buffer).setFloat32(packed.length - 32, 0.5, true);

    const ternary = layout.unpack(packed, dims, 'x', tiles);
    expect(ternary.scales).toEqual(Float32Array.of(0.5));
    if (name === 'i2_s_640x2560_scale0.5.packed') {
      const hash = createHash('sha256').update(ternary.weights).digest('hex');
      expect(hash).toBe('842f022193c35293618a992ac0e97381729c809d9124b56f44df12fa28b86b33');
    } else {
      expect(same(ternary.weights, weightsFile(name.replace('.packed', '.w_i8')))).toBe(true);
    }
    const values = layout.decode(packed, dims, 'x', tiles);
    expect(values.findIndex((v, i) => v !== ternary.weights[i] * 0.5)).toBe(-1);
    expect(same(layout.encode(ternary, dims, tiles), packed)).toBe(true);
  });
});

describe.each(['TQ1_0', 'TQ2_0'] as const)('%s', (type) => {
  test('is packed and read as by gguf-py', () => {
    const packed = bytesOf(`${type.toLowerCase()}_4_blocks.packed`);
    const ternary = TERNARY[type].unpack(packed, [512, 2], 'x');
    expect([...ternary.scales]).toEqual([0.5, f16Value(0x211f), 3, 2 ** -20]);
    expect(TERNARY[type].decode(packed, [512, 2], 'x')).toEqual(floatsOf(`${type.toLowerCase()}_4_blocks.f32`));
    expect(TERNARY[type].encode(ternary, [512, 2])).toEqual(packed);
  });

  test('rounds scales to F16 and takes one for all blocks', () => {
    const weights = randomWeights(512, 1);
    const { blocks, encode, unpack } = { ...TERNARY[type], blocks: type === 'TQ1_0' ? tq10.blocks : tq20.blocks };
    const scalesOf = (...scales: number[]) =>
      unpack(encode({ weights, scales: Float32Array.from(scales) }, [256, 2]), [256, 2], 'x').scales;
    expect(scalesOf(1 / 3)).toEqual(Float32Array.of(f16Value(0x3555), f16Value(0x3555)));
    expect(scalesOf(0, -2)).toEqual(Float32Array.of(0, -2));
    for (const scale of [Number.NaN, Infinity, -Infinity, 65520, 2 ** -26]) {
      expect(() => scalesOf(1, scale)).toThrow(`block 1: scale ${Math.fround(scale)}, expected what an f16 holds`);
    }
    expect(() => scalesOf(1, 2, 3)).toThrow(`3 scales, expected 1 or 2 (${type})`);
    for (const [bits, scale] of [
      [0x7c00, 'Infinity'],
      [0xfe00, 'NaN'],
    ] as const) {
      const bad = encode({ weights, scales: Float32Array.of(1) }, [256, 2]);
      bad.set([bits & 255, bits >> 8], blocks.bytes + blocks.scaleAt);
      expect(() => unpack(bad, [256, 2], 'x')).toThrow(
        `x: block 1: scale ${scale}, expected a finite number (${type})`,
      );
    }
  });
});

describe('TQ1_0 bytes', () => {
  const packed = bytesOf('tq1_0_all_bytes.packed');

  test('all decode as by gguf-py', () => {
    expect(tq10.decode(packed, [1280], 'x')).toEqual(floatsOf('tq1_0_all_bytes.f32'));
  });

  test('that five trits do not encode to are found', () => {
    const NONE = [1, 20, 40, 60, 79, 99, 119, 138, 158, 178, 197, 217, 237];
    const codes = new Set(Array.from({ length: 243 }, (_, q) => Math.ceil((q * 256) / 243)));
    const fours = new Set(Array.from({ length: 81 }, (_, q) => Math.ceil((3 * q * 256) / 243)));
    expect([...Array(256).keys()].filter((byte) => !codes.has(byte))).toEqual(NONE);
    const good = tq10.encode({ weights: randomWeights(768, 2), scales: Float32Array.of(1) }, [768]);
    good.set([1, 20], 54 + 52); // a scale may hold them
    expect(tq10.checkTrits(good)).toBe(-1);
    for (let byte = 0; byte < 256; byte++) {
      for (const [place, allowed] of [
        [54, codes],
        [54 + 47, codes],
        [54 + 48, fours],
        [2 * 54 + 51, fours],
      ] as const) {
        const bad = good.slice();
        bad[place] = byte;
        expect(tq10.checkTrits(bad)).toBe(allowed.has(byte) ? -1 : place);
        expect(tq10.checkTrits(bad.subarray(50), 50)).toBe(allowed.has(byte) ? -1 : place - 50);
      }
    }
  });
});

describe('the same weights in other files', () => {
  test.each([
    ['tiny-bitnet-b1.58-tl2', 'tiny-bitnet-b1.58-i2_s', 'TL2'],
    ['tiny-bitnet-tq1_0', 'tiny-bitnet-i2_s', 'TQ1_0'],
    ['tiny-bitnet-tq2_0', 'tiny-bitnet-i2_s', 'TQ2_0'],
  ] as const)('%s', async (name, twin, expected) => {
    const [file, other] = [name, twin].map((n) => fileURLToPath(new URL(`golden/models/${n}.gguf`, import.meta.url)));
    const read = async (path: string) => {
      const bytes = new Uint8Array(readFileSync(path));
      const header = await readHeader(await openSource(bytes));
      expect(header.warnings).toEqual([]);
      return { bytes, header };
    };
    const [a, b] = [await read(file), await read(other)];
    expect([...a.header.tensors.keys()]).toEqual([...b.header.tensors.keys()]);
    let ternary = 0;
    for (const tensor of a.header.tensors.values()) {
      const values = (of: typeof a) => {
        const { type, at, bytes, dims } = of.header.tensors.get(tensor.name) ?? tensor;
        const found = isTiled(type) ? tilesOf(type, dims, of.header.metadata, tensor.name) : undefined;
        if (found) expect(found.origin).toBe('preset tiny');
        return decode(type, of.bytes.subarray(at, at + bytes), dims, tensor.name, found?.tiles);
      };
      expect([tensor.name, same(values(a), values(b))]).toEqual([tensor.name, true]);
      if (tensor.type === expected) ternary++;
    }
    expect(ternary).toBe(28);
  });
});

/** MxK of the matrices of every ternary model that there is. */
const SHAPES: Readonly<Record<string, string>> = {
  'BitNet-b1.58-2B-4T': '2560x2560 640x2560 6912x2560 2560x6912',
  'bitnet_b1_58-large': '1536x1536 4096x1536 1536x4096',
  'bitnet_b1_58-3B': '3200x3200 8640x3200 3200x8640',
  'Llama3-8B-1.58': '4096x4096 1024x4096 14336x4096 4096x14336',
  'Falcon3-1B': '2048x2048 1024x2048 8192x2048 2048x8192',
  'Falcon3-3B': '3072x3072 1024x3072 9216x3072 3072x9216',
  'Falcon3-7B, 10B': '23040x3072 3072x23040',
  'BitNet-embedding-0.6B': '2048x1024 1024x1024 1024x2048 3072x1024 1024x3072',
  'BitNet-embedding-270M': '1024x640 256x640 640x1024 2048x640 640x2048',
};
/** Row lengths that a layout cannot hold. */
const REFUSED: Readonly<Record<TernaryType, readonly number[]>> = {
  ...{ I2_S: [8640], TL1: [], TL2: [], TQ1_0: [3200, 8640, 640], TQ2_0: [3200, 8640, 640] },
};

describe.each(TYPES)('%s, there and back', (type) => {
  const layout = TERNARY[type];
  const scales = (n: number) =>
    isTq(type) ? Float32Array.from({ length: n / 256 }, (_, i) => i / 64) : Float32Array.of(0.1);

  test.each(Object.keys(SHAPES))('%s', (model) => {
    for (const shape of SHAPES[model].split(' ')) {
      const [allRows, cols] = shape.split('x').map(Number);
      // The tiles are those of the whole matrix; two of them below each other are as good as all.
      const tiles = isTiled(type) ? chooseTiles(type, allRows, cols) : undefined;
      const rows = tiles === undefined ? 3 : Math.min(2 * tiles.rows, allRows);
      const weights = randomWeights(rows * cols, rows + cols);
      if (REFUSED[type].includes(cols)) {
        const message = `row length ${cols}, expected a multiple of ${layout.rowMultiple} (${type})`;
        expect(() => layout.encode({ weights, scales: Float32Array.of(1) }, [cols, rows], tiles)).toThrow(message);
        continue;
      }
      const ternary = { weights, scales: scales(rows * cols) };
      const packed = layout.encode(ternary, [cols, rows], tiles);
      expect(packed.length).toBe(layout.sizeBytes([cols, rows]));
      const back = layout.unpack(packed, [cols, rows], 'x', tiles);
      expect([shape, same(back.weights, weights)]).toEqual([shape, true]);
      expect(back.scales).toEqual(ternary.scales);
    }
  });

  test('tensors of any dims, tiles and scale', () => {
    const shape = fc.record({
      rows: fc.integer({ min: 1, max: 3 }),
      matrices: fc.integer({ min: 1, max: 2 }),
      wide: fc.integer({ min: 1, max: 5 }),
      tall: fc.integer({ min: 1, max: 4 }),
      cols: fc.constantFrom(96, 192, 32, 64, 128),
      sub: fc.constantFrom(32, 64),
      scale: fc.float({ min: 2 ** -20, max: 8, noNaN: true }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(shape, ({ rows, matrices, wide, tall, cols, sub: wanted, scale, seed }) => {
        const sub = type === 'TL2' ? 32 : wanted;
        const width = type === 'TL2' ? 96 * Math.ceil(cols / 96) : cols;
        const tiles = isTiled(type) ? { rows: tall * sub, cols: width, sub } : undefined;
        const k = type === 'TL2' ? 256 + 32 * wide : tiles !== undefined ? width * wide : layout.rowMultiple * wide;
        const dims = [k, rows * (tiles?.rows ?? 1), matrices];
        const n = dims.reduce((a, b) => a * b, 1);
        const ternary: Ternary = {
          weights: randomWeights(n, seed),
          scales: isTq(type) ? scales(n) : Float32Array.of(scale),
        };
        const packed = layout.encode(ternary, dims, tiles);
        const unaligned = new Uint8Array(packed.length + 1).subarray(1);
        unaligned.set(packed);
        for (const bytes of [packed, unaligned]) {
          const back = layout.unpack(bytes, dims, 'x', tiles);
          if (!same(back.weights, ternary.weights) || !same(back.scales, ternary.scales)) return false;
        }
        return same(layout.decode(packed, dims, 'x', tiles), decode(type, packed, dims, 'x', tiles));
      }),
      { numRuns: 25 },
    );
  });

  test('refuses what it cannot pack', () => {
    const tiles = type === 'TL2' ? { rows: 32, cols: 96, sub: 32 } : { rows: 32, cols: 128, sub: 32 };
    const dims = [256, 32];
    const one = Float32Array.of(1);
    for (const wrong of [-128, -2, 2, 127]) {
      const weights = new Int8Array(8192).fill(wrong, 5, 6);
      const message = `weight 5 is ${wrong}, expected -1, 0 or 1 (${type})`;
      expect(() => layout.encode({ weights, scales: one }, dims, tiles)).toThrow(message);
    }
    const short = { weights: new Int8Array(8191), scales: one };
    expect(() => layout.encode(short, dims, tiles)).toThrow(`8191 weights, expected those of [256, 32] (${type})`);
    if (isTq(type)) return;
    const weights = new Int8Array(8192);
    for (const scale of [Number.NaN, Infinity, -Infinity, 0, -0, -0.5]) {
      const packed = layout.encode({ weights, scales: one }, dims, tiles);
      new DataView(packed.buffer).setFloat32(packed.length - 32, scale, true);
      const message = `x: scale ${scale}, expected a finite number above 0 (${type})`;
      expect(() => layout.decode(packed, dims, 'x', tiles)).toThrow(message);
      expect(() => layout.encode({ weights, scales: Float32Array.of(scale) }, dims, tiles)).toThrow(
        `scale ${scale}, expected a finite f32 above 0 (${type})`,
      );
    }
    const two = { weights, scales: Float32Array.of(1, 1) };
    expect(() => layout.encode(two, dims, tiles)).toThrow(`2 scales, expected one for the tensor (${type})`);
  });
});

test.each(TYPES)('%s: random bytes are refused or give -1, 0 and 1', (type) => {
  const layout = TERNARY[type];
  const dims = [512, 32];
  const tiles = { rows: 32, cols: type === 'TL2' ? 96 : 128, sub: 32 };
  const valid = layout.encode({ weights: randomWeights(512 * 32, 5), scales: Float32Array.of(1) }, dims, tiles);
  let accepted = 0;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 8 }), (changes) => {
      const bytes = valid.slice();
      for (const [at, byte] of changes) bytes[at] = byte;
      try {
        const { weights } = layout.unpack(bytes, dims, 'x', tiles);
        if (weights.some((w) => w < -1 || w > 1)) return false;
        accepted++;
      } catch (error) {
        if (!(error instanceof GgufError) || !/^x: .*expected/.test(error.message)) throw error;
      }
      return true;
    }),
    { numRuns: 200 },
  );
  expect(accepted).toBeGreaterThan(0);
});

test('a scale names its byte', () => {
  expect(() => readScale('TL1', new Uint8Array(32), 'x', 77)).toThrow(expect.objectContaining({ offset: 77 }));
});

test.each(['I2_S', 'TQ2_0'] as const)('%s refuses code 3 and names its place', (type) => {
  const layout = TERNARY[type];
  const dims = [512, 4];
  const packed = layout.encode({ weights: randomWeights(2048, 3), scales: Float32Array.of(1) }, dims);
  for (const [row, column] of [
    ...[
      [0, 0],
      [0, 31],
      [0, 32],
      [1, 127],
      [1, 128 + 70],
      [3, 256],
      [3, 511],
    ],
  ]) {
    const bad = packed.slice();
    const index = 512 * row + column;
    const block = index >> 7;
    const quarter = (index >> 5) & 3;
    const at = 32 * block + (index & 31) + (type === 'TQ2_0' ? 2 * (block >> 1) : 0);
    bad[at] |= 3 << (type === 'TQ2_0' ? 2 * quarter : 6 - 2 * quarter);
    const message = `x: row ${row}, column ${column}: code 3, expected 0, 1 or 2 (${type})`;
    expect(() => layout.unpack(bad, dims, 'x')).toThrow(message);
    expect(() => layout.decode(Uint8Array.of(0, ...bad).subarray(1), dims, 'x')).toThrow(message);
    if (type === 'I2_S') {
      expect(i2s.checkCodes(bad.subarray(0, 512))).toBe(at);
      expect(i2s.checkCodes(Uint8Array.of(0, ...bad).subarray(1, 513))).toBe(at);
    }
  }
  if (type === 'I2_S') expect(i2s.checkCodes(packed.subarray(0, 512))).toBe(-1);
});

describe('tiles that do not fit', () => {
  const weights = new Int8Array(64 * 512);
  const tryTiles = (type: 'TL1' | 'TL2', dims: number[], tiles: Partial<Tiles>) => {
    const given = { rows: 64, cols: 96, sub: 32, ...tiles };
    expect(() => TERNARY[type].unpack(new Uint8Array(0), dims, 'x', given)).toThrow(/^x: M/);
    TERNARY[type].encode({ weights, scales: Float32Array.of(1) }, dims, given);
  };

  test.each<['TL1' | 'TL2', number[], Partial<Tiles>, string]>([
    ['TL1', [512, 64], { cols: 128, sub: 16 }, 'M 64, K 512, BM 64, BK 128, bm 16: expected bm 32 or 64 (TL1)'],
    ['TL1', [512, 64], { rows: 32, cols: 128, sub: 64 }, 'BM 32, BK 128, bm 64: expected BM a multiple of bm'],
    ['TL1', [512, 64], { cols: 40 }, 'expected BK a multiple of 32'],
    ['TL1', [512, 64], { rows: 96, cols: 128 }, 'M 64, K 512, BM 96, BK 128, bm 32: expected M a multiple of BM'],
    ['TL1', [512, 64], { cols: 96 }, 'M 64, K 512, BM 64, BK 96, bm 32: expected K a multiple of BK'],
    ['TL1', [512, 64], { cols: 0 }, 'BK 0, bm 32: expected whole numbers above 0'],
    ['TL2', [512, 64], { rows: 32.5 }, 'BM 32.5, BK 96, bm 32: expected whole numbers above 0'],
    ['TL2', [512, 64], { sub: 64 }, 'M 64, K 512, BM 64, BK 96, bm 64: expected bm 32 (TL2)'],
    ['TL2', [512, 64], { rows: 48 }, 'BM 48, BK 96, bm 32: expected BM a multiple of bm'],
    ['TL2', [512, 64], { cols: 128 }, 'expected BK a multiple of 96'],
    ['TL2', [512, 64], { rows: 96 }, 'M 64, K 512, BM 96, BK 96, bm 32: expected M a multiple of BM'],
    ['TL2', [272, 64], {}, 'M 64, K 272, BM 64, BK 96, bm 32: expected K a multiple of 32'],
    ['TL2', [224, 64], {}, 'M 64, K 224, BM 64, BK 96, bm 32: expected K at least 256'],
  ])('%s %j %j', (type, dims, tiles, message) => {
    expect(() => tryTiles(type, dims, tiles)).toThrow(message);
  });

  test('none at all', () => {
    for (const type of ['TL1', 'TL2'] as const) {
      const message = `tile parameters BM, BK and bm of [512, 64] not given (${type})`;
      expect(() => TERNARY[type].decode(new Uint8Array(0), [512, 64], 'x')).toThrow(`x: ${message}`);
      expect(() => TERNARY[type].encode({ weights, scales: Float32Array.of(1) }, [512, 64])).toThrow(message);
    }
  });
});

describe('broken codes', () => {
  const dims = [512, 64];
  const ternary = { weights: randomWeights(512 * 64, 4), scales: Float32Array.of(1) };
  const why = 'the tile parameters do not fit the file, or its data is broken';

  test('TL1', () => {
    const tiles = { rows: 64, cols: 128, sub: 32 };
    const packed = tl1.encode(ternary, dims, tiles);
    // The third strip is of tile column 1; byte 37 of it: rows 16 to 31, its row 5, columns 0 to 3.
    for (const [byte, column, index] of [
      [0x93, 128, 9],
      [0x4f, 130, 15],
    ]) {
      const bad = packed.slice();
      bad[2 * 1024 + 37] = byte;
      expect(() => tl1.unpack(bad, dims, 'x', tiles)).toThrow(
        `x: row 21, column ${column}: index ${index}, expected at most 8: ${why} (TL1, M 64, K 512, BM 64, BK 128, bm 32)`,
      );
    }
  });

  test('TL2', () => {
    const tiles = { rows: 64, cols: 96, sub: 32 };
    const packed = tl2.encode(ternary, dims, tiles);
    const text = 'TL2, M 64, K 512, BM 64, BK 96, bm 32';
    const broken = (at: number, byte: number) => {
      const bad = packed.slice();
      bad[at] = byte;
      return () => tl2.unpack(bad, dims, 'x', tiles);
    };
    // 480 columns in triples, 16 bytes of indices for 96 of a row; strip 3 is the second of tile column 1. Byte 3 * 32 + 9 of
    // it: columns 18 to 23 of its row 16 + 1.
    const at = 3 * 512 + 3 * 32 + 9;
    expect(broken(at, 0xe0)).toThrow(`x: row 49, column 114: index 14, expected at most 13: ${why} (${text})`);
    expect(broken(at, 0x0f)).toThrow(`x: row 49, column 117: index 15, expected at most 13: ${why} (${text})`);
    const pairsAt = (64 * 480) / 6 + (64 * 480) / 24;
    expect(broken(pairsAt + 256 + 2 * 32 + 31, 0x19)).toThrow(
      `x: row 63, column 490: index 9, expected at most 8: ${why} (${text})`,
    );
    const end = pairsAt + (64 * 32) / 4;
    expect(broken(end, 7)).toThrow(`x: byte ${end} of the tensor is 7, expected 0: padding behind the codes (${text})`);
    expect(broken(packed.length - 33, 1)).toThrow(`byte ${packed.length - 33} of the tensor is 1, expected 0`);
    expect(broken(packed.length - 1, 1)()).toEqual(ternary); // nothing is said of the bytes behind the scale
  });

  test('TL2 takes a sign on three zeros', () => {
    const tiles = { rows: 32, cols: 96, sub: 32 };
    const zeros = { weights: new Int8Array(32 * 288), scales: Float32Array.of(1) };
    const packed = tl2.encode(zeros, [288, 32], tiles);
    packed.fill(0xff, (32 * 288) / 6, (32 * 288) / 6 + (32 * 288) / 24);
    expect(tl2.unpack(packed, [288, 32], 'x', tiles)).toEqual(zeros);
  });

  test('TL2 read with the tiles of another split between triples and pairs', () => {
    const wide = { rows: 64, cols: 192, sub: 32 };
    expect(() => tl2.unpack(tl2.encode(ternary, dims, wide), dims, 'x', { ...wide, cols: 96 })).toThrow(why);
  });
});
