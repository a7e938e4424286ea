import { GgufError } from '../gguf/error.ts';
import { type GgufHeader, readHeader, type TensorInfo } from '../gguf/header.ts';
import { layoutOf } from '../gguf/layouts.ts';
import { openSource, type Source } from '../gguf/source.ts';
import type { GgufValue } from '../gguf/value.ts';
import { demoModel } from '../index.ts';
import { type Config, readConfig } from '../model/config.ts';
import type { Verb } from './arguments.ts';
import { bytes, pairs, quantity, table } from './format.ts';
import { modelName } from './load.ts';
import { HELP_FLAG, MODEL_FLAG, modelOf } from './options.ts';
import { catchInterrupt, INTERRUPTED, printable, showStatus, write } from './terminal.ts';
import { countTernary, type TernaryShare } from './ternary.ts';

/** Elements of an array, and characters of a text, that are shown. */
const SHOWN_ELEMENTS = 4;
const SHOWN_CHARACTERS = 60;

export const inspect: Verb = {
  name: 'inspect',
  positionals: '[model]',
  maxPositionals: 1,
  summary: 'show what is in a model file, and the memory it needs',
  about: `Shows what is in a GGUF file, whether this version can run it, and the memory
that takes. Only the header is read, and from local files the ternary weights,
to count how many are -1, 0 and +1.`,
  groups: [
    {
      title: 'Options',
      flags: [
        MODEL_FLAG,
        { name: 'weights', help: 'count the weights of a model behind an address too: all of it is downloaded' },
        { name: 'no-weights', help: 'do not count the weights' },
        { name: 'json', help: 'write one JSON object, with every tensor' },
        HELP_FLAG,
      ],
    },
  ],
  examples: [
    'ternlm inspect model.gguf',
    'ternlm inspect https://example.com/model.gguf',
    'ternlm inspect --json | jq .memory',
  ],

  async run(given) {
    const input = modelOf(given);
    const interrupt = catchInterrupt();
    const source = await openSource(input ?? demoModel, { signal: interrupt.signal });
    try {
      const header = await readHeader(source);
      const remote = /^https?:/i.test(input ?? '');
      const wanted = given.has('weights') || (!remote && !given.has('no-weights'));
      const name = printable(modelName(input));
      const shares = wanted
        ? await countTernary(source, header, (share) =>
            showStatus(`counting the weights of ${name}: ${Math.floor(100 * share)} %`),
          )
        : undefined;
      showStatus('');
      const report = reportOf(source, header, shares);
      await write(
        given.has('json') ? `${JSON.stringify(report, replaceBigint, 2)}\n` : `${printable(text(report, remote))}\n`,
      );
      return 0;
    } catch (error) {
      if (interrupt.signal.aborted) return INTERRUPTED;
      throw error;
    } finally {
      interrupt.release();
      await source.close();
    }
  },
};

interface Report {
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
  memory?: Memory;
  warnings: readonly string[];
}

/** Bytes. */
interface Memory {
  context: number;
  weights: number;
  /** Part of the weights: the output head. */
  head: number;
  /** The copy that the head is screened with (`head: 'auto'`): a byte a number. */
  screen: number;
  kvPer1k: { f16: number; f32: number };
  /** Weights, screen and an f16 cache of `context` positions. */
  total: number;
}

function reportOf(source: Source, header: GgufHeader, shares: ReadonlyMap<string, TernaryShare> | undefined): Report {
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
    memory: config && memoryOf(config, header),
    warnings: config?.warnings ?? header.warnings,
  };
}

function shortened(value: GgufValue): Report['metadata'][string] {
  if (typeof value !== 'object' || value.length <= 16)
    return typeof value === 'object' ? ([...value] as GgufValue) : value;
  return { length: value.length, first: [...value.slice(0, SHOWN_ELEMENTS)] };
}

function memoryOf(c: Config, header: GgufHeader): Memory {
  const head = header.tensors.get(c.headTensor ?? '')?.bytes ?? 0;
  // The embedding is read from the file, a row a token; where it is the head it is there anyway.
  const unused = new Set(['token_embd.weight', 'output.weight', 'rope_freqs.weight']);
  const others = [...header.tensors.values()].filter((t) => !unused.has(t.name)).reduce((sum, t) => sum + t.bytes, 0);
  const numbersPer1k = 1024 * c.layers * 2 * c.kvHeads * c.headDim;
  const context = Math.min(c.contextLength, 4096);
  const kvPer1k = { f16: 2 * numbersPer1k, f32: 4 * numbersPer1k };
  const weights = head + others;
  const screen = c.headTensor === undefined ? 0 : c.vocab * c.dim;
  return { context, weights, head, screen, kvPer1k, total: weights + screen + (kvPer1k.f16 * context) / 1024 };
}

function replaceBigint(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

function text(report: Report, remote: boolean): string {
  const { memory } = report;
  const unread = report.types.filter((t) => !t.read);
  const sections = [
    pairs([
      ['file', report.file],
      ['size', `${bytes(report.fileBytes)}, data from byte ${report.dataAt}`],
      ['format', `GGUF ${report.version}, alignment ${report.alignment}`],
      ['parameters', quantity(report.parameters)],
      ['runs', report.runs ? 'yes' : `no: ${report.reason}`],
      ...unread.map((t): [string, string] => [
        'not read',
        `type ${t.type}, ${t.tensors} ${t.tensors === 1 ? 'tensor' : 'tensors'}, ${bytes(t.bytes)}`,
      ]),
      ...report.warnings.map((warning): [string, string] => ['note', warning]),
    ]),
    `Metadata\n${pairs(
      Object.entries(report.metadata).map(([key, value]) => [key, shown(value)]),
      '  ',
    )}`,
    `Tensors\n${tensorTable(report.tensors)}`,
  ];
  const layers = layerTable(report.tensors);
  if (layers !== '') sections.push(`Ternary weights\n${layers}`);
  else if (remote)
    sections.push('Ternary weights\n  not counted: the file is behind an address (--weights downloads it)');
  if (memory !== undefined) {
    const rows: [string, string][] = [
      ['weights', `${bytes(memory.weights)}, of which the head ${bytes(memory.head)}`],
      ['screen', `${bytes(memory.screen)}, a copy of the head (none with --head exact)`],
      ['cache', `${bytes(memory.kvPer1k.f16)} for 1024 tokens of context (f16), ${bytes(memory.kvPer1k.f32)} (f32)`],
      ['in all', `${bytes(memory.total)} with a context of ${memory.context}`],
    ];
    sections.push(`Memory\n${pairs(rows, '  ')}`);
  }
  return sections.join('\n\n');
}

function shown(value: unknown): string {
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

/** Tensors that differ in their layer only are one row. */
function tensorTable(tensors: Report['tensors']): string {
  const rows = new Map<string, { name: string; type: string; dims: string; count: number; bytes: number }>();
  for (const { name, type, dims, bytes } of tensors) {
    const general = name.replace(/^blk\.\d+\./, 'blk.*.');
    const key = `${general} ${type} ${dims}`;
    const row = rows.get(key) ?? { name: general, type, dims: dims.join(' x '), count: 0, bytes: 0 };
    rows.set(key, { ...row, count: row.count + 1, bytes: row.bytes + bytes });
  }
  const body = [...rows.values()].map((r) => [r.name, r.type, r.dims, String(r.count), bytes(r.bytes)]);
  return table(['name', 'type', 'shape', 'count', 'in all'], body, '  ');
}

function layerTable(tensors: Report['tensors']): string {
  const layers = new Map<string, TernaryShare[]>();
  for (const { name, ternary } of tensors) {
    if (ternary === undefined) continue;
    const layer = /^blk\.(\d+)\./.exec(name)?.[1] ?? name;
    layers.set(layer, [...(layers.get(layer) ?? []), ternary]);
  }
  if (layers.size === 0) return '';
  const body = [...layers].map(([layer, shares]) => {
    const sum = (of: (share: TernaryShare) => number) => shares.reduce((a, share) => a + of(share), 0);
    const weights = sum((s) => s.weights);
    const percent = (count: number) => `${((100 * count) / weights).toFixed(1)} %`;
    const scales = shares.map((s) => s.scale);
    const range = `${Math.min(...scales).toPrecision(3)} to ${Math.max(...scales).toPrecision(3)}`;
    const wrong = sum((s) => s.wrong);
    return [
      layer,
      percent(sum((s) => s.minus)),
      percent(sum((s) => s.zero)),
      percent(sum((s) => s.plus)),
      range + (wrong > 0 ? `; ${wrong} codes are broken` : ''),
    ];
  });
  return table(['layer', '-1', '0', '+1', 'scales'], body, '  ');
}
