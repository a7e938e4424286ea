import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { html } from '../dist/cli/markup.js';
import { countTernary, type TernaryShare } from '../dist/cli/ternary.js';
import { readHeader } from '../dist/gguf/header.js';
import * as bf16 from '../dist/gguf/layouts/bf16.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import * as f32 from '../dist/gguf/layouts/f32.js';
import type { Ternary } from '../dist/gguf/layouts/ternary.js';
import { TERNARY, type TernaryType } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import { chooseTiles, isTiled, tilesEntry, tilesOf } from '../dist/gguf/tiles.js';
import { type TypedValue, writeGguf } from '../dist/gguf/writer.js';
import { random } from './random.js';
import type { PackedTensor } from './rewrite.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const models = join(root, 'test/golden/models');
const scratch = mkdtempSync(join(tmpdir(), 'ternlm-inspect-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const ARCHITECTURE: [string, TypedValue] = ['general.architecture', { type: 'string', value: 'bitnet-b1.58' }];

async function shareOf(tensor: PackedTensor, metadata: [string, TypedValue][] = []): Promise<TernaryShare | undefined> {
  const source = await openSource(writeGguf([ARCHITECTURE, ...metadata], [tensor]));
  const steps: number[] = [];
  const shares = await countTernary(source, await readHeader(source), undefined, (done) => steps.push(done));
  expect(steps).toEqual([...steps].sort((a, b) => a - b));
  expect(steps.at(-1) ?? 1).toBe(1);
  return shares.get(tensor.name);
}

/** What there is to count, found in another way: weight by weight. */
function expected({ weights, scales }: Ternary, [cols]: readonly number[]) {
  const usedRows = new Uint8Array(weights.length / cols);
  const usedCols = new Uint8Array(cols);
  const found = [0, 0, 0];
  for (let i = 0; i < weights.length; i++) {
    found[weights[i] + 1]++;
    if (weights[i] === 0) continue;
    usedRows[Math.floor(i / cols)] = 1;
    usedCols[i % cols] = 1;
  }
  const [minus, zero, plus] = found;
  const unused = (lines: Uint8Array) => lines.length - lines.reduce((sum, line) => sum + line, 0);
  const others = [...scales].filter((scale) => scale !== 0);
  return {
    counts: { minus, zero, plus, wrong: 0, odd: 0 },
    lines: { zeroRows: unused(usedRows), zeroCols: unused(usedCols) },
    scales: {
      ...{ count: scales.length, min: Math.min(...others), max: Math.max(...others) },
      ...{ distinct: new Set(others).size, zero: scales.length - others.length, broken: 0 },
    },
  };
}

function expectShare(share: TernaryShare | undefined, type: TernaryType, ternary: Ternary, dims: readonly number[]) {
  const { counts, lines, scales } = expected(ternary, dims);
  expect(share).toMatchObject({ weights: ternary.weights.length, counts, scales });
  if (type === 'I2_S' || type === 'TQ2_0') expect(share).toMatchObject(lines);
  else expect([share?.zeroRows, share?.zeroCols]).toEqual([undefined, undefined]);
}

/** Random weights with a row and two columns of zeros; a few scales, one of them 0. */
function randomTernary(type: TernaryType, [cols, rows]: readonly number[], seed: number): Ternary {
  const r = random(seed);
  const line = Int8Array.from({ length: 10_007 }, () => r.below(5) % 3).map((code) => code - 1);
  const weights = Int8Array.from({ length: cols * rows }, (_, i) =>
    i % cols === 1 || i % cols === cols - 1 || i < cols ? 0 : line[(i * 3 + (i >> 9)) % line.length],
  );
  const blocks = type === 'TQ1_0' || type === 'TQ2_0' ? weights.length / 256 : 1;
  return { weights, scales: Float32Array.from({ length: blocks }, (_, i) => [0.5, 0.25, 0, -2][i % 4]) };
}

function pack(type: TernaryType, dims: readonly [number, number], ternary = randomTernary(type, dims, 7)) {
  const tiles = isTiled(type) ? chooseTiles(type, dims[1], dims[0]) : undefined;
  const packed = TERNARY[type].encode(ternary, dims, tiles);
  return { ternary, tiles, tensor: { name: 'blk.0.ffn_up.weight', type, dims, packed } };
}

describe('counts as unpacking does', () => {
  test.each(readdirSync(models))('%s', async (name) => {
    const source = await openSource(join(models, name));
    const header = await readHeader(source);
    const shares = await countTernary(source, header, undefined, () => {});
    let ternaries = 0;
    for (const { name, type, dims, at, bytes } of header.tensors.values()) {
      if (!Object.hasOwn(TERNARY, type)) continue;
      const packed = new Uint8Array(bytes);
      await source.read(at, packed);
      const tiles = isTiled(type) ? tilesOf(type, dims, header.metadata, name) : undefined;
      expect(shares.get(name)?.tiles).toEqual(tiles);
      const ternary = TERNARY[type as TernaryType].unpack(packed, dims, name, tiles?.tiles);
      expectShare(shares.get(name), type as TernaryType, ternary, dims);
      ternaries++;
    }
    await source.close();
    expect(ternaries).toBe(28);
    expect(shares.size).toBe(ternaries); // and no norm, and not the embedding
  });

  // 6912 x 3072 does not fit into a piece; 2560 has 64 columns of pairs in TL2, 768 has none.
  test.each(
    (Object.keys(TERNARY) as TernaryType[]).flatMap((type) =>
      (
        [
          [256, 64],
          [768, 96],
          [2560, 128],
          [6912, 3072],
        ] as const
      ).map((dims) => [type, dims] as const),
    ),
  )('%s %o', async (type, dims) => {
    const { ternary, tiles, tensor } = pack(type, dims);
    const share = await shareOf(tensor, tiles && [tilesEntry(dims[1], dims[0], tiles)]);
    expectShare(share, type, ternary, dims);
    if (tiles !== undefined) expect(share?.tiles).toEqual({ tiles, origin: 'file' });
  });
});

describe('what is broken is counted, not refused', () => {
  const dims = [512, 64] as const;
  test.each<[string, TernaryType, (packed: Uint8Array) => void, object]>([
    ['code 3', 'I2_S', (p) => p.fill(0xff, 8, 10), { counts: { wrong: 8, odd: 0 } }],
    ['scale 0', 'I2_S', (p) => p.fill(0, p.length - 32), { scales: { broken: 1, distinct: 0, min: 0, max: 0 } }],
    ['scale NaN', 'TL1', (p) => p.fill(0xff, p.length - 32), { scales: { broken: 1 } }],
    ['pairs 9 and 15', 'TL1', (p) => p.set([0x9f], 100), { counts: { wrong: 2 } }],
    ['triples 14 and 15', 'TL2', (p) => p.set([0xef], 100), { counts: { wrong: 2 } }],
    // 480 columns of triples take 5/24 of a byte a weight, the others 1/4: 6400 + 512 bytes, and padding.
    ['pair 12', 'TL2', (p) => p.set([0xc0], 64 * 480 * (5 / 24) + 5), { counts: { wrong: 1 } }],
    ['padding', 'TL2', (p) => p.set([7], p.length - 40), { counts: { wrong: 1 } }],
    ['odd bytes in qs and qh', 'TQ1_0', (p) => p.set([1, 0, 2], 47), { counts: { wrong: 0, odd: 2 } }],
    ['code 3', 'TQ2_0', (p) => p.set([0xc0], 66 + 3), { counts: { wrong: 1 } }],
    ['scale infinite', 'TQ2_0', (p) => p.set([0, 0x7c], 64), { scales: { broken: 1, count: 128 } }],
  ])('%s in %s', async (_, type, harm, found) => {
    const { tensor, tiles } = pack(type, dims);
    harm(tensor.packed);
    expect(await shareOf(tensor, tiles && [tilesEntry(dims[1], dims[0], tiles)])).toMatchObject(found);
  });
});

describe('floats', () => {
  const LAYOUTS = { F16: f16, BF16: bf16, F32: f32 } as const;
  const types = Object.keys(LAYOUTS) as (keyof typeof LAYOUTS)[];
  const dims = [512, 400];
  const values = Float32Array.from({ length: 512 * 400 }, (_, i) => [0.375, 0, -0.375, -0][(i * 7) % 4]);
  const share = (type: keyof typeof LAYOUTS, x: Float32Array, shape: readonly number[] = dims) =>
    shareOf({ name: 'a', type, dims: shape, packed: LAYOUTS[type].encode(x) });

  test.each(types)('%s that are ternary', async (type) => {
    expect(await share(type, values)).toMatchObject({
      ...{ weights: 204800, counts: { minus: 51200, zero: 102400, plus: 51200, wrong: 0, odd: 0 } },
      scales: { count: 1, min: 0.375, max: 0.375, broken: 0 },
    });
  });

  test.each(types)('%s that are not', async (type) => {
    const last = values.slice();
    last[last.length - 1] = 0.5;
    for (const other of [last, values.map(() => 0), values.map(() => Infinity), values.map(() => NaN)]) {
      expect(await share(type, other)).toBeUndefined();
    }
    expect(await share(type, values, [values.length])).toBeUndefined(); // a vector
  });
});

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function inspect(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [join(root, 'dist/cli/main.js'), 'inspect', ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

function modelFile(name: string, tensors: readonly PackedTensor[], metadata: [string, TypedValue][] = []): string {
  const file = join(scratch, name);
  writeFileSync(file, writeGguf([ARCHITECTURE, ...metadata], tensors));
  return file;
}

test('tiles: where they were found, and that they are not known', async () => {
  const known = pack('TL1', [4096, 1536]).tensor;
  const odd = pack('TL1', [128, 96]).tensor;
  const lost = pack('TL2', [640, 96]).tensor;
  const file = modelFile('tiles.gguf', [
    { ...known, name: 'blk.0.a.weight' },
    { ...odd, name: 'blk.1.a.weight' },
    { ...lost, name: 'blk.2.a.weight' },
  ]);
  const [text, option, wrong] = await Promise.all([
    inspect(file),
    inspect(file, '--json', '--layout', 'bitnet_b1_58-large'),
    inspect(file, '--layout', 'falcon'),
  ]);
  expect(text.code, text.stderr).toBe(0);
  expect(text.stdout).toMatch(/^ +TL1 +4096 x 1536 +BM 256, BK 128, bm 32 +preset bitnet_b1_58-large$/m);
  expect(text.stdout).toMatch(/^ +TL1 +128 x 96 +not known +.*not in the file, and no preset has that shape/m);
  expect(text.stdout).toMatch(/^ +1 +\d+\.\d % +\d+\.\d % +\d+\.\d % /m); // TL1 is counted without tiles, TL2 is not
  expect(text.stdout).toMatch(/^ +2 +\? +\? +\? +0\.500; 1 matrix not counted: tiles not known$/m);
  const shares = JSON.parse(option.stdout).tensors.map((t: { ternary: TernaryShare }) => t.ternary);
  expect(shares[0].tiles).toEqual({ tiles: { rows: 256, cols: 128, sub: 32 }, origin: 'option' });
  expect(shares[1].tilesFault).toContain("preset 'bitnet_b1_58-large' has no TL1 96x128");
  expect(shares[2].counts).toBeUndefined();
  expect(wrong).toMatchObject({ code: 1, stdout: '' });
  expect(wrong.stderr).toMatch(/^ternlm: --layout: expected bitnet_b1_58-large, .* or tiny, got "falcon"\n$/);
});

test('rows and columns of zeros, each matrix by itself, and ternary floats', async () => {
  const dims = [256, 8] as const;
  const halves = f16.encode(Float32Array.from({ length: 2048 }, (_, i) => (i % 3) - 1));
  const file = modelFile('lines.gguf', [
    { ...pack('TQ2_0', dims).tensor, name: 'blk.0.a.weight' },
    { ...pack('TQ2_0', dims).tensor, name: 'blk.1.a.weight' },
    { name: 'blk.2.b.weight', type: 'F16', dims, packed: halves },
  ]);
  const [grouped, single] = await Promise.all([inspect(file), inspect(file, '--matrices')]);
  expect(grouped.stdout).toMatch(/^ternary +in F16: 1 matrix, which convert can repack$/m);
  expect(grouped.stdout).toMatch(
    /^ +blk\.\*\.a\.weight +TQ2_0 +2 .* 2 of 16 +4 of 512 +-2\.00 to 0\.500; 4 blocks of/m,
  );
  expect(grouped.stdout).toMatch(/^ +blk\.\*\.b\.weight +F16 +1 +33\.3 % +- +- +1\.00$/m);
  expect(single.stdout).toMatch(
    /^ +blk\.1\.a\.weight +TQ2_0 +1 .* 1 of 8 +2 of 256 +-2\.00 to 0\.500; 3 distinct; 2 bl/m,
  );
});

/** The texts of a page whose tags close as they open; @throws on a page where they do not. */
function texts(page: string): string[] {
  expect(page.startsWith('<!doctype html>')).toBe(true);
  const open: string[] = [];
  const found: string[] = [];
  const rest = page.replace('<!doctype html>', '').replace(/<style>[^<]*<\/style>/, '');
  const attribute = / [a-z0-9-]+="[^"<>]*"/.source;
  const token = new RegExp(`<(/?)([a-z0-9]+)((?:${attribute})*)(/?)>|([^<>]+)`, 'gy');
  for (let at = 0; at < rest.length; at = token.lastIndex) {
    token.lastIndex = at;
    const match = token.exec(rest);
    if (match === null) throw new Error(`not well-formed: ${rest.slice(at, at + 60)}`);
    const [, closing, name, , empty, text] = match;
    if (text !== undefined) found.push(text.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code))));
    else if (closing === '/') expect(open.pop()).toBe(name);
    else if (empty === '' && name !== 'meta') open.push(name);
  }
  expect(open).toEqual([]);
  return found;
}

describe('--html', () => {
  const hostile = `</td><script>alert('x')</script>" onload="&amp;\u0007`;

  test('shows what a model says as text, and refers to nothing outside', async () => {
    const file = modelFile(
      '<b>&.gguf',
      [
        { ...pack('TQ1_0', [512, 8]).tensor, name: 'blk.0.<img src=x>"\'' },
        { ...pack('I2_S', [256, 8]).tensor, name: 'blk.</text>' },
        { ...pack('TL2', [640, 96]).tensor, name: 'blk.7.&lt;' },
      ],
      [
        ['a', { type: 'string', value: hostile }],
        ['<script>', { type: 'array', of: 'string', value: [hostile] }],
      ],
    );
    const out = join(scratch, 'hostile.html');
    const ended = await inspect(file, '--html', out);
    expect(ended).toMatchObject({ code: 0, stdout: '' });
    const page = readFileSync(out, 'utf8');
    const shown = texts(page);
    expect(shown).toContain('<b>&.gguf');
    expect(shown).toContain(JSON.stringify(hostile.replace('\u0007', '\\u0007')).replace('\\\\u', '\\u'));
    expect(shown).toContain('<script>');
    expect(shown.join('\n')).toContain('<img src=x>"\'');
    expect(page).not.toMatch(/<(script|img|link|iframe|object|a)\b|\bon\w+="|url\(|@import|https?:/);
    expect(page).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
  });

  test.each(readdirSync(models))('%s: a cell a matrix, a dot a scale', async (name) => {
    const out = join(scratch, `${name}.html`);
    expect((await inspect(join(models, name), '--html', out)).code).toBe(0);
    const page = readFileSync(out, 'utf8');
    const shown = texts(page).join('\n');
    for (const heading of ['Share of 0', 'Shares of −1, 0 and +1', 'Scales by layer', 'Bytes by type', 'Metadata']) {
      expect(shown).toContain(heading);
    }
    expect(shown.match(/blk\.\d\.\w+\.weight: −1 \d\d\.\d %, 0 \d\d\.\d %, \+1/g)).toHaveLength(28);
    expect(page.match(/<circle /g)).toHaveLength(28);
    expect(page).not.toMatch(/NaN|Infinity|undefined/);
  });

  test('a file without ternary weights, and one with nothing in it', async () => {
    for (const tensors of [[], [{ name: 'n', type: 'F32' as const, dims: [8], packed: new Uint8Array(32) }]]) {
      const out = join(scratch, `${tensors.length}.html`);
      const ended = await inspect(modelFile(`${tensors.length}.gguf`, tensors), '--html', out, '--json');
      expect(ended.code, ended.stderr).toBe(0);
      expect(JSON.parse(ended.stdout).tensors).toHaveLength(tensors.length);
      expect(texts(readFileSync(out, 'utf8')).join('\n')).not.toMatch(/Share of 0|NaN|Infinity/);
    }
  });

  test('leaves what is there on failure, and nothing beside it', async () => {
    const folder = join(scratch, 'failure');
    mkdirSync(join(folder, 'taken.html'), { recursive: true });
    const out = join(folder, 'page.html');
    writeFileSync(out, 'as it was');
    const model = join(models, 'tiny-bitnet-tq1_0.gguf');
    const half = join(scratch, 'half.gguf');
    writeFileSync(half, readFileSync(model).subarray(0, 400_000));
    const ended = await Promise.all([
      inspect(half, '--html', out),
      inspect(model, '--html', join(folder, 'taken.html')),
      inspect(model, '--html', join(folder, 'gone', 'page.html')),
      inspect('--html', join(folder, 'model.gguf')),
    ]);
    for (const { code, stdout, stderr } of ended) {
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(/^ternlm: .*\n$/);
    }
    expect(ended[3].stderr).toMatch(/--html: expected a name that ends in \.html, got ".*model\.gguf"/);
    expect(readFileSync(out, 'utf8')).toBe('as it was');
    expect(readdirSync(folder).sort()).toEqual(['page.html', 'taken.html']);
    expect((await inspect(model, '--html', out)).code).toBe(0);
    expect(readFileSync(out, 'utf8')).toMatch(/^<!doctype html>/);
  });
});

test('a template takes texts as texts', () => {
  const item = html`<i title="${`"'`}">${'<&>'}</i>`;
  expect(html`<p>${[item, 1, undefined]}${'`'}</p>`.markup).toBe(
    '<p><i title="&#34;&#39;">&#60;&#38;&#62;</i>1&#96;</p>',
  );
});
