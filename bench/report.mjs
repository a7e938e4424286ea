// What every benchmark leaves: a table on stdout, and JSON, CSV and a chart in bench/out/.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hardware, load } from './machine.mjs';

const OUT = new URL('out/', import.meta.url);

/** Few colours, told apart by lightness too: what is measured, its limit, and others to compare with. */
export const COLOR = {
  ours: '#1f5fbf',
  second: '#5f97e0',
  limit: '#d5d9e0',
  other: '#e08a2c',
  text: '#1c2330',
  quiet: '#667085',
};

/** "5.71 (5.20 to 6.01)": median and range, with as many digits as say something. */
export function spread({ median, min, max }) {
  const digits = digitsOf(median);
  return `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
}

export const short = (x) => x.toFixed(digitsOf(x));
export const percent = (x) => `${(100 * x).toFixed(0)} %`;
const digitsOf = (x) => (Math.abs(x) >= 100 ? 0 : Math.abs(x) >= 10 ? 1 : 2);

/** A comma-separated list of whole numbers, as options have it. */
export function numbers(list) {
  const all = list.split(',').map(Number);
  if (all.every((n) => Number.isInteger(n) && n >= 0)) return all;
  throw new RangeError(`got ${list}, expected whole numbers with commas between`);
}

/** Says on a terminal what is being measured. */
export function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/**
 * Begins a run: the load of the machine before it belongs to its result.
 * @param name of the files; the Node version is added, so that runs on two of them do not overwrite each other
 */
export function startReport(name) {
  const date = new Date().toISOString();
  const loadBefore = load();
  const file = `${name}-node${process.versions.node.split('.')[0]}`.toLowerCase().replaceAll(/[^a-z0-9_.]+/g, '-');
  return {
    /**
     * @param columns [heading, row => cell] of the table; numbers are right-aligned by a heading that is not the first
     * @param rows objects; all they hold goes into JSON and CSV
     * @param notes lines under the table: what was left out and why
     * @param chart { title, caption, ...Vega-Lite specification }
     */
    async finish({ columns, rows, notes: said = [], chart }) {
      progress('');
      const notes = [...new Set(said)];
      const loadAfter = load();
      const where = `${hardware()}; load ${loadBefore.toFixed(1)} before, ${loadAfter.toFixed(1)} after; ${date.slice(0, 10)}`;
      console.log(`${where}\n\n${table(columns, rows)}`);
      const cores = availableParallelism();
      if (loadBefore > cores / 4) {
        notes.push(
          `The machine was busy (load ${loadBefore.toFixed(1)} on ${cores} cores): figures are low and scattered.`,
        );
      }
      for (const note of notes) console.log(`\n${note}`);
      mkdirSync(OUT, { recursive: true });
      const command = ['npm run bench --', ...process.argv.slice(1).map((arg, i) => (i ? arg : nameOf(arg)))].join(' ');
      const result = { benchmark: name, command, date, hardware: hardware(), loadBefore, loadAfter, notes, rows };
      write(`${file}.json`, `${JSON.stringify(result, undefined, 1)}\n`);
      write(`${file}.csv`, csv(rows));
      const written = ['json', 'csv'];
      const missing = await draw(file, chart, [chart.caption, where].flat());
      if (missing === undefined) written.push('svg', 'png');
      else console.log(`\nNo chart: ${missing}`);
      const path = relative(process.cwd(), fileURLToPath(new URL(file, OUT)));
      console.log(`\n${written.map((end) => `${path}.${end}`).join('  ')}`);
    },
  };
}

const nameOf = (script) => script.replace(/^.*[\\/]/, '').replace(/\.mjs$/, '');
const write = (file, text) => writeFileSync(new URL(file, OUT), text);

function table(columns, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  const rule = `|${columns.map((_, i) => (i === 0 ? '---' : '--:')).join('|')}|`;
  return [
    line(columns.map(([head]) => head)),
    rule,
    ...rows.map((row) => line(columns.map(([, cell]) => cell(row)))),
  ].join('\n');
}

/** Nested objects become columns such as tokens_per_second.median, samples one cell. */
function csv(rows) {
  const flat = (object, prefix = '') =>
    Object.entries(object).flatMap(([key, value]) =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? flat(value, `${prefix}${key}.`)
        : [[`${prefix}${key}`, Array.isArray(value) ? value.join(' ') : (value ?? '')]],
    );
  const records = rows.map((row) => new Map(flat(row)));
  const heads = [...new Set(records.flatMap((record) => [...record.keys()]))];
  const quoted = (value) => `"${String(value ?? '').replaceAll('"', '""')}"`;
  return `${[heads, ...records.map((r) => heads.map((head) => r.get(head)))].map((r) => r.map(quoted).join(',')).join('\n')}\n`;
}

const FONT = 'Inter, Helvetica, Arial, sans-serif';
const WIDTH = 800;
/** Vega-Lite's own look is for screens of data; this one is for one finding in a README. */
const STYLE = {
  background: 'white',
  padding: { left: 20, right: 28, top: 20, bottom: 18 },
  font: FONT,
  view: { stroke: null },
  title: {
    ...{ anchor: 'start', frame: 'bounds', fontSize: 18, fontWeight: 600, color: COLOR.text, offset: 18 },
    ...{ subtitleFontSize: 11.5, subtitleColor: COLOR.quiet, subtitlePadding: 6, subtitleLineHeight: 16 },
  },
  axis: {
    ...{ labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, labelColor: COLOR.text, titleColor: COLOR.quiet },
    ...{ domain: false, ticks: false, gridColor: '#eceef2', labelPadding: 6, titlePadding: 10, labelLimit: 320 },
  },
  legend: { disable: true },
  text: { font: FONT, fontSize: 12, color: COLOR.text },
};

/** Writes SVG and PNG; what is missing for it, if anything. */
async function draw(file, { title, caption: _, ...spec }, subtitle) {
  for (const end of ['svg', 'png']) rmSync(new URL(`${file}.${end}`, OUT), { force: true }); // not one of an earlier run
  let libraries;
  try {
    libraries = await Promise.all([import('vega'), import('vega-lite'), import('@resvg/resvg-wasm')]);
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    return `${/'[^']+'/.exec(error.message)?.[0]} is not installed; \`npm install --prefix bench\` gets it`;
  }
  const [{ View, parse, textMetrics, Warn }, { compile }, { initWasm, Resvg }] = libraries;
  // Without a canvas Vega takes a letter for 0.8 em wide, and charts get empty margins; Inter's are 0.55 on average.
  textMetrics.width = ({ fontSize = 11 }, text) => 0.55 * fontSize * String(text ?? '').length;
  const full = { ...spec, title: { text: title, subtitle } };
  const svg = await new View(parse(compile({ ...full, config: STYLE }).spec), {
    renderer: 'none',
    logLevel: Warn,
  }).toSVG();
  write(`${file}.svg`, svg);
  // A font that comes along: the machines that measure often have none.
  const fontBuffers = ['400Regular/Inter_400Regular.ttf', '600SemiBold/Inter_600SemiBold.ttf'].map((ttf) =>
    readFileSync(new URL(import.meta.resolve(`@expo-google-fonts/inter/${ttf}`))),
  );
  await initWasm(readFileSync(new URL(import.meta.resolve('@resvg/resvg-wasm/index_bg.wasm'))));
  const font = { fontBuffers, defaultFontFamily: 'Inter', sansSerifFamily: 'Inter' };
  write(`${file}.png`, new Resvg(svg, { font, fitTo: { mode: 'zoom', value: 2 } }).render().asPng());
  return undefined;
}

/**
 * Horizontal bars, one a row, with the value written at its end and, where a row has one, its limit behind.
 * @param bars { label, value, text, color, limit?, min?, max?, group? }; each group is a chart below the other
 */
export function barChart(bars, axis) {
  const y = { field: 'label', type: 'nominal', sort: null, title: null, axis: { labelFontSize: 12 } };
  const x = (field) => ({ field, type: 'quantitative', title: axis, axis: { tickCount: 5, grid: false } });
  const some = (field) => bars.some((bar) => bar[field] !== undefined);
  const layer = [
    some('limit') && { mark: { type: 'bar', height: 22, color: COLOR.limit }, encoding: { x: x('limit') } },
    {
      mark: { type: 'bar', height: 22 },
      encoding: { x: x('value'), color: { field: 'color', type: 'nominal', scale: null } },
    },
    some('min') && {
      mark: { type: 'rule', color: COLOR.text, strokeWidth: 1.5 },
      encoding: { x: x('min'), x2: { field: 'max' } },
    },
    { mark: { type: 'text', align: 'left', dx: 8 }, encoding: { x: x('end'), text: { field: 'text' } } },
  ].filter(Boolean);
  const chart = (shown) => ({
    data: {
      values: shown.map((bar) => ({ ...bar, end: Math.max(bar.value, bar.limit ?? 0, bar.max ?? 0) })),
    },
    ...{ width: WIDTH - 360, height: { step: 34 }, encoding: { y }, layer },
  });
  const groups = [...new Set(bars.map(({ group }) => group))];
  if (groups.length === 1) return chart(bars);
  const heading = { fontSize: 13, offset: 8, frame: 'group' };
  return {
    vconcat: groups.map((text) => ({
      title: { text, ...heading },
      ...chart(bars.filter(({ group }) => group === text)),
    })),
  };
}

const pointColor = { field: 'color', type: 'nominal', scale: null };
const quantity = (field, title, scale, axis) => ({ field, type: 'quantitative', title, scale, axis });

/** Lines with their points, what each point says, and the line's name at its last one. */
function linesOf(points, named, place = {}) {
  const last = [...new Map(points.map((point) => [point.line, point])).values()];
  return [
    { mark: { type: 'line', strokeWidth: 2.5 }, encoding: { color: pointColor, detail: { field: 'line' } } },
    { mark: { type: 'circle', size: 60, opacity: 1 }, encoding: { color: pointColor } },
    { mark: { type: 'text', dy: -14, ...place }, encoding: { text: { field: 'text' } } },
    named && {
      data: { values: last },
      mark: { type: 'text', align: 'left', dx: 14, fontWeight: 600 },
      encoding: { text: { field: 'line' }, color: pointColor },
    },
  ].filter(Boolean);
}

/**
 * Lines over a number, each point labelled.
 * @param points { x, y, text, line, color? }
 */
export function lineChart(points, { x, y, log = false, values, place }) {
  const scale = log ? { type: 'log', base: 2, nice: false } : { nice: false };
  const shown = points.map((point) => ({ color: COLOR.ours, ...point }));
  return {
    ...{ data: { values: shown }, width: WIDTH - 220, height: 300 },
    encoding: {
      x: quantity('x', x, { ...scale, padding: 24 }, { values, grid: false, labelOverlap: true }),
      y: quantity('y', y, { zero: true }, { tickCount: 5 }),
    },
    layer: linesOf(shown, new Set(points.map(({ line }) => line)).size > 1, place),
  };
}

const DECADES = [0.1, 1, 10, 100, 1000].flatMap((ten) => [ten, 2 * ten, 5 * ten]);

/**
 * GMAC/s against MAC a byte of weights, under the line that memory of `read` GB/s allows.
 * @param points { x, y, text, line, color }
 */
export function rooflineChart(points, read) {
  const xs = points.map((point) => point.x);
  const top = 1.6 * Math.max(...points.map((point) => point.y));
  const from = Math.min(...xs) / 1.3;
  const to = Math.min(1.3 * Math.max(...xs), top / read);
  const roof = [from, to].map((x) => ({ x, y: x * read }));
  const domain = [Math.min(from * read, ...points.map((point) => point.y)) / 1.3, top];
  const log = { type: 'log', nice: false };
  return {
    ...{ data: { values: points }, width: WIDTH - 240, height: 380 },
    encoding: {
      x: quantity(
        'x',
        'MAC for each byte of weights',
        { ...log, base: 2 },
        { grid: false, tickCount: 8, format: '~g' },
      ),
      y: quantity('y', 'GMAC/s', { ...log, domain }, { values: DECADES, format: '~g' }),
    },
    layer: [
      { data: { values: roof }, mark: { type: 'line', strokeWidth: 8, color: COLOR.limit, strokeCap: 'round' } },
      {
        data: { values: roof.slice(1) },
        mark: { type: 'text', align: 'right', dx: -12, dy: 2, color: COLOR.quiet, text: `memory, ${short(read)} GB/s` },
      },
      ...linesOf(points, true),
    ],
  };
}
