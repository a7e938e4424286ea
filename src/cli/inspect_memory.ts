import type { EstimateOptions, MemoryEstimate } from '../index.ts';
import type { Arguments, FlagGroup } from './arguments.ts';
import { bytes } from './format.ts';
import { flagged, LOAD_FLAGS } from './options.ts';

// What a model takes, told before it is loaded.

/** Of loading, those that memory hangs on. */
const LAY_FLAGS = ['ctx-size', 'kv', 'head', 'repack', 'threads', 'tier'];

export const MEMORY_FLAGS: FlagGroup = {
  title: 'Memory',
  flags: [
    { name: 'estimate', help: 'tell only what memory the model takes, how it fits, and what would make it fit' },
    ...LOAD_FLAGS.flags.filter(({ name }) => LAY_FLAGS.includes(name)),
    {
      name: 'parallel',
      value: 'N',
      kind: 'integer',
      help: 'sequences computed at once (default: 1, as in run and chat)',
    },
  ],
};

export function estimateOptions(given: Arguments): EstimateOptions {
  return {
    contextSize: given.number('ctx-size'),
    kv: given.text('kv') as EstimateOptions['kv'],
    head: given.text('head') as EstimateOptions['head'],
    repack: given.text('repack') as EstimateOptions['repack'],
    threads: given.number('threads'),
    tier: given.text('tier') as EstimateOptions['tier'],
    parallel: given.number('parallel') ?? 1,
  };
}

/** What adds up: label, bytes, and what it hangs on. */
export function memoryParts(m: MemoryEstimate): [string, number, string][] {
  const parts: [string, number, string][] = [
    ['weights', m.weightsBytes, m.weightTypes],
    ['head', m.headBytes, ''],
    ['embedding', m.embeddingBytes, ''],
    ['copy of the head', m.screenBytes, '--head exact: none'],
    ['cache', m.kvBytes, `${m.positions} positions, ${m.kv}`],
    ['working memory', m.workingBytes, ''],
  ];
  return parts.filter(([, size]) => size > 0);
}

/** What is known beside. */
function memoryNotes(m: MemoryEstimate): [string, number, string][] {
  const notes: [string, number, string][] = [
    ['1024 positions', m.kvPer1kBytes, 'of cache'],
    ['JavaScript', m.hostBytes, 'about, beside: vocabulary, code, threads'],
    ['left here', m.availableBytes ?? 0, 'of the memory of this system'],
  ];
  return notes.filter(([, size]) => size > 0);
}

/** Whether it fits, and with what it does, or does whole. */
export function verdict(m: MemoryEstimate): string[] {
  const most = `largest context: ${m.maxContextSize} positions (${m.trainedContext} were trained)`;
  const [first, how] = {
    yes: [m.kvBytes > 0 ? `fits; ${most}` : 'fits', ''],
    reduced: ['fits in part', 'whole with '],
    no: ['does not fit', 'fits with '],
  }[m.fits];
  const none = m.fits !== 'yes' && m.advice.length === 0 ? ['no option makes it fit'] : [];
  return [first, ...m.warnings, ...m.advice.map(({ text }) => `${how}${text}`), ...none].map(flagged);
}

/** label and text of the memory that a model takes. */
export function memoryRows(m: MemoryEstimate): [string, string][] {
  const told = ([label, size, note]: [string, number, string]): [string, string] => [
    label,
    [bytes(size), ...(note === '' ? [] : [note])].join(', '),
  ];
  const limit = Number.isFinite(m.limitBytes) ? ` of at most ${bytes(m.limitBytes)}` : '';
  return [
    ...memoryParts(m).map(told),
    ['in all', `${bytes(m.totalBytes)}${limit}`],
    ...memoryNotes(m).map(told),
    ...verdict(m).map((line): [string, string] => ['note', line]),
  ];
}

const BAR_WIDTH = 20;

/** The parts as bars that continue each other, and all of them against what there is. */
export function memoryText(m: MemoryEstimate): string {
  const parts = memoryParts(m);
  const notes = memoryNotes(m);
  const width = Math.max(...[...parts, ...notes].map(([label]) => label.length));
  const row = (label: string, size: number, rest: string) =>
    `  ${label.padEnd(width)}  ${bytes(size).padStart(7)}  ${rest}`.trimEnd();
  const bar = (from: number, to: number, all: number) => {
    const [left, right] = [from, to].map((part) => Math.round(BAR_WIDTH * Math.min(1, part / all)));
    return '░'.repeat(left) + '█'.repeat(right - left) + '░'.repeat(BAR_WIDTH - right);
  };
  let before = 0;
  const rows = parts.map(([label, size, note]) => {
    const from = before;
    before += size;
    return row(label, size, `${bar(from, before, m.totalBytes)}  ${note}`);
  });
  rows.push(row('in all', m.totalBytes, ''));
  if (Number.isFinite(m.limitBytes)) {
    const share = Math.round((100 * m.totalBytes) / m.limitBytes);
    rows.push(row('limit', m.limitBytes, `${bar(0, m.totalBytes, m.limitBytes)}  ${share} % of it`));
  }
  return [
    `${m.file}: ${bytes(m.fileBytes)}, context ${m.contextSize}${m.parallel > 1 ? `, ${m.parallel} sequences` : ''}`,
    rows.join('\n'),
    notes.map(([label, size, note]) => row(label, size, note)).join('\n'),
    verdict(m).join('\n  '),
  ].join('\n\n');
}
