import type { Tiles } from '../dist/backend/backend.js';
import * as tl1 from '../dist/gguf/layouts/tl1.js';
import * as tl2 from '../dist/gguf/layouts/tl2.js';
import type { Compare, MatrixCase, TestCase } from './contract.js';
import type { Case, HostMatrix } from './outcome.js';
import type { Random } from './random.js';

type TiledType = 'tl1' | 'tl2';

const ENCODE = { tl1: tl1.encode, tl2: tl2.encode };

/** Type, M, K, tiles BM / BK / bm as real files have them, and wider ones: K2 of TL2 is 0, 32 and 64. */
const SHAPES: [TiledType, number, number, [number, number, number]][] = [
  ['tl1', 256, 256, [128, 64, 64]],
  ['tl1', 256, 384, [256, 128, 32]],
  ['tl1', 320, 640, [160, 64, 32]],
  ['tl1', 320, 256, [320, 128, 64]],
  ['tl1', 64, 2112, [32, 1056, 32]],
  ['tl2', 256, 512, [128, 96, 32]],
  ['tl2', 512, 256, [256, 96, 32]],
  ['tl2', 128, 1536, [128, 192, 32]],
  ['tl2', 320, 288, [160, 96, 32]],
  ['tl2', 320, 1376, [320, 96, 32]],
  ['tl2', 64, 1984, [64, 960, 32]],
];

function encoded(
  type: TiledType,
  rows: number,
  cols: number,
  tiles: Tiles,
  weights: Int8Array,
  scale: number,
): HostMatrix {
  const bytes = ENCODE[type]({ weights, scales: Float32Array.of(scale) }, [cols, rows], tiles);
  return { type, rows, cols, tiles, bytes };
}

function matrix(r: Random, type: TiledType, rows: number, cols: number, tiles: Tiles): HostMatrix {
  const weights = Int8Array.from({ length: rows * cols }, () => r.below(3) - 1);
  return encoded(type, rows, cols, tiles, weights, (0.5 + r.uniform()) / Math.sqrt(cols));
}

/** TL1 and TL2: lookups, repacked batches, repacking, and bytes that code nothing. All equal to the last bit. */
export function tiledContract(compare: Compare, testCase: TestCase, matrixCase: MatrixCase): void {
  for (const [type, m, k, [tileRows, tileCols, sub]] of SHAPES) {
    const tiles = { rows: tileRows, cols: tileCols, sub };
    const shape = `${type} ${m} x ${k}, tiles ${tileRows} x ${tileCols} of ${sub}`;
    for (const rows of [1, 2, 5, 7, 8, 16]) {
      matrixCase(type, `down ${shape}, ${rows} rows`, async (r, op) => {
        const w = matrix(r, type, m, k, tiles);
        const [h, x] = [r.normal(rows * k), r.normal(rows * m)];
        if (rows > 1) h.fill(0, k, 2 * k);
        await compare(op, r.seed, (b) => {
          const [hIn, wdown, to, scratch] = [b.put(h), b.matrix(w), b.put(x), b.scratch(rows, Math.max(m, k))];
          return { enqueue: () => b.ops.down({ rows, h: hIn, norm: undefined, wdown, x: to, scratch }), outputs: [to] };
        });
      });
    }

    for (const rows of [1, 16]) {
      matrixCase(type, `qkv and gate_up ${shape}, ${rows} rows`, async (r, op) => {
        const ms = [m, tileRows, 2 * tileRows];
        const ws = ms.map((n) => matrix(r, type, n, k, tiles));
        const up = matrix(r, type, m, k, tiles);
        const [x, weight] = [r.normal(rows * k), r.normal(k)];
        await compare(op, r.seed, (b) => {
          const [q, key, v, out] = [...ms, m].map((n) => b.out(rows * n));
          const [wq, wk, wv, wUp] = [...ws, up].map(b.matrix);
          const common = {
            rows,
            x: b.put(x),
            norm: b.norm(weight),
            scratch: b.scratch(rows, Math.max(2 * tileRows, m, k)),
          };
          const enqueue = (): void => {
            b.ops.qkv({ ...common, wq, wk, wv, q, k: key, v });
            b.ops.gateUp({ ...common, gate: wq, up: wUp, activation: 'relu2', out });
          };
          return { enqueue, outputs: [q, key, v, out] };
        });
      });
    }

    testCase(`repack ${shape}`, async (r, op) => compare(op, r.seed, repackCase(matrix(r, type, m, k, tiles))));

    // All weights 1 in one row, -1 in the next, all activations 127 or -127: what the narrow sums are bounded for.
    for (const rows of [2, 8]) {
      matrixCase(type, `down ${shape} at its largest sums, ${rows} rows`, async (r, op) => {
        const weights = Int8Array.from({ length: m * k }, (_, i) => (Math.floor(i / k) % 2 === 0 ? 1 : -1));
        const w = encoded(type, m, k, tiles, weights, 0.5);
        const h = Float32Array.from({ length: rows * k }, (_, i) => (i < k ? 1 : -1));
        await compare(op, r.seed, (b) => {
          const [hIn, wdown, to] = [b.put(h), b.matrix(w), b.put(new Float32Array(rows * m))];
          const scratch = b.scratch(rows, Math.max(m, k));
          return { enqueue: () => b.ops.down({ rows, h: hIn, norm: undefined, wdown, x: to, scratch }), outputs: [to] };
        });
      });
    }
  }

  testCase('check_ternary of tl1 and tl2', async (r, op) => {
    const tiles = { rows: 64, cols: 96, sub: 32 };
    const [tl1Matrix, tl2Matrix] = [matrix(r, 'tl1', 64, 384, tiles), matrix(r, 'tl2', 64, 352, tiles)];
    const pairs = (5 * 64 * 288) / 24;
    const padding = pairs + (64 * 64) / 4;
    // Where what is written: none; either nibble; two, of which the first counts; signs, where all bytes may stand; pairs; padding.
    const cases: [HostMatrix, [at: number, byte: number][]][] = [
      [tl1Matrix, []],
      [tl1Matrix, [[0, 0x90]]],
      [tl1Matrix, [[6143, 0x09]]],
      [tl2Matrix, []],
      [tl2Matrix, [[0, 0x0e]]],
      [
        tl2Matrix,
        [
          [3071, 0xe0],
          [700, 0xf0],
        ],
      ],
      [tl2Matrix, [[3072, 0xff]]],
      [tl2Matrix, [[pairs, 0x09]]],
      [tl2Matrix, [[padding - 1, 0x80 + 0x10]]],
      [tl2Matrix, [[padding, 0x01]]],
      [tl2Matrix, [[tl2Matrix.bytes.length - 33, 0x10]]],
    ];
    for (const [i, [w, bad]] of cases.entries()) {
      const broken: HostMatrix = { ...w, bytes: w.bytes.slice() };
      for (const [at, byte] of bad) broken.bytes[at] = byte;
      await compare(`${op}, case ${i}`, r.seed, (b) => {
        const [found, matrixIn] = [b.put(new Uint8Array(8).fill(0xff)), b.matrix(broken)];
        return { enqueue: () => b.ops.checkTernary({ w: matrixIn, found, at: 4 }), outputs: [found] };
      });
      await compare(`${op}, case ${i}, repacked`, r.seed, repackCase(broken, false));
    }
  });
}

/** To I2_S, and whether all bytes code weights; what those become that do not is up to the backend. */
function repackCase(w: HostMatrix, weights = true): Case {
  return (b) => {
    const [from, found] = [b.matrix(w), b.put(new Uint8Array(8).fill(0xff))];
    const tensor = b.put(new Uint8Array(w.rows * 32 * Math.ceil(w.cols / 128) + 32 + 64).fill(0xff));
    const to = { type: 'i2_s', rows: w.rows, cols: w.cols, tensor } as const;
    return { enqueue: () => b.ops.repack({ from, to, found, at: 4 }), outputs: weights ? [tensor, found] : [found] };
  };
}
