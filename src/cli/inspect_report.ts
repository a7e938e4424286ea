import { GgufError } from '../gguf/error.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { rowsOf } from '../gguf/layouts/ternary.ts';
import { layoutOf } from '../gguf/layouts.ts';
import type { Source } from '../gguf/source.ts';
import type { GgufValue } from '../gguf/value.ts';
import type { MemoryEstimate } from '../index.ts';
import { type Config, readConfig } from '../model/config.ts';
import { bytes, quantity } from './format.ts';
import type { TernaryShare } from './ternary.ts';

/** Elements of an array, and characters of a text, that are shown. */
const SHOWN_ELEMENTS = 4;
const SHOWN_CHARACTERS = 60;

/** What `inspect` tells of a file. */
export interface Report {
  file: string;
  fileBytes: number;
  version: number;
  alignment: number;
  dataAt: number;
  parameters: number;
  /** Whether this version runs it; if not, why. */
  runs: boolean;
  reason?: string;
  types: { type: string; tensors: number; bytes: number; read: boolean }[];
  metadata: Record<string, GgufValue | { length: number; first: unknown[] }>;
  tensors: (Pick<TensorInfo, 'name' | 'type' | 'dims' | 'at' | 'bytes'> & { ternary?: TernaryShare })[];
  /** Where it runs, and kernels for it do. */
  memory?: MemoryEstimate;
  warnings: readonly string[];
}

export function reportOf(
  source: Source,
  header: GgufHeader,
  shares: ReadonlyMap<string, TernaryShare> | undefined,
  memoryOf: (config: Config) => MemoryEstimate,
): Report {
  const tensors = [...header.tensors.values()];
  const types = new Map<string, Report['types'][number]>();
  for (const { type, bytes } of tensors) {
    const entry = types.get(type) ?? { type, tensors: 0, bytes: 0, read: layoutOf(type) !== undefined };
    types.set(type, { ...entry, tensors: entry.tensors + 1, bytes: entry.bytes + bytes });
  }
  let config: Config | undefined;
  let reason: string | undefined;
  try {
    config = readConfig(header, source.name);
  } catch (error) {
    if (!(error instanceof GgufError)) throw error;
    reason = error.message.replace(`${source.name}: `, '');
  }
  return {
    file: source.name,
    fileBytes: source.size,
    version: header.version,
    alignment: header.alignment,
    dataAt: header.dataAt,
    parameters: tensors.reduce((sum, t) => sum + t.dims.reduce((a, b) => a * b, 1), 0),
    runs: config !== undefined,
    reason,
    types: [...types.values()],
    metadata: Object.fromEntries([...header.metadata].map(([key, value]) => [key, shortened(value)])),
    tensors: tensors.map(({ name, type, dims, at, bytes }) => ({
      name,
      type,
      dims,
      at,
      bytes,
      ternary: shares?.get(name),
    })),
    memory: config && memoryOf(config),
    warnings: config?.warnings ?? header.warnings,
  };
}

function shortened(value: GgufValue): Report['metadata'][string] {
  if (typeof value !== 'object' || value.length <= 16)
    return typeof value === 'object' ? ([...value] as GgufValue) : value;
  return { length: value.length, first: [...value.slice(0, SHOWN_ELEMENTS)] };
}

/** Of several matrices. */
export interface Sum {
  weights: number;
  /** Shares of the counted weights. */
  minus: number;
  zero: number;
  plus: number;
  /** Of scales other than 0. */
  min: number;
  max: number;
  /** What is wrong or strange, in words. */
  remarks: string[];
}

/** What the shares of several matrices come to. */
export function summed(shares: readonly TernaryShare[]): Sum {
  const of = (field: (share: TernaryShare) => number | undefined) =>
    shares.reduce((sum, share) => sum + (field(share) ?? 0), 0);
  const codes = of(({ counts }) => counts && counts.minus + counts.zero + counts.plus);
  const scaled = shares.filter(({ scales }) => scales.distinct > 0);
  const uncounted = shares.filter(({ counts }) => counts === undefined).length;
  const remarks: [number, string, string][] = [
    [of((s) => s.counts?.wrong), 'code is broken', 'codes are broken'],
    [of((s) => s.counts?.odd), 'odd byte', 'odd bytes'],
    [of((s) => s.scales.broken), 'scale is broken', 'scales are broken'],
    [of((s) => s.scales.zero), 'block of scale 0', 'blocks of scale 0'],
    [uncounted, 'matrix not counted: tiles not known', 'matrices not counted: tiles not known'],
  ];
  return {
    weights: of((s) => s.weights),
    minus: of((s) => s.counts?.minus) / codes,
    zero: of((s) => s.counts?.zero) / codes,
    plus: of((s) => s.counts?.plus) / codes,
    min: scaled.reduce((least, s) => Math.min(least, s.scales.min), Infinity),
    max: scaled.reduce((most, s) => Math.max(most, s.scales.max), -Infinity),
    remarks: remarks.filter(([n]) => n > 0).map((remark) => counted(...remark)),
  };
}

/** A tensor whose weights were found to be ternary. */
export interface Matrix {
  name: string;
  /** Number of the layer; of a tensor outside the layers its name. */
  layer: string;
  /** Name within the layer. */
  kind: string;
  type: string;
  /** ne0 first. */
  dims: readonly number[];
  share: TernaryShare;
}

export function ternaryMatrices({ tensors }: Report): Matrix[] {
  return tensors.flatMap(({ name, type, dims, ternary }) => {
    if (ternary === undefined) return [];
    const short = name.replace(/\.weight$/, '');
    const [, layer = short, kind = short] = /^blk\.(\d+)\.(.+)$/.exec(short) ?? [];
    return [{ name, layer, kind, type, dims, share: ternary }];
  });
}

/** "1 tensor", "2 tensors". */
export function counted(n: number, one: string, several = `${one}s`): string {
  return `${n} ${n === 1 ? one : several}`;
}

/** "5 of 512": how many rows or columns are all zeros; "-" where they were not looked for. */
function zeroLines(matrices: readonly Matrix[], field: 'zeroRows' | 'zeroCols'): string {
  if (matrices.some(({ share }) => share[field] === undefined)) return '-';
  const zero = matrices.reduce((sum, { share }) => sum + (share[field] ?? 0), 0);
  const all = matrices.reduce((sum, { dims }) => sum + (field === 'zeroCols' ? dims[0] : rowsOf(dims)), 0);
  return `${zero} of ${all}`;
}

/** Items with the same key, in the order of the first. */
export function grouped<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}

/** The same name in every layer. */
function generalName(name: string): string {
  return name.replace(/^blk\.\d+\./, 'blk.*.');
}

/** name, type, shape, count, bytes in all of tensors; those that differ in their layer only are one row. */
export function tensorRows({ tensors }: Report): string[][] {
  const groups = grouped(tensors, ({ name, type, dims }) => `${generalName(name)} ${type} ${dims}`);
  return [...groups.values()].map((group) => {
    const [{ name, type, dims }] = group;
    const total = group.reduce((sum, t) => sum + t.bytes, 0);
    return [generalName(name), type, dims.join(' x '), String(group.length), bytes(total)];
  });
}

export const MATRIX_COLUMNS = ['name', 'type', 'count', 'share of 0', 'zero rows', 'zero columns', 'scales'] as const;

/** Of ternary matrices; those of the same name in all layers are one row, unless each is to have its own. */
export function matrixRows(matrices: readonly Matrix[], single: boolean): string[][] {
  const groups = grouped(matrices, ({ name, type }) => `${single ? name : generalName(name)} ${type}`);
  return [...groups.values()].map((group) => {
    const [{ name, type, share }] = group;
    const { min, max, remarks } = summed(group.map((matrix) => matrix.share));
    const known = group.map((matrix) => summed([matrix.share]).zero).filter(Number.isFinite);
    const zeros = known.sort((a, b) => a - b);
    const { distinct, count } = share.scales;
    return [
      ...[single ? name : generalName(name), type, String(group.length)],
      range(zeros[0], zeros[zeros.length - 1], percent).replace(' % to', ' to'),
      ...[zeroLines(group, 'zeroRows'), zeroLines(group, 'zeroCols')],
      [range(min, max), ...(single && count > 1 ? [`${distinct} distinct`] : []), ...remarks].join('; '),
    ];
  });
}

/** type, shape, tiles and their origin of the TL1 and TL2 tensors, a row a shape. */
export function tileRows({ tensors }: Report): string[][] {
  const tiled = tensors.filter(({ ternary }) => ternary?.tiles !== undefined || ternary?.tilesFault !== undefined);
  return [...grouped(tiled, ({ type, dims }) => `${type} ${dims}`).values()].map(([{ type, dims, ternary }]) => {
    if (ternary?.tiles === undefined) return [type, dims.join(' x '), 'not known', ternary?.tilesFault ?? ''];
    const { tiles, origin } = ternary.tiles;
    return [type, dims.join(' x '), `BM ${tiles.rows}, BK ${tiles.cols}, bm ${tiles.sub}`, origin];
  });
}

/** label and text of what is true of the whole file. */
export function facts(report: Report): [string, string][] {
  const matrices = ternaryMatrices(report);
  const sum = summed(matrices.map(({ share }) => share));
  const floats = matrices.filter(({ type }) => /^(F16|BF16|F32)$/.test(type));
  const rows: [string, string][] = [
    ['file', report.file],
    ['size', `${bytes(report.fileBytes)}, data from byte ${report.dataAt}`],
    ['format', `GGUF ${report.version}, alignment ${report.alignment}`],
    ['parameters', quantity(report.parameters)],
    ['runs', report.runs ? 'yes' : `no: ${report.reason}`],
  ];
  if (matrices.length > 0) {
    const shares = `-1 ${percent(sum.minus)}, 0 ${percent(sum.zero)}, +1 ${percent(sum.plus)}`;
    rows.push(['ternary', `${quantity(sum.weights)} weights: ${shares}`]);
  }
  for (const [type, { length }] of grouped(floats, (matrix) => matrix.type)) {
    rows.push(['ternary', `in ${type}: ${counted(length, 'matrix', 'matrices')}, which convert can repack`]);
  }
  for (const t of report.types.filter(({ read }) => !read)) {
    rows.push(['not read', `type ${t.type}, ${counted(t.tensors, 'tensor')}, ${bytes(t.bytes)}`]);
  }
  for (const note of [...sum.remarks, ...report.warnings]) rows.push(['note', note]);
  return rows;
}

/** 0.4 -> "40.0 %"; "?" where nothing was counted. */
export function percent(share: number): string {
  return Number.isNaN(share) ? '?' : `${(100 * share).toFixed(1)} %`;
}

/** "0.0464 to 0.102", or one number where both are shown alike. */
export function range(min: number, max: number, shown: (x: number) => string = (x) => x.toPrecision(3)): string {
  if (!(min <= max)) return '?';
  return shown(min) === shown(max) ? shown(min) : `${shown(min)} to ${shown(max)}`;
}

/** A metadata value in a line. */
export function shown(value: unknown): string {
  if (typeof value === 'string') {
    const cut = value.length > SHOWN_CHARACTERS ? `${value.slice(0, SHOWN_CHARACTERS)}…` : value;
    const rest = value.length > SHOWN_CHARACTERS ? ` (${value.length} characters)` : '';
    return JSON.stringify(cut) + rest;
  }
  if (Array.isArray(value)) return `[${value.map(shown).join(', ')}]`;
  if (typeof value === 'object' && value !== null && 'first' in value && 'length' in value) {
    return `[${(value.first as unknown[]).map(shown).join(', ')}, …] (${value.length})`;
  }
  return typeof value === 'number' && !Number.isInteger(value) ? String(Number(value.toPrecision(7))) : String(value);
}
