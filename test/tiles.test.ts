import { describe, expect, test } from 'vitest';
import { readHeader } from '../dist/gguf/header.js';
import { checkTiles as checkTl1 } from '../dist/gguf/layouts/tl1.js';
import { checkTiles as checkTl2 } from '../dist/gguf/layouts/tl2.js';
import { openSource } from '../dist/gguf/source.js';
import { chooseTiles, isTiled, PRESETS, type TiledType, tilesEntry, tilesOf } from '../dist/gguf/tiles.js';
import type { GgufValue } from '../dist/gguf/value.js';
import { writeGguf } from '../dist/gguf/writer.js';

const NOTHING: ReadonlyMap<string, GgufValue> = new Map();
const CHECKS = { TL1: checkTl1, TL2: checkTl2 };
const tiles = (rows: number, cols: number, sub: number) => ({ rows, cols, sub });

test('every preset fits its shapes', () => {
  let shapes = 0;
  for (const preset of Object.values(PRESETS)) {
    for (const [type, table] of Object.entries(preset)) {
      for (const [shape, given] of Object.entries(table)) {
        const [rows, cols] = shape.split('x').map(Number);
        expect(CHECKS[type as TiledType](given, [cols, rows], shape)).toBe(given);
        shapes++;
      }
    }
  }
  expect(shapes).toBe(3 * 2 + 3 * 2 + 4 * 2 + 4 + 4);
});

test('a shape of a preset is found in it', () => {
  const large = { tiles: tiles(128, 192, 32), origin: 'preset bitnet_b1_58-large' };
  expect(tilesOf('TL2', [1536, 1536], NOTHING, 'x')).toEqual(large);
  // The set-up script's, not the shipped ones.
  const llama = { tiles: tiles(256, 128, 32), origin: 'preset Llama3-8B' };
  expect(tilesOf('TL1', [4096, 14336], NOTHING, 'x')).toEqual(llama);
  expect(tilesOf('TL1', [4096, 14336], NOTHING, 'x', 'Llama3-8B-shipped')).toEqual({
    ...{ tiles: tiles(256, 128, 64), origin: 'option' },
  });
});

test('what the file says goes before presets, what the user says before both', async () => {
  const own = tiles(64, 96, 32);
  const bytes = writeGguf([tilesEntry(128, 256, own)], []);
  const { metadata } = await readHeader(await openSource(bytes));
  expect(tilesOf('TL2', [256, 128], metadata, 'x')).toEqual({ tiles: own, origin: 'file' });
  expect(tilesOf('TL2', [256, 64, 2], metadata, 'x').origin).toBe('file'); // rows of all matrices
  expect(tilesOf('TL2', [512, 256], metadata, 'x').origin).toBe('preset tiny');
  const given = tiles(32, 192, 32);
  for (const option of [given, { '128x256': given }]) {
    expect(tilesOf('TL2', [256, 128], metadata, 'x', option)).toEqual({ tiles: given, origin: 'option' });
  }
  expect(tilesOf('TL2', [256, 128], metadata, 'x', 'tiny').tiles).toEqual(tiles(128, 96, 32));
});

describe('refused', () => {
  test('a shape that nobody knows', () => {
    expect(() => tilesOf('TL2', [2560, 6912], NOTHING, "m.gguf: tensor 'x'")).toThrow(
      "m.gguf: tensor 'x': the tile parameters BM, BK and bm of TL2 6912x2560 are not in the file, and no preset has that shape; " +
        "give them with the option 'layout' (--layout): a preset (bitnet_b1_58-large, bitnet_b1_58-3B, Llama3-8B, tiny) or BM, " +
        'BK and bm of each shape',
    );
    expect(() => tilesOf('TL1', [256, 128], NOTHING, 'x')).toThrow('of TL1 128x256 are not in the file');
  });

  test.each<[string, GgufValue]>([
    ['a number', 96],
    ['two numbers', Uint32Array.of(128, 96)],
    ['signed numbers', Int32Array.of(128, 96, 32)],
  ])('%s in the file', (_name, value) => {
    expect(() => tilesOf('TL2', [256, 128], new Map([['ternlm.tiles.128x256', value]]), 'x')).toThrow(
      "x: key 'ternlm.tiles.128x256': expected an array of three u32: BM, BK, bm",
    );
  });

  test('tiles that do not fit', () => {
    const metadata = new Map([['ternlm.tiles.128x256', Uint32Array.of(96, 96, 32)]]);
    expect(() => tilesOf('TL2', [256, 128], metadata, 'x')).toThrow(
      "x: key 'ternlm.tiles.128x256': M 128, K 256, BM 96, BK 96, bm 32: expected M a multiple of BM (TL2)",
    );
    expect(() => tilesOf('TL2', [256, 128], NOTHING, 'x', tiles(128, 64, 32))).toThrow('expected BK a multiple of 96');
    expect(() => tilesOf('TL2', [736, 32], NOTHING, 'x', tiles(32, 384, 32))).toThrow('expected K mod BK at most 256');
  });

  test('options that do not say it', () => {
    const of = (type: TiledType, option: Parameters<typeof tilesOf>[4]) => () =>
      tilesOf(type, [1536, 4096], NOTHING, 'x', option);
    expect(of('TL2', 'falcon')).toThrow(
      "x: option 'layout': preset 'falcon' is none of bitnet_b1_58-large, bitnet_b1_58-3B, Llama3-8B, tiny",
    );
    expect(of('TL2', 'toString')).toThrow("preset 'toString' is none of");
    expect(of('TL1', 'Llama3-8B')).toThrow("x: option 'layout': preset 'Llama3-8B' has no TL1 4096x1536");
    expect(of('TL1', { '1x2': tiles(1, 1, 1), '3x4': tiles(1, 1, 1) })).toThrow(
      "x: option 'layout': no tile parameters for 4096x1536, only for 1x2, 3x4",
    );
  });
});

describe('for a new tensor', () => {
  test.each<[TiledType, number, number, ReturnType<typeof tiles>]>([
    ['TL1', 3200, 3200, tiles(320, 128, 64)],
    ['TL2', 1536, 1536, tiles(128, 192, 32)],
    ['TL1', 6912, 2560, tiles(256, 128, 32)],
    ['TL2', 6912, 2560, tiles(256, 96, 32)],
    ['TL2', 640, 2560, tiles(160, 96, 32)],
    ['TL1', 2560, 8640, tiles(256, 64, 32)],
    ['TL2', 32, 256, tiles(32, 96, 32)],
  ])('%s %i x %i', (type, rows, cols, expected) => {
    expect(chooseTiles(type, rows, cols)).toEqual(expected);
    expect(CHECKS[type](expected, [cols, rows], 'x')).toBe(expected);
  });

  test('that cannot be cut', () => {
    expect(() => chooseTiles('TL2', 100, 2560)).toThrow('100x2560: 100 rows, expected a multiple of 32 (TL2)');
    expect(() => chooseTiles('TL2', 128, 272)).toThrow('128x272: row length 272, expected a multiple of 32 (TL2)');
    expect(() => chooseTiles('TL2', 128, 224)).toThrow('128x224: row length 224, expected at least 256 (TL2)');
    expect(() => chooseTiles('TL1', 128, 288)).toThrow('128x288: row length 288, expected a multiple of 64 (TL1)');
  });
});

test('only TL1 and TL2 are in tiles', () => {
  expect((['TL1', 'TL2', 'I2_S', 'TQ1_0', 'F16', 'MXFP4'] as const).map(isTiled)).toEqual([
    ...[true, true, false, false, false, false],
  ]);
});
