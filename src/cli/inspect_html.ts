import { bytes, quantity } from './format.ts';
import { memoryParts, memoryRows } from './inspect_memory.ts';
import {
  counted,
  facts,
  grouped,
  MATRIX_COLUMNS,
  type Matrix,
  matrixRows,
  percent,
  type Report,
  range,
  type Sum,
  shown,
  summed,
  tensorRows,
  ternaryMatrices,
  tileRows,
} from './inspect_report.ts';
import { html, leftOut, type Markup, pairList, table } from './markup.ts';
import { version } from './version.ts';

// One file that needs no other: no script, no font, no address, and a policy that forbids them. What a model file says is
// text here, never markup (markup.ts).

/** Of a hostile file; real ones have up to a hundred layers. */
const MOST_LAYERS = 200;
const MOST_KINDS = 16;

const STYLE = `
:root { color-scheme: light dark; --bg: #fcfcfb; --ink: #1d1d1b; --muted: #66655f; --line: #dddcd6; --zero: #dcdbd5;
  --minus: #2468b8; --plus: #c04f1c; --c0: #2468b8; --c1: #c04f1c; --c2: #2f7d4f; --c3: #8a5bb5; --c4: #8a6d10; --c5: #56656f; --dot: #2468b8 }
@media (prefers-color-scheme: dark) { :root { --bg: #171716; --ink: #ecebe6; --muted: #a9a8a1; --line: #3b3b38; --zero: #494945; --dot: #5f9fe8 } }
* { box-sizing: border-box; margin: 0 }
body { margin: auto; max-width: 1160px; padding: 20px 16px 48px; background: var(--bg); color: var(--ink); font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 22px; margin-bottom: 12px; overflow-wrap: anywhere }
h2 { font-size: 16px; margin: 28px 0 6px }
p, footer { color: var(--muted); font-size: 13px; margin-bottom: 8px; max-width: 76ch }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin-top: 12px }
dt, th { color: var(--muted); font-weight: normal }
dd, td { overflow-wrap: anywhere; unicode-bidi: isolate }
.two { display: grid; gap: 0 36px; grid-template-columns: minmax(0, 1fr) }
.panels { display: grid; gap: 12px 24px; grid-template-columns: repeat(2, minmax(0, 1fr)); font-size: 13px; overflow-wrap: anywhere }
@media (min-width: 880px) { .two { grid-template-columns: repeat(2, minmax(0, 1fr)) } .panels { grid-template-columns: repeat(4, minmax(0, 1fr)) } }
svg { display: block; width: 100%; overflow: visible }
text { font: 11px system-ui, sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums }
text.muted { fill: var(--muted) } text.on { fill: #fff } text.mid { text-anchor: middle } text.end { text-anchor: end }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin-top: 6px; font-size: 13px }
li i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin-bottom: 12px }
th, td { text-align: left; padding: 3px 16px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n { text-align: right; white-space: nowrap } td.wide { min-width: 160px }
summary { cursor: pointer; margin-top: 12px }
`;

/** A page about a file that shows itself anywhere. */
export function page(report: Report): string {
  const matrices = ternaryMatrices(report);
  const tiles = tileRows(report);
  const metadata = Object.entries(report.metadata).map(([key, value]) => [key, shown(value)]);
  const name = /[^\\/]*$/.exec(report.file)?.[0] || report.file;
  const { markup } = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${name}</title>
<style>${{ markup: STYLE }}</style>
</head>
<body>
<h1>${name}</h1>
${pairList(facts(report))}
<h2>Bytes by type of tensor</h2>
${bar([...report.types].sort((a, b) => b.bytes - a.bytes).map((t) => [t.type, t.bytes, `, ${counted(t.tensors, 'tensor')}`]))}
${matrices.length > 0 ? [weights(matrices), scales(matrices), details(matrices)] : html`<p>No ternary weights were counted.</p>`}
${tiles.length > 0 ? html`<h2>Tiles</h2>${table(['type', 'shape', 'tiles', 'from'], tiles)}` : undefined}
${report.memory && memory(report.memory)}
<h2>Tensors</h2>
<p>Tensors that differ in their layer only are one row.</p>
${table(['name', 'type', 'shape', 'count', 'in all'], tensorRows(report))}
<h2>Metadata</h2>
${table(['key', 'value'], metadata)}
<footer>ternlm ${version}, ${new Date().toISOString().slice(0, 10)}</footer>
</body>
</html>
`;
  return markup;
}

function details(matrices: readonly Matrix[]): Markup {
  const list = table(MATRIX_COLUMNS, matrixRows(matrices, true));
  return html`<details><summary>All ${matrices.length} ternary matrices</summary>${list}</details>`;
}

/** Parts of a whole as one bar: name, bytes, and what else to say. */
function bar(parts: readonly (readonly [string, number, string?])[]): Markup {
  const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0) || 1;
  let x = 0;
  const drawn = parts.map(([name, size, note = ''], i) => {
    const width = (100 * size) / total;
    const text = `${name}: ${bytes(size)} (${width.toFixed(1)} %)${note}`;
    const colour = `var(--c${Math.min(i, 5)})`;
    const label = width > 14 ? html`<text class="on mid" x="${x + width / 2}%" y="18">${name}</text>` : undefined;
    const rect = html`<g><title>${text}</title>${rectangle(x, 0, width, 28, colour)}${label}</g>`;
    x += width;
    return { rect, item: html`<li><i style="background: ${colour}"></i>${text}</li>` };
  });
  return html`<svg role="img" height="28">${drawn.map(({ rect }) => rect)}</svg><ul>${drawn.map(({ item }) => item)}</ul>`;
}

/** x and width in percent, y and height in pixels: so charts have any width, and texts their size. */
function rectangle(x: number, y: number, width: number, height: number, fill: string): Markup {
  return html`<rect x="${round(x)}%" y="${y}" width="${round(width)}%" height="${height}" style="fill: ${fill}" stroke="var(--bg)"/>`;
}

const round = (x: number) => Number(x.toFixed(2));

function memory(m: NonNullable<Report['memory']>): Markup {
  const parts = memoryParts(m).map(([label, size, note]) => [label, size, note && `, ${note}`] as const);
  return html`<h2>Memory needed: ${bytes(m.totalBytes)}</h2>
${bar(parts)}${pairList(memoryRows(m))}`;
}

const ROW = 20;
/** Pixels above the rows: names of matrices, legend. */
const TOP = 66;
/** Percent of the width that the names of rows take. */
const GUTTER = 11;

/** Heat map of the share of 0, and bars of all three shares, in rows of the same layers. */
function weights(matrices: readonly Matrix[]): Markup {
  const all = [...grouped(matrices, ({ layer }) => layer)];
  const layers = all.slice(0, MOST_LAYERS).map(([layer, group]) => ({ layer, group, sum: summedUp(group) }));
  const kinds = [...grouped(matrices, ({ kind }) => kind).keys()];
  const height = TOP + ROW * layers.length + 4;
  const labels = layers.map(({ layer }, i) => {
    const short = layer.length > 6 ? `${layer.slice(0, 5)}…` : layer;
    const y = TOP + ROW * i + 14;
    return html`<text class="end muted" x="${GUTTER - 1}%" y="${y}"><title>${layer}</title>${short}</text>`;
  });
  return html`<div class="two">
<div><h2>Share of 0, by layer and matrix (%)</h2>
<svg role="img" height="${height}">${labels}${heatMap(layers, kinds.slice(0, MOST_KINDS))}</svg></div>
<div><h2>Shares of −1, 0 and +1, by layer (%)</h2>
<svg role="img" height="${height}">${labels}${shareBars(layers)}</svg></div>
</div>${leftOut(all.length - layers.length, 'layers')}${leftOut(kinds.length - MOST_KINDS, 'kinds of matrices')}`;
}

type Layers = readonly { layer: string; group: readonly Matrix[]; sum: Sum }[];

const summedUp = (group: readonly Matrix[]) => summed(group.map(({ share }) => share));
const sharesText = ({ minus, zero, plus }: Sum) => `−1 ${percent(minus)}, 0 ${percent(zero)}, +1 ${percent(plus)}`;

function heatMap(layers: Layers, kinds: readonly string[]): Markup {
  const width = (100 - GUTTER) / kinds.length;
  const cells = layers.flatMap(({ group }, row) =>
    kinds.flatMap((kind, column) => {
      const there = group.filter((matrix) => matrix.kind === kind);
      return there.length === 0 ? [] : [{ row, column, name: there[0].name, sum: summedUp(there) }];
    }),
  );
  const known = cells.map(({ sum }) => 100 * sum.zero).filter(Number.isFinite);
  const low = Math.floor(Math.min(...known));
  const high = Math.max(low + 1, Math.ceil(Math.max(...known)));
  const body = cells.map(({ row, column, name, sum }) => {
    const at = (100 * sum.zero - low) / (high - low);
    const [x, y] = [GUTTER + width * column, TOP + ROW * row];
    const ink = Number.isNaN(at) ? 'var(--muted)' : at > 0.55 ? '#fff' : '#10243c';
    const text = Number.isNaN(at) ? '?' : (100 * sum.zero).toFixed(high - low > 3 ? 0 : 1);
    return html`<g><title>${name}: ${sharesText(sum)}</title>${rectangle(x, y, width, ROW, heat(at))}
<text class="mid" style="fill: ${ink}" x="${round(x + width / 2)}%" y="${y + 14}">${text}</text></g>`;
  });
  const heads = kinds.map((kind, i) => {
    const turned = html`<text class="end" transform="rotate(38)">${kind.length > 14 ? `${kind.slice(0, 13)}…` : kind}</text>`;
    return html`<svg x="${round(GUTTER + width * (i + 0.5))}%" y="${TOP - 6}">${turned}</svg>`;
  });
  const ramp = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => rectangle(84 + 2 * i, 0, 2, 8, heat(i / 7)));
  const ends = html`<text class="muted" x="84%" y="20">${low}</text><text class="end muted" x="100%" y="20">${high}</text>`;
  return html`${known.length > 0 ? [ramp, ends] : undefined}${heads}${body}`;
}

/** From light to dark, on dark pages too. */
function heat(at: number): string {
  if (Number.isNaN(at)) return 'none';
  const [part, dark, light] = at < 0.5 ? [2 * at, '#5c98dc', '#e2edfa'] : [2 * at - 1, '#0e3a74', '#5c98dc'];
  return `color-mix(in oklab, ${dark} ${round(100 * part)}%, ${light})`;
}

function shareBars(layers: Layers): Markup {
  const keys = ['minus', 'zero', 'plus'] as const;
  const legend = keys.map((key, i) => {
    const square = html`<rect width="11" height="11" rx="2" fill="var(--${key})"/>`;
    return html`<svg x="${GUTTER + 14 * i}%" y="${TOP - 22}">${square}<text x="16" y="10">${['−1', '0', '+1'][i]}</text></svg>`;
  });
  const bars = layers.map(({ layer, sum }, row) => {
    const y = TOP + ROW * row;
    if (Number.isNaN(sum.zero)) return html`<text class="muted" x="${GUTTER}%" y="${y + 14}">not counted</text>`;
    let x = GUTTER;
    const parts = keys.map((key) => {
      const width = sum[key] * (100 - GUTTER);
      const text = html`<text class="mid ${key === 'zero' ? '' : 'on'}" x="${round(x + width / 2)}%" y="${y + 14}">${(100 * sum[key]).toFixed(1)}</text>`;
      const part = html`${rectangle(x, y, width, ROW, `var(--${key})`)}${width > 9 ? text : undefined}`;
      x += width;
      return part;
    });
    return html`<g><title>${layer}: ${sharesText(sum)} of ${quantity(sum.weights)} weights</title>${parts}</g>`;
  });
  return html`${legend}${bars}`;
}

const PANEL = 110;
/** Percent of a panel's width that the numbers of its axis take. */
const AXIS = 22;

/** A panel a kind of matrix: layers to the right, sizes of the scales upwards; all panels have the same axis. */
function scales(matrices: readonly Matrix[]): Markup {
  const plotted = matrices
    .filter(({ share }) => share.scales.distinct > 0)
    .map((matrix) => {
      const { min, max } = matrix.share.scales;
      return { ...matrix, ends: [Math.abs(min), Math.abs(max)].sort((a, b) => a - b) };
    });
  const low = Math.log(plotted.reduce((least, { ends }) => Math.min(least, ends[0]), Infinity) / 1.1);
  const high = Math.log(plotted.reduce((most, { ends }) => Math.max(most, ends[1]), 0) * 1.1);
  const y = (scale: number) => round(4 + PANEL * (1 - (Math.log(scale) - low) / (high - low)));
  const layers = new Map([...grouped(plotted, ({ layer }) => layer).keys()].map((layer, i) => [layer, i]));
  const x = (layer: string) =>
    round(AXIS + 5 + ((92 - AXIS) * (layers.get(layer) ?? 0)) / Math.max(1, layers.size - 1));
  const ticks = [0.08, 0.5, 0.92].map((at) => {
    const tick = Number(Math.exp(low + at * (high - low)).toPrecision(2));
    return html`<line x1="${AXIS}%" x2="100%" y1="${y(tick)}" y2="${y(tick)}" stroke="var(--line)"/>
<text class="end muted" x="${AXIS - 2}%" y="${y(tick) + 4}">${tick}</text>`;
  });
  const panels = [...grouped(plotted, ({ kind }) => kind)].slice(0, MOST_KINDS).map(([kind, group]) => {
    const kept = group.slice(0, MOST_LAYERS);
    const dots = kept.map(({ name, layer, ends, share }) => {
      const circles = [...new Set(ends)].map(
        (end) => html`<circle cx="${x(layer)}%" cy="${y(end)}" r="3.2" fill="var(--dot)"/>`,
      );
      const [from, to] = ends.map(y);
      const stem = html`<line x1="${x(layer)}%" x2="${x(layer)}%" y1="${from}" y2="${to}" stroke="var(--dot)" stroke-width="3"/>`;
      const count = share.scales.count > 1 ? `, ${share.scales.count} blocks` : '';
      return html`<g><title>${name}: ${range(share.scales.min, share.scales.max)}${count}</title>${stem}${circles}</g>`;
    });
    const edges = [...new Set([kept[0].layer, kept[kept.length - 1].layer])].map(
      (layer) => html`<text class="mid muted" x="${x(layer)}%" y="${PANEL + 20}">${layer.slice(0, 12)}</text>`,
    );
    return html`<div>${kind}<svg role="img" height="${PANEL + 24}">${ticks}${dots}${edges}</svg></div>`;
  });
  return html`<h2>Scales by layer</h2>
<p>Each dot is the scale of a matrix in its layer, on a logarithmic axis; where blocks have scales of their own, a line from
the least to the largest that is not 0.</p>
<div class="panels">${panels}</div>`;
}
