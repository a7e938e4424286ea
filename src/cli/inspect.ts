import { wasmSizing } from '../backend/wasm/backend.ts';
import { estimateOf } from '../estimate.ts';
import { readHeader } from '../gguf/header.ts';
import type { Source } from '../gguf/source.ts';
import { PRESETS } from '../gguf/tiles.ts';
import { openModel } from '../hub/open.ts';
import { demoModel, estimate } from '../index.ts';
import { UsageError, type Verb } from './arguments.ts';
import { pairs, table } from './format.ts';
import { page } from './inspect_html.ts';
import { estimateOptions, MEMORY_FLAGS, memoryRows, memoryText } from './inspect_memory.ts';
import {
  facts,
  grouped,
  MATRIX_COLUMNS,
  type Matrix,
  matrixRows,
  percent,
  type Report,
  range,
  reportOf,
  shown,
  summed,
  tensorRows,
  ternaryMatrices,
  tileRows,
} from './inspect_report.ts';
import { modelName } from './load.ts';
import { HELP_FLAG, MODEL_FLAG, modelOf } from './options.ts';
import { checkPageName, writePage } from './page_file.ts';
import { catchInterrupt, INTERRUPTED, printable, showStatus, write } from './terminal.ts';
import { countTernary } from './ternary.ts';

export const inspect: Verb = {
  name: 'inspect',
  positionals: '[model]',
  maxPositionals: 1,
  summary: 'show what is in a model, and the memory it needs',
  about: `Shows what is in a GGUF file, whether this version can run it, and the memory
that takes. Only the header is read, and from local files the ternary weights,
to count how many are -1, 0 and +1, and floats as far as they are ternary.`,
  groups: [
    {
      title: 'Options',
      flags: [
        MODEL_FLAG,
        { name: 'weights', help: 'count the weights of a model behind an address too: all of it is downloaded' },
        { name: 'no-weights', help: 'do not count the weights' },
        { name: 'matrices', help: 'list each ternary matrix by itself' },
        {
          name: 'layout',
          value: 'PRESET',
          kind: Object.keys(PRESETS),
          help: `tiles of TL1 and TL2: ${Object.keys(PRESETS).join(', ')} (default: as in the file, else by shape)`,
        },
        {
          name: 'html',
          value: 'OUT.html',
          help: 'write a page with charts instead, which needs nothing else to be shown',
        },
        { name: 'json', help: 'write one JSON object, with every tensor' },
        HELP_FLAG,
      ],
    },
    MEMORY_FLAGS,
  ],
  examples: [
    'ternlm inspect model.gguf',
    'ternlm inspect https://example.com/model.gguf --estimate -c 8192',
    'ternlm inspect model.gguf --html model.html',
    'ternlm inspect --json | jq .memory',
  ],

  async run(given) {
    const input = modelOf(given);
    const out = given.text('html');
    if (out !== undefined) checkPageName('--html', out);
    if (given.has('estimate') && out !== undefined) {
      throw new UsageError('--html: the page has the estimate and all else, expected without --estimate');
    }
    const interrupt = catchInterrupt();
    const lay = { ...estimateOptions(given), signal: interrupt.signal };
    let opened: Source | undefined;
    try {
      if (given.has('estimate')) {
        const memory = await estimate(input ?? demoModel, lay);
        await write(given.has('json') ? `${JSON.stringify(memory, null, 2)}\n` : `${printable(memoryText(memory))}\n`);
        return 0;
      }
      const source = await openModel(input ?? demoModel, { cache: false, signal: interrupt.signal });
      opened = source;
      const header = await readHeader(source);
      const remote = /^https?:/i.test(source.name);
      const wanted = given.has('weights') || (!remote && !given.has('no-weights'));
      const name = printable(modelName(input));
      const shares = wanted
        ? await countTernary(source, header, given.text('layout'), (share) =>
            showStatus(`counting the weights of ${name}: ${Math.floor(100 * share)} %`),
          )
        : undefined;
      showStatus('');
      const sizing = await wasmSizing({ threads: lay.threads, tier: lay.tier });
      const report = reportOf(source, header, shares, (config) => estimateOf(source, header, config, sizing, lay));
      if (out !== undefined) await writePage(out, page(report));
      if (given.has('json')) await write(`${JSON.stringify(report, replaceBigint, 2)}\n`);
      else if (out === undefined) await write(`${printable(text(report, remote, given.has('matrices')))}\n`);
      return 0;
    } catch (error) {
      if (interrupt.signal.aborted) return INTERRUPTED;
      throw error;
    } finally {
      interrupt.release();
      await opened?.close();
    }
  },
};

function replaceBigint(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

function text(report: Report, remote: boolean, single: boolean): string {
  const metadata = Object.entries(report.metadata).map(([key, value]) => [key, shown(value)] as const);
  const sections = [
    pairs(facts(report)),
    ...(metadata.length > 0 ? [`Metadata\n${pairs(metadata, '  ')}`] : []),
    `Tensors\n${table(['name', 'type', 'shape', 'count', 'in all'], tensorRows(report), '  ')}`,
  ];
  const matrices = ternaryMatrices(report);
  if (matrices.length > 0) {
    sections.push(
      `Ternary weights\n${layerTable(matrices)}`,
      `Ternary matrices\n${table(MATRIX_COLUMNS, matrixRows(matrices, single), '  ')}`,
    );
  } else if (remote) {
    sections.push('Ternary weights\n  not counted: the file is behind an address (--weights downloads it)');
  }
  const tiles = tileRows(report);
  if (tiles.length > 0) sections.push(`Tiles\n${table(['type', 'shape', 'tiles', 'from'], tiles, '  ')}`);
  if (report.memory !== undefined) sections.push(`Memory\n${pairs(memoryRows(report.memory), '  ')}`);
  return sections.join('\n\n');
}

function layerTable(matrices: readonly Matrix[]): string {
  const body = [...grouped(matrices, ({ layer }) => layer)].map(([layer, group]) => {
    const { minus, zero, plus, min, max, remarks } = summed(group.map(({ share }) => share));
    return [layer, percent(minus), percent(zero), percent(plus), [range(min, max), ...remarks].join('; ')];
  });
  return table(['layer', '-1', '0', '+1', 'scales'], body, '  ');
}
