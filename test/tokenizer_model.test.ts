import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';
import { readSentencePieces } from '../dist/convert/sentencepiece.js';

const golden = (name: string) =>
  readFileSync(join(fileURLToPath(new URL('./golden/tokenizer', import.meta.url)), name));

/** A protobuf varint, and fields of the wire types 0, 2 and 5. */
const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))]);
const number = (field: number, n: number) => [...varint(field * 8), ...varint(n)];
const bytes = (field: number, content: Iterable<number>) => {
  const all = [...content];
  return [...varint(field * 8 + 2), ...varint(all.length), ...all];
};
const float = (field: number, x: number) => [...varint(field * 8 + 5), ...new Uint8Array(Float32Array.of(x).buffer)];
const piece = (text: string, score: number, type?: number) =>
  bytes(1, [...bytes(1, Buffer.from(text)), ...float(2, score), ...(type === undefined ? [] : number(3, type))]);
const BPE = bytes(2, number(3, 2));

const read = (...parts: number[][]) => readSentencePieces(Uint8Array.from(parts.flat()), 'file');

describe('tokenizer.model', () => {
  it('of SentencePiece is read as SentencePiece reads it', () => {
    const { pieces } = JSON.parse(golden('sentencepiece.json').toString()) as { pieces: [string, number, number][] };
    const { tokens, scores, types, addsPrefix } = readSentencePieces(
      new Uint8Array(golden('sentencepiece.model')),
      'x',
    );
    expect(tokens).toEqual(pieces.map(([token]) => token));
    expect(scores.map((s) => s + 0)).toEqual(pieces.map(([, score]) => score + 0));
    expect(types).toEqual(pieces.map(([token, , type]) => (token === '<sep>' ? 4 : type)));
    expect(addsPrefix).toBe(true);
  });

  it('may hold fields that are not known, in any order', () => {
    const odd = bytes(1, [
      ...number(17, 2 ** 40),
      ...float(2, -1.5),
      ...bytes(1, Buffer.from('▁a')),
      ...bytes(99, [1]),
    ]);
    const spec = bytes(3, [...number(3, 0), ...bytes(2, [9, 9])]);
    expect(read(BPE, spec, odd, [...varint(50 * 8 + 1), 0, 0, 0, 0, 0, 0, 0, 0], piece('<s>', 0, 3))).toEqual({
      tokens: ['▁a', '<s>'],
      scores: [-1.5, 0],
      types: [1, 3],
      addsPrefix: false,
    });
  });

  test.each<[string, number[][], RegExp]>([
    ['empty', [], /no pieces/],
    ['without pieces', [BPE], /no pieces/],
    ['of the unigram kind', [piece('a', 0), bytes(2, number(3, 1))], /model type 1, expected 2 \(BPE\)/],
    ['that does not tell its kind', [piece('a', 0)], /model type 1, expected 2/],
    ['with a nameless piece', [BPE, bytes(1, float(2, 1))], /piece 0 has no text/],
    ['with an empty piece', [BPE, piece('', 0)], /piece 0 has no text/],
    ['with a piece of type 9', [BPE, piece('a', 0, 9)], /piece 0: type 9/],
    ['with a score of NaN', [BPE, piece('a', Number.NaN)], /score NaN/],
    ['that is not UTF-8', [BPE, bytes(1, bytes(1, [0xff]))], /piece 0 is not UTF-8/],
    ['whose piece is a number', [BPE, number(1, 5)], /a field of another type/],
    [
      'whose score is a double',
      [BPE, bytes(1, [...bytes(1, [97]), ...varint(2 * 8 + 1), ...new Array(8).fill(0)])],
      /another type/,
    ],
    ['whose type is a text', [BPE, bytes(1, [...bytes(1, [97]), ...bytes(3, [97])])], /another type/],
    ['that ends in a number', [[0x80]], /unfinished number/],
    ['with a number of eleven bytes', [[8, ...new Array(11).fill(0x80)]], /unfinished number/],
    ['that ends in a field', [[10, 5, 1]], /5 bytes, of which 1 are there/],
    [
      'with a length beyond everything',
      [[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]],
      /of which 0 are there/,
    ],
    ['with groups', [[0x0b]], /wire type 3/],
    ['that is JSON', [[...Buffer.from('{"model": {}}')]], /expected a SentencePiece model/],
  ])('%s is refused', (_, parts, message) => {
    expect(() => read(...parts)).toThrow(message);
  });

  it('cut anywhere, or with any byte changed, is refused or read, and soon', () => {
    const good = new Uint8Array(golden('sentencepiece.model'));
    for (let at = 0; at < good.length; at += 41) {
      for (const bad of [good.subarray(0, at), good.with(at, good[at] ^ 0x81)]) {
        try {
          expect(readSentencePieces(bad, 'file').tokens.length).toBeGreaterThan(0);
        } catch (error) {
          expect((error as Error).name).toBe('ConvertError');
        }
      }
    }
  });
});
