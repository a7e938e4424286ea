import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as bf16 from '../dist/gguf/layouts/bf16.js';
import { checkScales } from '../dist/gguf/layouts/blocks.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import * as f32 from '../dist/gguf/layouts/f32.js';
import * as i2s from '../dist/gguf/layouts/i2_s.js';
import * as q40 from '../dist/gguf/layouts/q4_0.js';
import * as q6k from '../dist/gguf/layouts/q6_k.js';
import * as q80 from '../dist/gguf/layouts/q8_0.js';
import * as tl2 from '../dist/gguf/layouts/tl2.js';
import * as tq10 from '../dist/gguf/layouts/tq1_0.js';
import * as tq20 from '../dist/gguf/layouts/tq2_0.js';
import { decode, layoutOf, requireLayout, typeNames } from '../dist/gguf/layouts.js';
import { decodeRow } from '../dist/reference/decode_row.js';

const golden = (name: string) => fileURLToPath(new URL(`golden/packing/${name}`, import.meta.url));

test('sizes', () => {
  expect(f32.sizeBytes([3, 5])).toBe(60);
  expect(f16.sizeBytes([3, 5])).toBe(30);
  expect(bf16.sizeBytes([3, 5])).toBe(30);
  expect(i2s.sizeBytes([256, 128])).toBe(8224);
  expect(i2s.sizeBytes([128, 3, 2])).toBe(224);
  // TL2 as made by bitnet.cpp, with the tail; the columns in triples make no difference
  expect([256, 512, 288].map((k) => tl2.sizeBytes([k, 256]))).toEqual([16416, 30080, 18144]);
  expect(tl2.sizeBytes([6912, 2560])).toBe(3_713_760);
  expect(tq10.sizeBytes([512, 5, 2])).toBe(1080);
  expect(tq20.sizeBytes([512, 5, 2])).toBe(1320);
  expect(q40.sizeBytes([96, 5])).toBe(270);
  expect(q80.sizeBytes([96, 5])).toBe(510);
  expect(q6k.sizeBytes([512, 5, 2])).toBe(4200);
});

test('types have names, and only some are read', () => {
  const names: Record<number, string[]> = {
    ...{ 0: ['F32'], 1: ['F16'], 2: ['Q4_0'], 8: ['Q8_0'], 14: ['Q6_K'], 30: ['BF16'], 34: ['TQ1_0'], 35: ['TQ2_0'] },
    ...{ 36: ['I2_S'], 38: ['TL1'], 39: ['TL2', 'MXFP4'], 3: ['Q4_1'], 40: ['NVFP4'], 4: [], 250: [] },
  };
  for (const [id, expected] of Object.entries(names)) expect([id, typeNames(Number(id))]).toEqual([id, expected]);
  const types = [...Array(43).keys()].flatMap(typeNames);
  const read = 'F32,F16,Q4_0,Q8_0,Q6_K,BF16,TQ1_0,TQ2_0,I2_S,TL1,TL2';
  expect(types.filter((type) => layoutOf(type) !== undefined).join()).toBe(read);
  expect(() => requireLayout('MXFP4', "m.gguf: tensor 'x'")).toThrow(
    "m.gguf: tensor 'x': type MXFP4; this build reads F32, F16, BF16, Q8_0, Q6_K, Q4_0, I2_S, TL1, TL2, TQ1_0, TQ2_0",
  );
  expect(() => decode('F32', new Uint8Array(5), [1], 'x')).toThrow(/x: 5 bytes, expected 4 for \[1\] \(F32\)/);
  expect(decode('F16', Uint8Array.of(0, 0x3c), [1], 'x')).toEqual(Float32Array.of(1));
});

test('F32 keeps every bit, at any address', () => {
  const bytes = Uint8Array.from({ length: 9 }, (_, i) => i * 37);
  const values = f32.decode(bytes.subarray(1));
  expect(f32.encode(values)).toEqual(bytes.subarray(1));
  expect(f32.decode(new Uint8Array(Float32Array.of(0.1, -2).buffer))).toEqual(Float32Array.of(0.1, -2));
});

test('F16: all 65536 go to f32 and back', () => {
  const all = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
  const values = f16.decode(all);
  const back = new Uint16Array(f16.encode(values).buffer);
  for (let h = 0; h < 65536; h++) {
    const sign = h & 0x8000 ? -1 : 1;
    const exponent = (h >> 10) & 31;
    const mantissa = h & 0x3ff;
    const normal = 2 ** (exponent - 15) * (1 + mantissa / 1024);
    const special = mantissa ? Number.NaN : Infinity;
    const value = sign * (exponent === 31 ? special : exponent === 0 ? mantissa * 2 ** -24 : normal);
    if (!Object.is(values[h], value) || !Object.is(f16.f16Value(h), value)) expect.fail(`${h}: ${values[h]}, ${value}`);
    if (Number.isNaN(value)) expect(f16.f16Value(back[h])).toBeNaN();
    else if (back[h] !== h) expect.fail(`${h} came back as ${back[h]}`);
  }
});

test('F16 rounds to the nearest, ties to even', () => {
  const cases: [number, number][] = [
    [1 / 3, 0x3555],
    [65504, 0x7bff],
    [65519.99, 0x7bff],
    [65520, 0x7c00],
    [-65520, 0xfc00],
    [1e30, 0x7c00],
    [Infinity, 0x7c00],
    [2 ** -24, 1],
    [2 ** -25, 0],
    [2 ** -25 * 1.0001, 1],
    [2 ** -24 * 1.5, 2],
    [2 ** -24 * 2.5, 2],
    [2 ** -14 - 2 ** -25, 0x400],
    [2 ** -14 - 2 ** -24, 0x3ff],
    [-(2 ** -26), 0x8000],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [2 - 2 ** -12, 0x4000],
  ];
  for (const [value, bits] of cases) expect([value, f16.f16Bits(value)]).toEqual([value, bits]);
  expect(f16.f16Value(f16.f16Bits(Number.NaN))).toBeNaN();
  fc.assert(
    fc.property(fc.float({ min: -65519, max: 65519, noNaN: true }), (value) => {
      const bits = f16.f16Bits(value) & 0x7fff;
      const error = (b: number) => Math.abs(f16.f16Value(b) - Math.abs(value));
      for (const other of [bits - 1, bits + 1]) {
        if (other < 0 || other >= 0x7c00) continue;
        if (error(other) < error(bits) || (error(other) === error(bits) && (bits & 1) === 1)) return false;
      }
      return f16.f16Bits(value) >= 0x8000 === (value < 0 || Object.is(value, -0));
    }),
    { numRuns: 2000 },
  );
});

test('BF16 is the upper half, rounded to the nearest, ties to even', () => {
  const bits = (...values: number[]) => [...new Uint16Array(bf16.encode(Float32Array.from(values)).buffer)];
  expect(bits(1, -2, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4028234663852886e38, Infinity, 2 ** -133)).toEqual([
    0x3f80, 0xc000, 0x3f80, 0x3f82, 0x7f80, 0x7f80, 0x0001,
  ]);
  expect(bf16.decode(bf16.encode(Float32Array.of(Number.NaN)))[0]).toBeNaN();
  const nan = new Float32Array(Uint32Array.of(0x7f800001).buffer); // its payload lies in the lower half
  expect(bf16.decode(bf16.encode(nan))[0]).toBeNaN();
  for (let h = 0; h < 65536; h++) {
    const packed = Uint8Array.of(h & 255, h >> 8);
    const value = bf16.decode(packed);
    if (!Number.isNaN(value[0]) && Buffer.compare(bf16.encode(value), packed) !== 0) expect.fail(`${h}`);
  }
  expect(bf16.decode(Uint8Array.of(0x80, 0x3f, 0, 0xc0))).toEqual(Float32Array.of(1, -2));
});

/** Packed bytes with 1.5 as f16 scale of each block, all else 0 but `set`. */
function blockBytes(size: number, scaleAt: number, set: Record<number, number>): Uint8Array {
  const bytes = new Uint8Array(size);
  bytes.set([0x00, 0x3e], scaleAt);
  for (const [at, value] of Object.entries(set)) bytes[Number(at)] = value;
  return bytes;
}

test('Q4_0 by hand', () => {
  const values = q40.decode(blockBytes(18, 0, { 2: 0x9f, 3: 0x08, 17: 0x70 }), [32], 'x');
  const expected = new Float32Array(32).fill(-12);
  [expected[0], expected[16], expected[1], expected[17], expected[15], expected[31]] = [10.5, 1.5, 0, -12, -12, -1.5];
  expect(values).toEqual(expected);
  // Steps of 2: 7 codes on each side of 8, halves go up.
  const weights = Float32Array.from({ length: 32 }, (_, i) => ({ 0: 14, 16: -14, 1: 1, 17: -1, 2: 2.5 })[i] ?? 0);
  const packed = q40.encode(weights);
  expect([...packed.subarray(0, 6)]).toEqual([0x00, 0x40, 0x1f, 0x89, 0x89, 0x88]);
});

test('Q8_0 by hand', () => {
  const values = q80.decode(blockBytes(34, 0, { 2: 1, 3: 0xff, 10: 127, 33: 0x80 }), [32], 'x');
  const expected = new Float32Array(32);
  [expected[0], expected[1], expected[8], expected[31]] = [1.5, -1.5, 190.5, -192];
  expect(values).toEqual(expected);
  // 127 steps of 2: halves go up.
  const weights = Float32Array.from({ length: 32 }, (_, i) => [254, -254, 1, -1, 2.5][i] ?? 0);
  const packed = q80.encode(weights);
  expect([...packed.subarray(0, 8)]).toEqual([0x00, 0x40, 127, 129, 1, 0, 1, 0]);
});

test('Q6_K by hand', () => {
  // Each weight of the list has the code 0b10_0110 = 38, q = 6; all others code 0, q = -32. Scale i of 16 is i - 4.
  const set: Record<number, number> = {};
  for (let i = 0; i < 16; i++) set[192 + i] = i - 4;
  const low = { 0: 0x06, 33: 0x06, 3: 0x60, 63: 0x60, [64 + 20]: 0x66, 127: 0x06 };
  const high = { 128: 2, 129: 2 << 2, 131: 2 << 4, 159: 2 << 6, [160 + 20]: (2 << 4) | 2, 191: 2 << 2 };
  const values = q6k.decode(blockBytes(210, 208, { ...set, ...low, ...high }), [256], 'x');
  const codes38 = [0, 32 + 1, 64 + 3, 96 + 31, 128 + 20, 128 + 64 + 20, 128 + 32 + 31];
  for (let i = 0; i < 256; i++) {
    const q = codes38.includes(i) ? 6 : -32;
    expect([i, values[i] + 0]).toEqual([i, 1.5 * ((i >> 4) - 4) * q + 0]);
  }
  // Steps of 2 in the first group, of 4 in the last, as d = 4 / 127 rounded up allows; the rest is nothing.
  const weights = new Float32Array(256);
  [weights[0], weights[1], weights[255]] = [62, -62, 124];
  const packed = q6k.encode(weights);
  const d = f16.f16Value(packed[208] | (packed[209] << 8));
  expect([d >= 4 / 127, d < (4 / 127) * 1.001]).toEqual([true, true]);
  expect([packed[192], packed[193], packed[207]]).toEqual([64, 0, 127]);
  // Codes 63 and 1 of low bits 15, high bits 3 and low bits 1; code 32 elsewhere: high bits 2.
  expect([packed[0], packed[1], packed[2], packed[127]]).toEqual([0x0f, 0x01, 0x00, 0xf0]);
  expect([packed[128], packed[129], packed[130], packed[191]]).toEqual([0xab, 0xa8, 0xaa, 0xea]);
});

const BLOCKS = { q4_0: q40, q8_0: q80, q6_k: q6k } as const;

describe.each(['q4_0', 'q8_0', 'q6_k'] as const)('%s', (name) => {
  const layout = BLOCKS[name];
  const { weights: width, bytes: size, scaleAt } = layout.blocks;

  test('against a golden of gguf-py, here and in the reference', () => {
    const packed = new Uint8Array(readFileSync(golden(`${name}_4_blocks.packed`)));
    const values = new Float32Array(new Uint8Array(readFileSync(golden(`${name}_4_blocks.f32`))).buffer);
    expect(values.length).toBe(4 * width);
    expect(layout.decode(packed, [4 * width], 'x')).toEqual(values);
    expect(decodeRow(name, packed, 0, 4 * width)).toEqual(values);
    expect(decodeRow(name, packed, 2, width)).toEqual(values.subarray(2 * width, 3 * width));
  });

  const weight = fc.oneof(
    fc.float({ min: -1, max: 1, noNaN: true }),
    fc.float({ min: -65504, max: 65504, noNaN: true }),
    fc.float({ min: -(2 ** -20), max: 2 ** -20, noNaN: true }),
  );
  const groups = fc.array(fc.array(weight, { minLength: 16, maxLength: 16 }), { minLength: 16, maxLength: 48 });

  test('what is packed is off by at most half a step, and packed again it stays', () => {
    fc.assert(
      fc.property(groups, (list) => {
        const numbers = list.flat();
        const x = Float32Array.from(numbers.slice(0, numbers.length - (numbers.length % width)));
        const packed = layout.encode(x);
        expect(packed.length).toBe(layout.sizeBytes([x.length]));
        const values = layout.decode(packed, [x.length], 'x');
        for (let i = 0; i < x.length; i++) {
          const at = Math.floor(i / width) * size;
          const d = f16.f16Value(packed[at + scaleAt] | (packed[at + scaleAt + 1] << 8));
          const step = name !== 'q6_k' ? d : d * packed[at + 192 + ((i % 256) >> 4)];
          const off = Math.abs(values[i] - x[i]);
          if (!(off <= (step / 2) * (1 + 2 ** -20)))
            expect.fail(`weight ${i}: ${x[i]} became ${values[i]}, step ${step}`);
        }
        expect(decodeRow(name, packed, 0, x.length)).toEqual(values);
      }),
      { numRuns: 100 },
    );
  });

  test('refuses scales that are not finite, in whichever piece they come', () => {
    const packed = layout.encode(new Float32Array(5 * width).fill(1));
    for (const [bits, scale] of [
      [0x7c00, 'Infinity'],
      [0xfc00, '-Infinity'],
      [0x7e01, 'NaN'],
    ] as const) {
      for (let block = 0; block < 5; block++) {
        const bad = packed.slice();
        const at = block * size + scaleAt;
        bad.set([bits & 255, bits >> 8], at);
        const message = `x: block ${block}: scale ${scale}, expected a finite number`;
        expect(() => layout.decode(bad, [5 * width], 'x')).toThrow(message);
        for (const cut of [2, 16, size, size + 2, 2 * size, bad.length]) {
          let error: unknown;
          for (let from = 0; from < bad.length && error === undefined; from += cut) {
            try {
              checkScales(layout.blocks, bad.subarray(from, from + cut), from, 'x', 1000);
            } catch (thrown) {
              error = thrown;
            }
          }
          expect(error).toMatchObject({ offset: 1000 + at, message: expect.stringContaining(message) });
        }
      }
    }
  });

  test('refuses what it cannot pack', () => {
    expect(() => layout.encode(new Float32Array(width + 16))).toThrow(`${width + 16} weights, expected a multiple of`);
    for (const value of [Number.NaN, Infinity, -Infinity]) {
      expect(() => layout.encode(new Float32Array(width).fill(value, 7, 8))).toThrow(`weight 7 is ${value}`);
    }
    expect(() => layout.encode(new Float32Array(width).fill(1e9))).toThrow('expected at most 65504');
  });
});
