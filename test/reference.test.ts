import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as tl1 from '../dist/gguf/layouts/tl1.js';
import * as tl2 from '../dist/gguf/layouts/tl2.js';
import * as tq20 from '../dist/gguf/layouts/tq2_0.js';
import { attention, softmax } from '../dist/reference/attention.js';
import { bitLinear } from '../dist/reference/bit_linear.js';
import { bitLinearTq } from '../dist/reference/bit_linear_tq.js';
import { denseLinear } from '../dist/reference/dense_linear.js';
import { fromF16, toBf16, toF16 } from '../dist/reference/f16.js';
import { glu } from '../dist/reference/glu.js';
import { kvIndex } from '../dist/reference/kv_cache.js';
import { quantizeI8 } from '../dist/reference/quantize_i8.js';
import { quantizeQ8K } from '../dist/reference/quantize_q8_k.js';
import { repackTq1 } from '../dist/reference/repack.js';
import { unpackTl } from '../dist/reference/repack_tl.js';
import { rmsNorm } from '../dist/reference/rms_norm.js';
import { rope } from '../dist/reference/rope.js';
import { agree } from './agree.js';
import { attentionBound, ropeBound, ULP } from './bounds.js';
import { random, ropeTable, ternaryBytes } from './random.js';

const sizeBytes = { tl1: tl1.sizeBytes, tl2: tl2.sizeBytes };

const f32 = (...x: number[]): Float32Array<ArrayBuffer> => Float32Array.from(x);

describe('the reference by hand', () => {
  it('f16: every half there and back, ties to even, overflow', () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 65536; bits++) {
      const value = fromF16(bits);
      if (Number.isNaN(value)) continue;
      const even = bits & 1 ? bits + 1 : bits;
      const tie = (bits & 0x7fff) < 0x7bff ? toF16((value + fromF16(bits + 1)) / 2) : even;
      if (toF16(value) !== bits || tie !== even) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect([1, -2, 2 ** -24, 65504, 65519, 65520, Number.NaN].map(toF16)).toEqual([
      0x3c00, 0xc000, 1, 0x7bff, 0x7bff, 0x7c00, 0x7e00,
    ]);
    expect([1, -1, 1 + 2 ** -8, 1 + 3 * 2 ** -8].map(toBf16)).toEqual([0x3f80, 0xbf80, 0x3f80, 0x3f82]);
  });

  it('rms_norm', () => {
    // mean(9, 16) = 12.5; 12.5 + 3.5 = 16; 1 / 4.
    expect(rmsNorm(f32(3, 4), f32(1, 2), 3.5)).toEqual(f32(0.75, 2));
  });

  it('quantize_i8: ties to even, zero rows, small rows', () => {
    expect(quantizeI8(f32(127, 0.5, 1.5, 2.5, -0.5, -1.5, -127))).toEqual({
      q: Int8Array.of(127, 0, 2, 2, 0, -2, -127),
      scale: 1,
      sum: 2,
    });
    expect(quantizeI8(f32(0, 0))).toEqual({ q: Int8Array.of(0, 0), scale: Math.fround(12_700_000), sum: 0 });
    expect(quantizeI8(f32(1e-6, -1e-6)).q).toEqual(Int8Array.of(13, -13));
  });

  it('bit_linear: one weight of each quarter', () => {
    // Codes 2, 1, 0, 1 in byte 5: weights 1, 0, -1, 0 at 5, 37, 69, 101; all others 0 (code 1).
    const bytes = new Uint8Array(64).fill(0b01010101, 0, 32);
    bytes[5] = 0b10010001;
    new DataView(bytes.buffer).setFloat32(32, 0.5, true);
    const x = new Float32Array(128);
    [x[0], x[5], x[37], x[69], x[101]] = [127, 10, 20, 30, 40];
    expect(bitLinear(bytes, 1, 128, quantizeI8(x))).toEqual(f32((10 - 30) * 0.5));
  });

  it('repack_tl: what Microsoft packed', () => {
    for (const name of readdirSync(new URL('golden/packing/', import.meta.url))) {
      const [, type, ...sizes] = /^(tl[12])_(\d+)x(\d+)_BM(\d+)_BK(\d+)_bm(\d+)\.packed$/.exec(name) ?? [];
      if (type !== 'tl1' && type !== 'tl2') continue;
      const [rows, cols, bm, bk, sub] = sizes.map(Number);
      const golden = (extension: string) =>
        readFileSync(new URL(`golden/packing/${name.replace(/packed$/, extension)}`, import.meta.url));
      // These have no tail.
      const bytes = new Uint8Array(sizeBytes[type]([cols, rows]));
      bytes.set(golden('packed'));
      new DataView(bytes.buffer).setFloat32(bytes.length - 32, 0.5, true);
      const { weights, scale, bad } = unpackTl({ type, rows, cols, tiles: { rows: bm, cols: bk, sub } }, bytes);
      expect([name, scale, bad, Buffer.compare(new Uint8Array(weights.buffer), golden('w_i8'))]).toEqual([
        name,
        0.5,
        0xffff_ffff,
        0,
      ]);
    }
  });

  /** ggml's quantize_row_q8_K_ref and ggml_vec_dot_tq2_0_q8_K_generic (MIT), one block: with the sign of the largest number. */
  function ggmlBlock(weights: Float32Array, d: number, x: Float32Array): number {
    const largest = x.reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0);
    if (largest === 0) return 0;
    const inverse = Math.fround(-127 / largest);
    let sum = 0;
    for (let i = 0; i < 256; i++) {
      // nearest_int: added to 1.5 * 2^23, an f32 has no fraction left.
      const q = Math.fround(Math.fround(inverse * x[i]) + 12582912) - 12582912;
      sum += weights[i] * Math.min(127, q);
    }
    return Math.fround(sum * Math.fround(Math.fround(1 / inverse) * d));
  }

  it("quantize_q8_k and bit_linear_tq: ggml's numbers, whichever sign the largest has, every bit", () => {
    const r = random(7);
    const [rows, cols] = [5, 1536];
    const x = r.normal(cols);
    // Ties: the largest is 127, so x is rounded itself. Then both signs of the largest, either first; zeros.
    for (let i = 0; i < 256; i++) x[i] = i === 9 ? -127 : (i % 128) - 63.5;
    [x[256 + 100], x[256 + 17]] = [9, -9];
    [x[512 + 100], x[512 + 17]] = [-9, 9];
    x.fill(0, 768, 1024);
    const packed = ternaryBytes(r, rows, cols, 'tq2_0');
    const { weights, scales } = tq20.unpack(packed, [cols, rows], 'test');
    const expected = new Float32Array(rows);
    for (let block = 0; block < scales.length; block++) {
      const at = 256 * (block % 6);
      const w = Float32Array.from(weights.subarray(256 * block, 256 * block + 256));
      expected[Math.floor(block / 6)] += ggmlBlock(w, scales[block], x.subarray(at, at + 256));
    }
    expect(bitLinearTq(packed, rows, cols, quantizeQ8K(x))).toEqual(expected);
  });

  it('quantize_q8_k: the least numbers and zeros have scale 0', () => {
    const { q, d } = quantizeQ8K(new Float32Array(512).fill(1e-38, 256));
    expect([...d]).toEqual([0, 0]);
    expect(q.every((v) => v === 0)).toBe(true);
  });

  it('repack: TQ1_0 of every byte, as ggml decodes it', () => {
    const packed = new Uint8Array(readFileSync(new URL('golden/packing/tq1_0_all_bytes.packed', import.meta.url)));
    const numbers = new Uint8Array(readFileSync(new URL('golden/packing/tq1_0_all_bytes.f32', import.meta.url)));
    const blocks = packed.length / 54;
    const expected = new Float32Array(numbers.buffer, numbers.byteOffset, numbers.length / 4);
    expect(tq20.decode(repackTq1(packed, blocks), [256, blocks], 'test')).toEqual(expected);
  });

  it('dense_linear: activations rounded to the type of the weights', () => {
    const x = f32(1 + 2 ** -11, 2);
    expect(denseLinear('f32', new Uint8Array(f32(1, 1).buffer), 1, 2, x)).toEqual(f32(3 + 2 ** -11));
    expect(denseLinear('f16', new Uint8Array(Uint16Array.of(0x3c00, 1).buffer), 1, 2, x)).toEqual(f32(1 + 2 ** -23));
    expect(denseLinear('bf16', new Uint8Array(Uint16Array.of(0x3f80, 0xbf80).buffer), 1, 2, x)).toEqual(f32(-1));
  });

  it('rope: a quarter turn of the first pair, the rest of a longer head stays', () => {
    const x = f32(1, 2, 3, 4, 5, 6);
    const quarter = f32(0, 1, 1, 0);
    expect(rope(x, 6, 4, 'neox', quarter)).toEqual(f32(-3, 2, 1, 4, 5, 6));
    expect(rope(x, 6, 4, 'norm', quarter)).toEqual(f32(-2, 1, 3, 4, 5, 6));
  });

  it('attention: two heads on one kv head', () => {
    // Head 0 scores both positions 0: the mean. Head 1 scores 0 and ln 3 (times sqrt 4 taken back): a quarter, three quarters.
    const q = f32(0, 0, 0, 0, 0, 2 * Math.log(3), 0, 0);
    const keys = f32(0, 0, 0, 0, 0, 1, 0, 0);
    const values = f32(4, 0, 8, 0, 8, 4, 0, 0);
    expect(attention(q, keys, values, 2, 1, 4).map((v) => Math.round(v * 1e6) / 1e6)).toEqual(
      f32(6, 2, 4, 0, 7, 3, 2, 0),
    );
  });

  it('glu', () => {
    expect(glu('relu2', f32(-2, 3, 0), f32(5, 2, 1))).toEqual(f32(0, 18, 0));
    expect(glu('silu', f32(0, 40, -200), f32(5, 2, 1))).toEqual(f32(0, 80, -0));
    expect(glu('silu', f32(1), f32(1))).toEqual(f32(0.7310585786300049));
  });

  it('kv_cache: the drawing, in numbers', () => {
    const shape = { data: f32(), kvHeads: 3, headDim: 8, blockSize: 4 };
    // Position 6 is the third of the second block of the sequence, which is block 7; value, head 1.
    const index = ((7 * 2 + 1) * 3 + 1) * 4 * 8 + 2 * 8;
    expect(kvIndex(shape, Int32Array.of(9, 7), 6, 1, 1)).toBe(index);
  });
});

const FOLDER = new URL('golden/trace/', import.meta.url);
const STEP = 'step3';
const pieces: Record<string, { type: 'f32' | 'f16' | 'i2_s'; shape: number[]; offset: number }> = JSON.parse(
  readFileSync(new URL(`${STEP}.json`, FOLDER), 'utf8'),
);
const traced = new Uint8Array(readFileSync(new URL(`${STEP}.bin`, FOLDER)));

function bytesOf(name: string): Uint8Array<ArrayBuffer> {
  const { type, shape, offset } = pieces[name];
  const count = shape.reduce((a, b) => a * b);
  const bytes = type === 'i2_s' ? count / 4 + 32 : count * (type === 'f16' ? 2 : 4);
  return traced.slice(offset, offset + bytes);
}

const trace = (name: string): Float32Array<ArrayBuffer> => new Float32Array(bytesOf(name).buffer);

function equal(op: string, actual: Float32Array, expected: Float32Array): void {
  agree({ op, seed: 0, expected: expected.subarray(0, actual.length), actual });
}

describe('the reference against a step of bitnet.cpp', () => {
  const ones = new Float32Array(512).fill(1);
  const matmul = (name: string, x: string): Float32Array => {
    const [rows, cols] = pieces[`blk.0.${name}.weight`].shape;
    return bitLinear(bytesOf(`blk.0.${name}.weight`), rows, cols, quantizeI8(trace(x)));
  };

  for (const [norm, input, weight] of [
    ['attn_norm', 'inp_embd', 'blk.0.attn_norm.weight'],
    ['attn_sub_norm', 'kqv_out', 'blk.0.attn_sub_norm.weight'],
    ['ffn_norm', 'ffn_inp', 'blk.0.ffn_norm.weight'],
    ['ffn_sub_norm', 'ffn_out', 'blk.0.ffn_sub_norm.weight'],
    ['result_norm', 'l_out, last layer', 'output_norm.weight'],
  ]) {
    it(`rms_norm: ${norm}, every bit`, () => equal(norm, rmsNorm(trace(input), trace(weight), 1e-5), trace(norm)));
  }

  for (const [name, input, result] of [
    ['attn_q', 'attn_norm', 'Qcur'],
    ['attn_output', 'attn_sub_norm', 'attn_o_out'],
    ['ffn_gate', 'ffn_norm', 'ffn_gate'],
    ['ffn_up', 'ffn_norm', 'ffn_up'],
    ['ffn_down', 'ffn_sub_norm', 'ffn_down'],
  ]) {
    it(`quantize_i8 and bit_linear: ${name}, every bit`, () => equal(result, matmul(name, input), trace(result)));
  }

  it('glu and residuals, every bit', () => {
    equal('ffn_sqr(relu)', glu('relu2', trace('ffn_gate'), ones), trace('ffn_sqr(relu)'));
    equal('ffn_out', glu('relu2', trace('ffn_gate'), trace('ffn_up')), trace('ffn_out'));
    const sum = (a: string, b: string): Float32Array => trace(a).map((v, i) => v + trace(b)[i]);
    equal('ffn_inp', sum('attn_o_out', 'inp_embd'), trace('ffn_inp'));
    equal('l_out', sum('ffn_down', 'ffn_inp'), trace('l_out'));
  });

  it('rope, within the roundings of its products', () => {
    const angles = ropeTable(4, 64, 10_000).subarray(3 * 64);
    for (const [name, rotated] of [
      ['Qcur', trace('Qcur rope')],
      ['Kcur', trace('Kcur rope, steps 0 to 3').subarray(3 * 128)],
    ] as const) {
      const x = trace(name);
      const bound = ropeBound(x, 64, 64, 'neox');
      agree({ op: name, seed: 0, expected: rotated, actual: rope(x, 64, 64, 'neox', angles), bound });
    }
  });

  it('attention, within the roundings of its sums', () => {
    const q = trace('Qcur rope');
    const [keys, values] = [trace('Kcur rope, steps 0 to 3'), trace('Vcur, steps 0 to 3')];
    const actual = attention(q, keys, values, 4, 2, 64);
    const shape = { heads: 4, kvHeads: 2, headDim: 64, ropeDim: 64, ropeStyle: 'neox' } as const;
    const bound = attentionBound(q, new Float64Array(256), keys, values, shape);
    agree({ op: 'kqv_out', seed: 0, expected: trace('kqv_out'), actual, bound });
    // What counts: the same int8 numbers go into the next matmul.
    const weight = trace('blk.0.attn_sub_norm.weight');
    expect(quantizeI8(rmsNorm(actual, weight, 1e-5)).q).toEqual(quantizeI8(trace('attn_sub_norm')).q);
  });

  it('softmax of the traced scores', () => {
    for (let head = 0; head < 4; head++) {
      const scores = Float64Array.from(trace('kq').subarray(head * 4, head * 4 + 4), (v) => v / 8);
      const expected = trace('kq_soft_max').subarray(head * 4, head * 4 + 4);
      // The difference to the maximum is rounded (scores stay below 8), then 2e-7 of an exponential twice, and the quotient.
      const bound = expected.map((p) => p * (2 * 8 * ULP + 2 * 2e-7 + 8 * ULP));
      agree({ op: `kq_soft_max, head ${head}`, seed: 0, expected, actual: softmax(scores), bound });
    }
  });

  it('dense_linear: result_output, within the roundings of its sums', () => {
    const x = trace('result_norm');
    const [embedding, expected] = [bytesOf('token_embd.weight'), trace('result_output').subarray(0, 64)];
    const magnitudes = new Uint8Array(new Uint16Array(embedding.buffer).map((bits) => bits & 0x7fff).buffer);
    const bound = denseLinear('f16', magnitudes, 64, 256, x.map(Math.abs)).map((v) => v * 258 * ULP);
    agree({ op: 'result_output', seed: 0, expected, actual: denseLinear('f16', embedding, 64, 256, x), bound });
  });
});
