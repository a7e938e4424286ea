import { describe, expect, it, test } from 'vitest';
import { type ConvertOptions, convert } from '../dist/convert/convert.js';
import { type GgufHeader, readHeader } from '../dist/gguf/header.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import * as i2s from '../dist/gguf/layouts/i2_s.js';
import { openSource } from '../dist/gguf/source.js';
import type { Folder } from '../dist/safetensors/checkpoint.js';

// Checkpoints made up here: what is refused, and forms in which no golden is.

type Json = Record<string, unknown>;
interface Tensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}
type Tensors = Record<string, Tensor>;

const [DIM, FFN, VOCAB] = [128, 256, 260];

function f32(shape: number[], value: (i: number) => number = () => 1): Tensor {
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => value(i));
  return { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer) };
}
/** Every byte of [rows / 4][cols] the same four codes. */
const packed = (rows: number, cols: number, byte = 0b10010010): Tensor => ({
  dtype: 'U8',
  shape: [rows / 4, cols],
  bytes: new Uint8Array((rows / 4) * cols).fill(byte),
});
/** Floats of no particular kind. */
const rough = (shape: number[]) => f32(shape, (i) => Math.sin(i));

const PARTS: [string, number, number][] = [
  ['self_attn.q_proj', DIM, DIM],
  ['self_attn.k_proj', DIM, DIM],
  ['self_attn.v_proj', DIM, DIM],
  ['self_attn.o_proj', DIM, DIM],
  ['mlp.gate_proj', FFN, DIM],
  ['mlp.up_proj', FFN, DIM],
  ['mlp.down_proj', DIM, FFN],
];
const AT = 'model.layers.0.';

/** A llama of one layer; matrices by `matrix`. */
function llama(matrix: (rows: number, cols: number) => Tensor, scale?: number): Tensors {
  const tensors: Tensors = { 'model.embed_tokens.weight': rough([VOCAB, DIM]), 'model.norm.weight': f32([DIM]) };
  for (const norm of ['input_layernorm', 'post_attention_layernorm']) tensors[`${AT}${norm}.weight`] = f32([DIM]);
  for (const [part, rows, cols] of PARTS) {
    tensors[`${AT}${part}.weight`] = matrix(rows, cols);
    if (scale !== undefined) tensors[`${AT}${part}.weight_scale`] = f32([1], () => scale);
  }
  return tensors;
}

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  vocab_size: VOCAB,
  hidden_size: DIM,
  intermediate_size: FFN,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};
const BITNET = { quantization_config: { quant_method: 'bitnet' } };

/** tokenizer.json of the 256 bytes and no merge. */
function tokenizer(change: Json = {}): Json {
  const symbols: string[] = [];
  for (let byte = 0, next = 256; byte < 256; byte++) {
    const stands = (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
    symbols.push(String.fromCharCode(stands ? byte : next++));
  }
  const vocab = Object.fromEntries(symbols.map((symbol, id) => [symbol, id]));
  return {
    model: { type: 'BPE', vocab, merges: [] },
    pre_tokenizer: { type: 'ByteLevel', use_regex: true },
    added_tokens: [{ id: 256, content: '<s>', special: true }],
    ...change,
  };
}

function safetensors(tensors: Tensors): Uint8Array {
  let end = 0;
  const header: Json = {};
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer);
  return new Uint8Array(Buffer.concat([length, json, ...Object.values(tensors).map(({ bytes }) => bytes)]));
}

function folderOf(tensors: Tensors, config: Json = {}, files: Record<string, Json | string | undefined> = {}): Folder {
  const all: Record<string, Json | string | Uint8Array | undefined> = {
    'model.safetensors': safetensors(tensors),
    'config.json': { ...CONFIG, ...config },
    'tokenizer.json': tokenizer(),
    ...files,
  };
  return {
    name: 'checkpoint',
    async open(name) {
      const content = Object.hasOwn(all, name) ? all[name] : undefined;
      if (content === undefined) return undefined;
      if (content instanceof Uint8Array) return openSource(content);
      return openSource(new Uint8Array(Buffer.from(typeof content === 'string' ? content : JSON.stringify(content))));
    },
  };
}

async function converted(folder: Folder, options: Partial<ConvertOptions> = {}) {
  const pieces: Uint8Array[] = [];
  const sink = { write: (_: number, bytes: Uint8Array) => void pieces.push(bytes.slice()) };
  const { notes } = await convert(folder, sink, { type: 'I2_S', ...options });
  const bytes = new Uint8Array(Buffer.concat(pieces));
  return { bytes, notes, header: await readHeader(await openSource(bytes)) };
}

async function refusal(folder: Folder, options: Partial<ConvertOptions> = {}): Promise<string> {
  const error = await converted(folder, options).catch((e: unknown) => e);
  expect((error as Error)?.name).toMatch(/^(Convert|Gguf|Safetensors)Error$/);
  return (error as Error).message;
}

function unpacked({ bytes, header }: { bytes: Uint8Array; header: GgufHeader }, name: string) {
  const info = header.tensors.get(name);
  if (info === undefined) throw new Error(`no tensor ${name}`);
  return i2s.unpack(bytes.subarray(info.at, info.at + info.bytes), info.dims, name);
}

describe('packed matrices', () => {
  const good = () => llama(packed, 4);

  it('are unpacked by quarters of the rows, the scale divided by where the class is BitLinear', async () => {
    const quantized = (linear_class?: string) => ({ quantization_config: { quant_method: 'bitnet', linear_class } });
    for (const [config, scale] of [
      [BITNET, 1 / 4],
      [quantized('bitlinear'), 1 / 4],
      [quantized('autobitlinear'), 4],
    ] as const) {
      const { weights, scales } = unpacked(await converted(folderOf(good(), config)), 'blk.0.ffn_gate.weight');
      expect([...scales]).toEqual([scale]);
      // The codes 2, 0, 1, 2 from the lowest bits up, in four quarters of 64 rows.
      const quarters = [1, -1, 0, 1];
      expect(weights.every((w, i) => w === quarters[Math.floor(i / DIM / (FFN / 4))])).toBe(true);
    }
  });

  const change = (name: string, tensor: Tensor | undefined): Tensors => {
    const tensors = good();
    if (tensor === undefined) delete tensors[name];
    else tensors[name] = tensor;
    return tensors;
  };
  const UP = `${AT}mlp.up_proj.weight`;
  const code3 = packed(FFN, DIM);
  code3.bytes[3 * DIM + 5] = 0b00110000; // row 3 of the third quarter, column 5
  const REFUSED: [string, Tensors, Json, RegExp][] = [
    [
      'without linear_class or a method that has one',
      good(),
      {},
      /linear_class undefined, expected bitlinear or autobitlinear/,
    ],
    [
      'of another linear_class',
      good(),
      { quantization_config: { quant_method: 'bitnet', linear_class: 'x' } },
      /linear_class x/,
    ],
    ['with a code 3', change(UP, code3), BITNET, /up_proj\.weight': row 131, column 5: code 3/],
    ['without their scale', change(`${UP}_scale`, undefined), BITNET, /packed \(U8\), but has no weight_scale/],
    [
      'with a scale of 0',
      change(
        `${UP}_scale`,
        f32([1], () => 0),
      ),
      BITNET,
      /weight_scale': 0, expected a finite number above 0/,
    ],
    [
      'with a scale of NaN',
      change(
        `${UP}_scale`,
        f32([1], () => Number.NaN),
      ),
      BITNET,
      /weight_scale': NaN/,
    ],
    ['with a scale for each row', change(`${UP}_scale`, f32([FFN])), BITNET, /F32 \[256\], expected one number/],
    ['of a wrong shape', change(UP, packed(FFN, 2 * DIM)), BITNET, /shape \[64, 256\], expected \[64, 128\]/],
    [
      'that are missing',
      change(UP, undefined),
      BITNET,
      /tensor 'layers\.0\.mlp\.up_proj\.weight' is missing \(llama\)/,
    ],
    [
      'of integers',
      change(UP, { ...f32([FFN, DIM]), dtype: 'I32' }),
      BITNET,
      /dtype I32, expected F32, F16, BF16 or packed U8/,
    ],
    [
      'beside floats that are not',
      change(UP, rough([FFN, DIM])),
      BITNET,
      /up_proj\.weight': F32 weights that are not ternary/,
    ],
  ];
  test.each(REFUSED)('%s are refused', async (_, tensors, config, message) => {
    expect(await refusal(folderOf(tensors, config))).toMatch(message);
  });
});

describe('matrices of floats', () => {
  it('are rounded without a word only where the model was trained for it', async () => {
    const masters = llama((rows, cols) => rough([rows, cols]));
    expect(await refusal(folderOf(masters))).toMatch(/q_proj\.weight': F32 weights that are not ternary.*quantize/);
    const asked = await converted(folderOf(masters), { quantize: true });
    const trained = await converted(folderOf(masters, BITNET));
    expect(Buffer.compare(asked.bytes, trained.bytes)).toBe(0);
    const spared = { quantization_config: { quant_method: 'bitnet', modules_to_not_convert: ['lm_head', 'v_proj'] } };
    expect(await refusal(folderOf(masters, spared))).toMatch(/v_proj\.weight': F32 weights that are not ternary/);
  });

  it('stay what they are in F16, rows of q and k side by side as RoPE pairs them', async () => {
    const { bytes, header } = await converted(folderOf(llama((rows, cols) => rough([rows, cols]))), { type: 'F16' });
    const info = header.tensors.get('blk.0.attn_q.weight');
    const values = f16.decode(bytes.subarray(info?.at, (info?.at ?? 0) + (info?.bytes ?? 0)));
    const half = DIM / 4 / 2;
    for (const [row, from] of [0, half, 1, half + 1, 2, half + 2].entries()) {
      const expected = Float32Array.from({ length: DIM }, (_, i) =>
        f16.f16Value(f16.f16Bits(Math.sin(from * DIM + i))),
      );
      expect(values.subarray(row * DIM, (row + 1) * DIM)).toEqual(expected);
    }
  });

  it('that are ternary are taken anywhere, as they are', async () => {
    const ternary = llama((rows, cols) => f32([rows, cols], (i) => 0.3 * ((i % 3) - 1)));
    const { weights, scales } = unpacked(await converted(folderOf(ternary)), 'blk.0.ffn_down.weight');
    expect([...scales]).toEqual([Math.fround(0.3)]);
    expect(weights.every((w, i) => w === (i % 3) - 1)).toBe(true);
  });
});

describe('a model', () => {
  const good = () => llama((rows, cols) => f32([rows, cols], (i) => (i % 3) - 1));
  const REFUSED: [string, Json, RegExp][] = [
    [
      'of an unknown family',
      { architectures: ['GPT2LMHeadModel'], model_type: 'gpt2' },
      /architectures \["GPT2LMHeadModel"\], expected one of BitNetForCausalLM, /,
    ],
    ['with another activation', { hidden_act: 'gelu' }, /hidden_act 'gelu', expected silu/],
    ['without a width', { hidden_size: undefined }, /hidden_size: undefined, expected a number above 0/],
    ['with half a layer', { num_hidden_layers: 1.5 }, /num_hidden_layers: 1.5, expected a whole number/],
    [
      'with YaRN',
      { rope_scaling: { type: 'yarn', factor: 4 } },
      /rope scaling 'yarn', expected default, linear or llama3/,
    ],
    ['with soft caps', { attn_logit_softcapping: 50 }, /attn_logit_softcapping 50, expected none/],
    ['with more layers than tensors', { num_hidden_layers: 2 }, /'layers\.1\.input_layernorm\.weight' is missing/],
    ['with a wider embedding', { vocab_size: 300 }, /embed_tokens\.weight': shape \[260, 128\], expected \[300, 128\]/],
    [
      'with a head that is not there',
      { tie_word_embeddings: false },
      /no lm_head\.weight, and tie_word_embeddings is not true/,
    ],
  ];
  test.each(REFUSED)('%s is refused', async (_, config, message) => {
    expect(await refusal(folderOf(good(), config))).toMatch(message);
  });

  it('with tensors that have no place is refused', async () => {
    const tensors = {
      ...good(),
      [`${AT}self_attn.q_proj.bias`]: f32([DIM]),
      [`${AT}self_attn.k_proj.bias`]: f32([DIM]),
    };
    expect(await refusal(folderOf(tensors))).toMatch(
      /'layers\.0\.self_attn\.q_proj\.bias' and 1 other tensors have no place in llama/,
    );
  });

  it('without config.json, or with one that is no JSON, is refused', async () => {
    expect(await refusal(folderOf(good(), {}, { 'config.json': undefined }))).toMatch(/no config\.json/);
    expect(await refusal(folderOf(good(), {}, { 'config.json': '{' }))).toMatch(/config\.json is not JSON/);
  });

  it('with linear RoPE scaling says so', async () => {
    const config = { rope_scaling: { type: 'linear', factor: 2 }, rope_theta: 5000 };
    const { metadata, tensors } = (await converted(folderOf(good(), config))).header;
    expect(metadata.get('llama.rope.scaling.type')).toBe('linear');
    expect(metadata.get('llama.rope.scaling.factor')).toBe(2);
    expect(metadata.get('llama.rope.freq_base')).toBe(5000);
    expect(tensors.has('rope_freqs.weight')).toBe(false);
  });

  it('has its own head, or the embedding', async () => {
    const own = { ...good(), 'lm_head.weight': rough([VOCAB, DIM]) };
    expect((await converted(folderOf(own, { tie_word_embeddings: false }))).header.tensors.has('output.weight')).toBe(
      true,
    );
    expect((await converted(folderOf(own))).header.tensors.has('output.weight')).toBe(false);
  });

  it('of BitNet is told by its activation', async () => {
    const tensors = { ...good() };
    tensors[`${AT}self_attn.inner_attn_ln.weight`] = f32([DIM]);
    tensors[`${AT}mlp.ffn_layernorm.weight`] = f32([FFN]);
    const first = { architectures: ['BitnetForCausalLM'], hidden_act: 'silu' };
    const { header } = await converted(folderOf(tensors, first));
    expect(header.metadata.get('general.architecture')).toBe('bitnet');
    expect(header.metadata.has('bitnet.hidden_activation')).toBe(false);
    expect(header.tensors.has('blk.0.attn_sub_norm.weight') && header.tensors.has('blk.0.ffn_sub_norm.weight')).toBe(
      true,
    );
    const later = { architectures: ['BitNetForCausalLM'], hidden_act: 'relu2' };
    expect((await converted(folderOf(tensors, later))).header.metadata.get('general.architecture')).toBe(
      'bitnet-b1.58',
    );
  });

  it('with sliding windows says what that means', async () => {
    const gemma = { architectures: ['Gemma3TextModel'], model_type: 'gemma3_text', hidden_act: undefined };
    const tensors = { ...good() };
    for (const norm of ['pre_feedforward_layernorm', 'post_feedforward_layernorm'])
      tensors[`${AT}${norm}.weight`] = f32([DIM]);
    for (const norm of ['q_norm', 'k_norm']) tensors[`${AT}self_attn.${norm}.weight`] = f32([DIM / 4]);
    const config = { ...gemma, hidden_activation: 'gelu_pytorch_tanh', head_dim: DIM / 4, sliding_window: 32 };
    const slides = await converted(folderOf(tensors, { ...config, layer_types: ['sliding_attention'] }));
    expect(slides.header.metadata.get('gemma3.attention.sliding_window')).toBe(32);
    expect(slides.notes.join()).toMatch(/ends after 32 positions/);
    const full = await converted(folderOf(tensors, { ...config, layer_types: ['full_attention'] }));
    expect(full.header.metadata.has('gemma3.attention.sliding_window')).toBe(false);
    expect(full.notes).toEqual([]);
  });
});

describe('a tokenizer', () => {
  const good = llama((rows, cols) => f32([rows, cols], (i) => (i % 3) - 1));
  const keysOf = async (files: Record<string, Json | string | undefined>, config: Json = {}) => {
    const { header, notes } = await converted(folderOf(good, config, files));
    const keys = [...header.metadata].filter(([key]) => key.startsWith('tokenizer.'));
    return {
      ...Object.fromEntries(keys.map(([key, value]) => [key.replace(/^tokenizer\.(ggml\.)?/, ''), value])),
      notes,
    };
  };

  it('over bytes has its merges, in either form, and types', async () => {
    const merged = (merges: unknown) => {
      const json = tokenizer({
        added_tokens: [
          { id: 257, content: '<s>', special: true },
          { id: 258, content: 'a▁b', special: false },
        ],
      });
      const model = json.model as { vocab: Record<string, number>; merges: unknown };
      model.vocab.th = 256;
      model.merges = merges;
      return json;
    };
    for (const merges of [['t h'], [['t', 'h']]]) {
      const keys = await keysOf({ 'tokenizer.json': merged(merges) });
      expect(keys).toMatchObject({ model: 'gpt2', pre: 'gpt-2', merges: ['t h'] });
      expect((keys as unknown as { tokens: string[] }).tokens.slice(256)).toEqual(['th', '<s>', 'a b', '[PAD259]']);
      expect([...(keys as unknown as { token_type: Int32Array }).token_type.slice(255)]).toEqual([1, 1, 3, 4, 5]);
    }
    expect(await refusal(folderOf(good, {}, { 'tokenizer.json': merged(['t h e']) }))).toMatch(
      /merge 0: "t h e", expected two tokens/,
    );
  });

  it('says which expression is not known', async () => {
    const split = { type: 'Split', pattern: { Regex: '\\w+|[^\\w\\s]+' }, behavior: 'Isolated' };
    const json = tokenizer({
      pre_tokenizer: { type: 'Sequence', pretokenizers: [split, { type: 'ByteLevel', use_regex: false }] },
    });
    expect(await refusal(folderOf(good, {}, { 'tokenizer.json': json }))).toMatch(
      /pre_tokenizer: expression "\\\\w\+\|\[\^\\\\w\\\\s\]\+", expected the one of llama-bpe, qwen2 or gpt-2/,
    );
  });

  const REFUSED: [string, Json | string | undefined, RegExp][] = [
    ['that is missing', undefined, /no tokenizer\.json and no tokenizer\.model/],
    ['of words', tokenizer({ model: { type: 'WordPiece', vocab: {} } }), /model\.type "WordPiece", expected BPE/],
    [
      'without bytes',
      tokenizer({ pre_tokenizer: { type: 'Whitespace' } }),
      /neither over bytes .* nor with bytes to fall back on/,
    ],
    [
      'with a strange id',
      tokenizer({ model: { vocab: { a: -1 }, merges: [] } }),
      /token id -1, expected a whole number/,
    ],
    ['with an id for two', tokenizer({ model: { vocab: { a: 1, b: 1 }, merges: [] } }), /two tokens with the id 1/],
    [
      'larger than the embedding',
      tokenizer({ model: { vocab: { a: 300 }, merges: [] } }),
      /token 300, expected ids below 260/,
    ],
    [
      'with a nameless token',
      tokenizer({ added_tokens: [{ id: 1 }] }),
      /added token 0: expected an id and its content/,
    ],
  ];
  test.each(REFUSED)('%s is refused', async (_, json, message) => {
    expect(await refusal(folderOf(good, {}, { 'tokenizer.json': json }))).toMatch(message);
  });

  it('takes ids from its settings before those of the model', async () => {
    const added = ['<s>', '</s>', '<end>', '<out>'].map((content, i) => ({ id: 256 + i, content, special: true }));
    const json = tokenizer({ added_tokens: added });
    const config = { bos_token_id: 1, eos_token_id: 2 };
    const plain = await keysOf({ 'tokenizer.json': json }, config);
    expect(plain).toMatchObject({ bos_token_id: 1, eos_token_id: 2, add_bos_token: false, add_eos_token: false });
    const generation = { 'generation_config.json': { eos_token_id: [257, 258] } };
    expect(await keysOf({ 'tokenizer.json': json, ...generation }, config)).toMatchObject({
      eos_token_id: 257,
      eot_token_id: 258,
    });
    const settings = {
      bos_token: '<s>',
      eos_token: { content: '<end>', special: true },
      add_bos_token: true,
      chat_template: [
        { name: 'tool_use', template: 'T' },
        { name: 'default', template: 'D' },
      ],
    };
    const files = { 'tokenizer.json': json, 'tokenizer_config.json': settings, ...generation };
    expect(await keysOf(files, config)).toMatchObject({
      ...{ bos_token_id: 256, eos_token_id: 258, eot_token_id: 257, add_bos_token: true, chat_template: 'D' },
    });
    expect(await keysOf({ ...files, 'chat_template.jinja': 'J' }, config)).toMatchObject({ chat_template: 'J' });
    const none = await keysOf({ ...files, 'tokenizer_config.json': { bos_token: null, eos_token: null } }, config);
    expect(none).not.toHaveProperty('bos_token_id');
    expect(none).toMatchObject({ add_bos_token: false });
  });

  it('leaves out added tokens that the embedding has no row for, and says so', async () => {
    const json = tokenizer({ added_tokens: [{ id: 260, content: '<image>', special: true }] });
    expect((await keysOf({ 'tokenizer.json': json })).notes).toEqual([
      "added token '<image>' (260) left out: the embedding has 260 rows",
    ]);
  });

  it('of pieces has scores by the rank of merges', async () => {
    const pieces = ['<unk>', '<0x41>', '▁', 'a', 'b', 'ab', '▁ab', 'zz'];
    const json = {
      model: {
        ...{ type: 'BPE', unk_token: '<unk>', byte_fallback: true },
        vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
        merges: ['a b', '▁ ab'],
      },
      normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace' }] },
      added_tokens: [
        { id: 0, content: '<unk>', special: true },
        { id: 8, content: '<s>', special: true },
      ],
    };
    const keys = (await keysOf({ 'tokenizer.json': json })) as unknown as Record<string, Float32Array>;
    expect(keys).toMatchObject({ model: 'llama', add_space_prefix: true, add_bos_token: false });
    expect(keys).not.toHaveProperty('merges');
    expect([...keys.token_type.slice(0, 10)]).toEqual([2, 6, 1, 1, 1, 1, 1, 1, 3, 5]);
    // A token that no merge makes comes last.
    expect([...keys.scores.slice(0, 10)]).toEqual([-1000, 0, 0, 0, 0, 0, -1, -2, -1000, -10000]);
    const metaspace = (scheme: string) => ({
      ...json,
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', prepend_scheme: scheme },
    });
    expect(await keysOf({ 'tokenizer.json': metaspace('first') })).toMatchObject({ add_space_prefix: true });
    expect(await keysOf({ 'tokenizer.json': metaspace('never') })).toMatchObject({ add_space_prefix: false });
  });
});
