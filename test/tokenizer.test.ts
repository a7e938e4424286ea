import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { pres } from '../dist/tokenizer/pretokenize.js';
import { createDetokenizer, createTokenizer, type Tokenizer } from '../dist/tokenizer/tokenizer.js';

const golden = (name: string) => JSON.parse(readFileSync(new URL(`golden/tokenizer/${name}`, import.meta.url), 'utf8'));
const vocabulary: { tokens: string[]; merges: string[] } = golden('vocabulary.json');
const corpus: string[] = golden('corpus.json');
const special: { control: string[]; user: string[]; cases: [string, number[]][] } = golden('special.json');

const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;

/** Metadata of the goldens' vocabulary, its special and user-defined tokens behind the others. */
function metadata(changes: Record<string, unknown> = {}): Map<string, unknown> {
  const tokens = [...vocabulary.tokens, ...special.control, ...special.user];
  const type = (i: number): number => {
    if (i < vocabulary.tokens.length) return NORMAL;
    return i < vocabulary.tokens.length + special.control.length ? CONTROL : USER_DEFINED;
  };
  const keys = {
    model: 'gpt2',
    pre: 'llama-bpe',
    tokens,
    token_type: Int32Array.from(tokens, (_, i) => type(i)),
    merges: vocabulary.merges,
    bos_token_id: tokens.indexOf('<|begin_of_text|>'),
    eos_token_id: tokens.indexOf('<|end_of_text|>'),
    ...changes,
  };
  return new Map(Object.entries(keys).map(([key, value]) => [`tokenizer.ggml.${key}`, value]));
}

const llama = createTokenizer(metadata());
const id = (text: string): number => [...vocabulary.tokens, ...special.control, ...special.user].indexOf(text);
const BOS = id('<|begin_of_text|>');
const EOS = id('<|end_of_text|>');
const EOT = id('<|eot_id|>');

/** CPU time: other work on the machine does not count. */
function cpuMs(action: () => void): number {
  const before = process.cpuUsage();
  action();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** Any JavaScript string, with many spaces, digits, letters and lone surrogates, well formed or not. */
const anyText = fc.string({
  unit: fc.oneof(
    fc.constantFrom(...Array.from(" \t\n\r'sST1234abcéж中🙂.,!$|<>`\u0085\u00a0\u3000\u0301\ufeff\ud83d\ude42")),
    fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
  ),
  maxLength: 60,
});
const wellFormed = fc.string({ unit: 'binary', maxLength: 60 });

describe.each(['llama-bpe', 'gpt-2', 'qwen2', 'default'])('pre-tokenizer %s', (name) => {
  const rows: [number[], number[]][] = golden(`${name}.json`);
  const tokenizer = createTokenizer(metadata({ pre: name, add_bos_token: false }));
  const scan = pres.get(name)?.scan;
  if (scan === undefined) throw new Error(`no pre-tokenizer ${name}`);

  it('cuts as Hugging Face tokenizers does', () => {
    expect(rows.length).toBe(corpus.length);
    corpus.forEach((text, i) => {
      const lengths: number[] = [];
      for (let at = 0; at < text.length; ) {
        const end = scan(text, at, text.length);
        lengths.push([...text.slice(at, end)].length);
        at = end;
      }
      expect(lengths, `corpus[${i}] ${JSON.stringify(text)}`).toEqual(rows[i][0]);
    });
  });

  it('gives the ids of Hugging Face tokenizers, twice', () => {
    // The second time short words come from the cache.
    for (const pass of [1, 2]) {
      corpus.forEach((text, i) => {
        expect(tokenizer.encode(text), `pass ${pass}, corpus[${i}] ${JSON.stringify(text)}`).toEqual(rows[i][1]);
      });
    }
  });

  it('decodes what it encodes', () => {
    for (const text of corpus) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    fc.assert(fc.property(wellFormed, (text) => tokenizer.decode(tokenizer.encode(text)) === text));
    fc.assert(fc.property(anyText, (text) => tokenizer.decode(tokenizer.encode(text)) === text.toWellFormed()));
  });

  it('reads a lone surrogate as U+FFFD', () => {
    for (const text of ['a\ud800b', '\udc00', ' \ud83d', '\ud83d\ud83d\ude42', "'\udfff1", '\ud800 \udc00']) {
      expect(tokenizer.encode(text)).toEqual(tokenizer.encode(text.toWellFormed()));
    }
  });

  it('takes a megabyte of one thing in less than a second', () => {
    const units = ['a', ' ', '\n', '7', '🙂', ...(name === 'llama-bpe' ? ['!', '1a', '\u0301', '\ud800'] : [])];
    for (const unit of units) {
      const text = unit.repeat(Math.ceil(2 ** 20 / new TextEncoder().encode(unit).length));
      let ids: number[] = [];
      const encode = () => cpuMs(() => (ids = tokenizer.encode(text)));
      let ms = encode();
      if (ms > 500) ms = Math.min(ms, encode()); // the first time may compile
      expect(ms, `1 MiB of ${JSON.stringify(unit)}`).toBeLessThan(1000);
      expect(tokenizer.decode(ids) === text.toWellFormed()).toBe(true);
    }
  });
});

describe('a pre-tokenizer under another name', () => {
  const rowsOf = (name: string): [number[], number[]][] => golden(`${name}.json`);

  it.each([
    ['falcon3', 'llama-bpe', true],
    ['falcon_e', 'llama-bpe', true],
    ['lfm2', 'llama-bpe', true],
    ['deepseek-r1-qwen', 'qwen2', false],
    ['stablelm2', 'qwen2', false],
    ['mpt', 'gpt-2', false],
  ])('%s is %s', (name, of, addBos) => {
    const tokenizer = createTokenizer(metadata({ pre: name }));
    expect(tokenizer.addBos).toBe(addBos);
    const rows = rowsOf(of);
    corpus.forEach((text, i) => {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(rows[i][1]);
    });
  });

  it('smaug-bpe cuts as llama-bpe, but merges whole words too', () => {
    const tokenizer = createTokenizer(metadata({ pre: 'smaug-bpe' }));
    expect(pres.get('smaug-bpe')?.scan).toBe(pres.get('llama-bpe')?.scan);
    expect(llama.encode('unmergeable')).toEqual([id('unmergeable')]);
    expect(tokenizer.encode('unmergeable')).not.toContain(id('unmergeable'));
    expect(tokenizer.addBos).toBe(false);
  });

  it('qwen2 with add_eos_token, as embedding models have it, ends with EOS alone', () => {
    const tokenizer = createTokenizer(metadata({ pre: 'qwen2', add_eos_token: true }));
    expect(tokenizer.encode('hi', { addSpecial: true })).toEqual([...tokenizer.encode('hi'), EOS]);
  });
});

describe('special tokens', () => {
  it('are those of Hugging Face tokenizers with parseSpecial', () => {
    for (const [text, ids] of special.cases) expect(llama.encode(text, { parseSpecial: true }), text).toEqual(ids);
  });

  it('are text without parseSpecial, in every pre-tokenizer', () => {
    for (const pre of ['llama-bpe', 'gpt-2', 'qwen2', 'default']) {
      const tokenizer = createTokenizer(metadata({ pre, add_bos_token: false }));
      for (const [text] of special.cases) {
        const ids = tokenizer.encode(text);
        expect(ids.filter((token) => tokenizer.isControl(token))).toEqual([]);
        expect(tokenizer.decode(ids)).toBe(text);
      }
    }
  });

  it('that the user defined are always found', () => {
    expect(llama.encode('a<think>b')).toContain(id('<think>'));
  });

  it('cannot come out of whole-word lookup or merges', () => {
    const tokens = [...vocabulary.tokens, 'wholewordy', '<x>'];
    const token_type = tokens.map((text) => (text === 'wholewordy' || text === '<x>' ? CONTROL : NORMAL));
    const keys = { tokens, token_type, bos_token_id: 0, eos_token_id: 0 };
    const tokenizer = createTokenizer(metadata(keys));
    expect(tokenizer.encode('wholewordy')).not.toContain(tokens.indexOf('wholewordy'));
    expect(tokenizer.encode('wholewordy', { parseSpecial: true })).toEqual([tokens.indexOf('wholewordy')]);
  });

  it('are not seen across the joint of two pieces, which are one text otherwise', () => {
    const parse = { parseSpecial: true };
    expect(llama.encode(['a <|eot_id|>', ' b'], parse)).toEqual(llama.encode('a <|eot_id|> b', parse));
    expect(llama.encode(['a <', '|eot_id|> b'], parse)).toEqual(llama.encode('a <|eot_id|> b'));
    expect(llama.encode(['it', "'s 12", '34 the th', 'ing'])).toEqual(llama.encode("it's 1234 the thing"));
    fc.assert(
      fc.property(fc.array(wellFormed), (pieces) => {
        expect(llama.encode(pieces)).toEqual(llama.encode(pieces.join('')));
      }),
    );
  });

  it('BOS and EOS come as the file asks, and never twice', () => {
    const ids = llama.encode('hi');
    expect(llama.addBos).toBe(true); // llama.cpp's default for llama-bpe
    expect(llama.encode('hi', { addSpecial: true })).toEqual([BOS, ...ids]);
    expect(llama.encode('', { addSpecial: true })).toEqual([BOS]);
    expect(llama.encode('<|begin_of_text|>hi', { addSpecial: true, parseSpecial: true })).toEqual([BOS, ...ids]);
    const both = createTokenizer(metadata({ add_bos_token: true, add_eos_token: true }));
    expect(both.encode('hi', { addSpecial: true })).toEqual([BOS, ...ids, EOS]);
    expect(both.encode('hi<|end_of_text|>', { addSpecial: true, parseSpecial: true })).toEqual([BOS, ...ids, EOS]);
    expect(createTokenizer(metadata({ pre: 'gpt-2' })).encode('hi', { addSpecial: true })).not.toContain(BOS);
  });

  it('end a generation by key or by name', () => {
    expect(llama.eot).toBe(EOT);
    expect(llama.eogTokens).toEqual(new Set([EOS, EOT]));
    expect(createTokenizer(metadata({ eot_token_id: 7 })).eogTokens).toEqual(new Set([7, EOS, EOT]));
    const tokens = [...vocabulary.tokens, '<|im_end|>', '</s>'];
    const named = createTokenizer(
      metadata({ tokens, token_type: tokens.map(() => NORMAL), bos_token_id: 0, eos_token_id: 1 }),
    );
    expect(named.eogTokens).toEqual(new Set([1, tokens.length - 2, tokens.length - 1]));
    expect(named.eot).toBe(tokens.length - 2);
    expect(named.isControl(tokens.length - 1)).toBe(true); // as llama.cpp overrides the type
    expect(named.isControl(0)).toBe(false);
  });
});

describe('decoding', () => {
  const anyIds = fc.array(fc.integer({ min: 0, max: llama.vocabSize - 1 }), { maxLength: 40 });

  it('keeps bytes, names and U+FEFF', () => {
    expect(llama.tokenBytes(id('Ċĉ'))).toEqual(Uint8Array.of(10, 9));
    expect(llama.decode([BOS, ...llama.encode('\ufeffhi')])).toBe('<|begin_of_text|>\ufeffhi');
    expect(llama.decode([BOS, ...llama.encode('hi')], { skipSpecial: true })).toBe('hi');
    const [first, second, third] = ['ð', 'Ł', 'Ļ'].map(id); // the first three bytes of an emoji
    expect(llama.decode([first, second, third, id('a')])).toBe('\ufffda');
  });

  it('covers all bytes, one token each', () => {
    const bytes = new Set(
      vocabulary.tokens
        .map((_, i) => llama.tokenBytes(i))
        .filter((b) => b.length === 1)
        .map((b) => b[0]),
    );
    expect(bytes.size).toBe(256);
  });

  it('as a stream equals decoding at once, and never splits a code point', () => {
    for (const skipSpecial of [false, true]) {
      fc.assert(
        fc.property(anyIds, (ids) => {
          const stream = createDetokenizer(llama, { skipSpecial });
          const pieces = [...ids.map((token) => stream.push(token)), stream.flush()];
          expect(pieces.join('')).toBe(llama.decode(ids, { skipSpecial }));
          for (const piece of pieces) expect(piece.isWellFormed()).toBe(true);
          expect(stream.pending).toBe(false);
        }),
      );
    }
  });

  it('as a stream gives a character with its last byte, and what is left at the end', () => {
    const stream = createDetokenizer(llama);
    const emoji = ['ð', 'Ł', 'Ļ', 'Ĥ'].map(id);
    const push = (token: number) => [stream.push(token), stream.pending];
    expect(emoji.map(push)).toEqual([
      ['', true],
      ['', true],
      ['', true],
      ['🙂', false],
    ]);
    expect([stream.push(emoji[0]), stream.flush(), stream.push(id('a')), stream.flush()]).toEqual([
      '',
      '\ufffd',
      'a',
      '',
    ]);
  });

  it('refuses ids outside the vocabulary', () => {
    for (const bad of [-1, llama.vocabSize, 1.5, Number.NaN]) {
      expect(() => llama.decode([bad])).toThrow(
        `token id ${bad} is outside the vocabulary, expected 0 to ${llama.vocabSize - 1}`,
      );
    }
  });
});

describe('a file', () => {
  const make = (changes: Record<string, unknown>) => () => createTokenizer(metadata(changes));

  it.each<[Record<string, unknown>, string]>([
    [{ model: 'bert' }, 'tokenizer.ggml.model is "bert", expected "gpt2" (byte-level BPE) or "llama"'],
    [{ model: undefined }, 'tokenizer.ggml.model is missing'],
    [{ pre: 'tekken' }, 'tokenizer.ggml.pre is "tekken", expected one of llama-bpe, '],
    [{ tokens: undefined }, 'tokenizer.ggml.tokens is missing, expected an array of strings'],
    [{ tokens: [] }, 'tokenizer.ggml.tokens is empty'],
    [{ tokens: ['a', 1] }, 'tokenizer.ggml.tokens[1] is 1, expected a string'],
    [{ token_type: [1, 1] }, 'tokenizer.ggml.token_type is 2 values, expected'],
    [{ token_type: 'x' }, 'tokenizer.ggml.token_type is "x", expected'],
    [{ merges: undefined }, 'tokenizer.ggml.merges is missing'],
    [{ merges: ['ab'] }, 'tokenizer.ggml.merges[0]: expected two tokens with a space between, got "ab"'],
    [{ merges: ['a b c'] }, 'tokenizer.ggml.merges[0] "a b c": token "b c" is not in the vocabulary'],
    [{ merges: ['a ĀĀĀ'] }, 'tokenizer.ggml.merges[0] "a ĀĀĀ": token "ĀĀĀ" is not in the vocabulary'],
    [{ merges: ['q q'] }, 'tokenizer.ggml.merges[0] "q q": token "qq" is not in the vocabulary'],
    [{ bos_token_id: 1e6 }, 'tokenizer.ggml.bos_token_id is 1000000, expected a token id from 0 to'],
    [{ eos_token_id: -1 }, 'tokenizer.ggml.eos_token_id is -1, expected a token id'],
    [{ eot_token_id: 'x' }, 'tokenizer.ggml.eot_token_id is "x", expected a token id'],
    [{ add_bos_token: 1 }, 'tokenizer.ggml.add_bos_token is 1, expected true or false'],
    [
      { add_bos_token: true, bos_token_id: undefined },
      'add_bos_token is true, but tokenizer.ggml.bos_token_id is not set',
    ],
    [
      { add_eos_token: true, eos_token_id: undefined },
      'add_eos_token is true, but tokenizer.ggml.eos_token_id is not set',
    ],
  ])('is refused: %o', (changes, message) => {
    expect(make(changes)).toThrow(message);
  });

  it('may repeat a token, the later one counts; may lack types and the pre-tokenizer', () => {
    const tokens = [...vocabulary.tokens, 'a'];
    const keys = { tokens, token_type: undefined, pre: undefined, merges: [], bos_token_id: 0, eos_token_id: 0 };
    const tokenizer = createTokenizer(metadata(keys));
    expect(tokenizer.encode('a')).toEqual([tokens.length - 1]);
    expect(tokenizer.decode([tokens.length - 1, tokens.indexOf('a')])).toBe('aa');
    expect(tokenizer.encode('1234')).toHaveLength(4);
  });

  it('may lack bytes: they become the unknown token, or an error', () => {
    const keys = {
      tokens: ['a', '<unk>'],
      token_type: [NORMAL, 2],
      merges: [],
      bos_token_id: undefined,
      eos_token_id: undefined,
    };
    expect(() => createTokenizer(metadata(keys)).encode('ab')).toThrow('no token for byte 0x62');
    expect(createTokenizer(metadata({ ...keys, unknown_token_id: 1 })).encode('ab')).toEqual([0, 1]);
  });

  it('of 128k tokens and 127k merges loads in less than a second', () => {
    const tokens = vocabulary.tokens.filter((token) => token.length === 1);
    const merges: string[] = [];
    for (let i = 0; tokens.length < 128_000; i++) {
      const left = tokens[256 + (i >> 8)] ?? tokens[i & 255];
      const right = tokens[i & 255];
      tokens.push(left + right);
      merges.push(`${left} ${right}`);
    }
    const keys = { tokens, merges, token_type: undefined, bos_token_id: 0, eos_token_id: 0 };
    let tokenizer: Tokenizer | undefined;
    expect(cpuMs(() => (tokenizer = createTokenizer(metadata(keys))))).toBeLessThan(1000);
    expect(tokenizer?.vocabSize).toBe(128_000);
  });
});
