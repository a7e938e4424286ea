// The tiles of TL1 and TL2 tensors (BM, BK, bm: layouts/tl1.ts, tl2.ts), which are those of the kernels that a file was made
// for and stand nowhere in it, unless this package wrote the file:
//
//   key 'ternlm.tiles.<M>x<K>': u32 [BM, BK, bm], for all TL1 or TL2 tensors of M rows and K columns
import { GgufError } from './error.ts';
import { rowsOf, type Tiles } from './layouts/ternary.ts';
import { checkTiles as checkTl1 } from './layouts/tl1.ts';
import { checkTiles as checkTl2 } from './layouts/tl2.ts';
import { rowFault, type TensorType } from './layouts.ts';
import type { GgufValue } from './value.ts';
import type { TypedValue } from './writer.ts';

/** Types in tiles. */
export type TiledType = 'TL1' | 'TL2';

/** Tiles by shape: "MxK", as '1536x4096'. */
export type TileTable = Readonly<Record<string, Tiles>>;

/** What a user may say of a file: the name of a preset, the tiles of each shape, or the same for every shape. */
export type TilesOption = string | TileTable | Tiles;

/** Tiles, and where they were found. */
export interface FoundTiles {
  readonly tiles: Tiles;
  /** 'file', 'option' or 'preset NAME'. */
  readonly origin: string;
}

/** 'MxK BM BK bm' of each shape. */
function table(...rows: string[]): TileTable {
  return Object.fromEntries(
    rows.map((row) => {
      const [shape, ...numbers] = row.split(' ');
      const [rows, cols, sub] = numbers.map(Number);
      return [shape, { rows, cols, sub }];
    }),
  );
}

/**
 * What bitnet.cpp's set-up script (setup_env.py of microsoft/BitNet, main of July 2026) generates kernels for, and
 * 'Llama3-8B-shipped', the TL1 kernels that lie ready in its repository (preset_kernels/). Falcon3 and Falcon-E models were set up with the shapes of Llama3-8B, BitNet-b1.58-2B-4T with those of the 3B
 * model, which fit none of its own. 'tiny' is the shapes of our test models.
 *
 * Where two presets have a shape, the first counts: all TL1 tiles allow the same bytes, so that a tensor does not tell.
 */
export const PRESETS: Readonly<Record<string, Readonly<Partial<Record<TiledType, TileTable>>>>> = {
  'bitnet_b1_58-large': {
    TL1: table('1536x4096 256 128 32', '1536x1536 128 64 64', '4096x1536 256 128 32'),
    TL2: table('1536x4096 256 96 32', '1536x1536 128 192 32', '4096x1536 256 96 32'),
  },
  'bitnet_b1_58-3B': {
    TL1: table('3200x8640 160 64 32', '3200x3200 320 128 64', '8640x3200 320 64 32'),
    TL2: table('3200x8640 160 96 32', '3200x3200 320 96 32', '8640x3200 320 96 32'),
  },
  'Llama3-8B': {
    TL1: table('14336x4096 256 128 32', '4096x14336 128 64 64', '1024x4096 256 128 32', '4096x4096 128 64 64'),
    TL2: table('14336x4096 256 96 32', '4096x14336 128 96 32', '1024x4096 256 96 32', '4096x4096 128 96 32'),
  },
  'Llama3-8B-shipped': {
    TL1: table('14336x4096 256 128 64', '4096x14336 256 128 32', '1024x4096 128 64 64', '4096x4096 128 64 32'),
  },
  tiny: { TL2: table('512x256 256 96 32', '256x512 128 96 32', '256x256 128 96 32', '128x256 128 96 32') },
};

/** Whether tensors of a type are in tiles. */
export function isTiled(type: TensorType): type is TiledType {
  return type === 'TL1' || type === 'TL2';
}

/**
 * The tiles of a tensor: those of the option, else the file's, else those of the first preset that has its shape.
 * @param dims ne0 first
 * @param where what to name in an error: file and tensor
 * @throws GgufError where nobody tells them, and where those told do not fit the shape
 */
export function tilesOf(
  type: TiledType,
  dims: readonly number[],
  metadata: ReadonlyMap<string, GgufValue>,
  where: string,
  option?: TilesOption,
): FoundTiles {
  const shape = `${rowsOf(dims)}x${dims[0]}`;
  const check = type === 'TL1' ? checkTl1 : checkTl2;
  if (option !== undefined)
    return { tiles: check(fromOption(type, shape, where, option), dims, where), origin: 'option' };
  const key = `ternlm.tiles.${shape}`;
  const stored = metadata.get(key);
  if (stored !== undefined) {
    if (!(stored instanceof Uint32Array) || stored.length !== 3) {
      throw new GgufError(`${where}: key '${key}': expected an array of three u32: BM, BK, bm`);
    }
    const [rows, cols, sub] = stored;
    return { tiles: check({ rows, cols, sub }, dims, `${where}: key '${key}'`), origin: 'file' };
  }
  const preset = presetOf(type, shape);
  if (preset !== undefined) return preset;
  throw new GgufError(
    `${where}: the tile parameters BM, BK and bm of ${type} ${shape} are not in the file, and no preset has that shape; ` +
      `give them with the option 'layout' (--layout): a preset (${presetNames(type)}) or BM, BK and bm of each shape`,
  );
}

/** The metadata that tells the tiles of a shape. */
export function tilesEntry(rows: number, cols: number, tiles: Tiles): [key: string, value: TypedValue] {
  const value = [tiles.rows, tiles.cols, tiles.sub];
  return [`ternlm.tiles.${rows}x${cols}`, { type: 'array', of: 'u32', value }];
}

/**
 * Tiles for a new tensor of any shape that can be cut: those of a preset with that shape, so that the native engine may run the
 * file; else the tallest up to 256 rows, which is what most presets have.
 * @throws GgufError if no tiles fit
 */
export function chooseTiles(type: TiledType, rows: number, cols: number): Tiles {
  const preset = presetOf(type, `${rows}x${cols}`);
  if (preset !== undefined) return preset.tiles;
  const where = `${rows}x${cols}`;
  const fault = rowFault(type, cols);
  if (fault !== undefined) throw new GgufError(`${where}: ${fault}`);
  const tall = [256, 224, 192, 160, 128, 96, 64, 32].find((n) => rows % n === 0);
  if (tall === undefined) throw new GgufError(`${where}: ${rows} rows, expected a multiple of 32 (${type})`);
  const wide = type === 'TL2' ? 96 : [128, 64].find((n) => cols % n === 0);
  if (wide === undefined) throw new GgufError(`${where}: row length ${cols}, expected a multiple of 64 (${type})`);
  return { rows: tall, cols: wide, sub: 32 };
}

function fromOption(type: TiledType, shape: string, where: string, option: TilesOption): Tiles {
  if (typeof option === 'string') {
    const tiles = Object.hasOwn(PRESETS, option) ? PRESETS[option][type]?.[shape] : undefined;
    if (tiles !== undefined) return tiles;
    const known = Object.hasOwn(PRESETS, option) ? `has no ${type} ${shape}` : `is none of ${presetNames(type)}`;
    throw new GgufError(`${where}: option 'layout': preset '${option}' ${known}`);
  }
  if (isTiles(option)) return option;
  if (Object.hasOwn(option, shape)) return option[shape];
  throw new GgufError(
    `${where}: option 'layout': no tile parameters for ${shape}, only for ${Object.keys(option).join(', ')}`,
  );
}

function isTiles(option: TileTable | Tiles): option is Tiles {
  return typeof option.rows === 'number';
}

function presetOf(type: TiledType, shape: string): FoundTiles | undefined {
  for (const [name, preset] of Object.entries(PRESETS)) {
    const tiles = preset[type]?.[shape];
    if (tiles !== undefined) return { tiles, origin: `preset ${name}` };
  }
}

function presetNames(type: TiledType): string {
  return Object.keys(PRESETS)
    .filter((name) => PRESETS[name][type] !== undefined)
    .join(', ');
}
