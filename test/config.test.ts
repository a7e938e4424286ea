import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { type GgufHeader, readHeader, type TensorInfo } from '../dist/gguf/header.js';
import { openSource } from '../dist/gguf/source.js';
import type { GgufValue } from '../dist/gguf/value.js';
import { type Config, readConfig } from '../dist/model/config.js';
import { ropeTable } from '../dist/model/step.js';

// Each check of src/model/config.ts, on the header of a good file with one thing changed.

const golden = new URL('./golden/models/tiny-bitnet-b1.58-i2_s.gguf', import.meta.url);
let good: GgufHeader;

beforeAll(async () => {
  good = await readHeader(await openSource(new Uint8Array(readFileSync(golden))));
});

type Keys = Record<string, GgufValue | undefined>;
type Tensors = Record<string, Partial<TensorInfo> | undefined>;

/** `keys` of the architecture (or full ones) and `tensors` set, or taken away where undefined. */
function changed(keys: Keys = {}, tensors: Tensors = {}): GgufHeader {
  const metadata = new Map(good.metadata);
  for (const [name, value] of Object.entries(keys)) {
    const key = /^(general|tokenizer|bitnet)\./.test(name) ? name : `bitnet-b1.58.${name}`;
    if (value === undefined) metadata.delete(key);
    else metadata.set(key, value);
  }
  const all = new Map(good.tensors);
  for (const [name, change] of Object.entries(tensors)) {
    const base = all.get(name) ?? { name, type: 'F32', typeId: 0, dims: [1], at: 0, bytes: 4 };
    if (change === undefined) all.delete(name);
    else all.set(name, { ...base, ...change });
  }
  return { ...good, metadata, tensors: all };
}

const refusals: [string, Keys, Tensors, string][] = [
  ['no architecture', { 'general.architecture': undefined }, {}, 'general.architecture is missing'],
  [
    'another architecture',
    { 'general.architecture': 'gpt2' },
    {},
    "'gpt2', expected one of bitnet-b1.58, bitnet-25, bitnet",
  ],
  ['a missing key', { block_count: undefined }, {}, 'key bitnet-b1.58.block_count is missing'],
  [
    'a key that is text',
    { block_count: '4' },
    {},
    'key bitnet-b1.58.block_count: 4, expected a whole number from 1 to 1000',
  ],
  ['no heads', { 'attention.head_count': 0 }, {}, 'attention.head_count: 0, expected a whole number'],
  ['a fraction', { embedding_length: 25.5 }, {}, 'embedding_length: 25.5, expected a whole number'],
  ['eps 0', { 'attention.layer_norm_rms_epsilon': 0 }, {}, 'layer_norm_rms_epsilon: 0, expected a number above 0'],
  [
    'heads that kv heads do not divide',
    { 'attention.head_count_kv': 3 },
    {},
    'head_count 4, expected a multiple of head_count_kv 3',
  ],
  ['a head of 62', { 'attention.key_length': 62 }, {}, 'head dimension 62, expected a multiple of 4'],
  ['values unlike keys', { 'attention.value_length': 32 }, {}, 'value_length 32, expected key_length 64'],
  ['an odd rotation', { 'rope.dimension_count': 63 }, {}, 'rope dimension 63, expected even and at most 64'],
  ['a rotation beyond the head', { 'rope.dimension_count': 66 }, {}, 'rope dimension 66, expected even and at most 64'],
  ['yarn', { 'rope.scaling.type': 'yarn' }, {}, "rope scaling 'yarn' by 1, expected none, or linear"],
  ['a strange activation', { hidden_activation: 'tanh' }, {}, "hidden_activation: 'tanh', expected relu2 or silu"],
  ['another vocabulary', { 'tokenizer.ggml.tokens': ['a', 'b'] }, {}, 'tokenizer.ggml.tokens: 2 tokens, expected 512'],
  ['no embedding', {}, { 'token_embd.weight': undefined }, 'tensor token_embd.weight is missing'],
  ['a missing sub-norm', {}, { 'blk.1.ffn_sub_norm.weight': undefined }, "tensor 'blk.1.ffn_sub_norm.weight' missing"],
  ['a missing layer', { block_count: 5 }, {}, "tensors 'blk.4.attn_q.weight', 'blk.4.attn_k.weight'"],
  ['an extra layer', { block_count: 3 }, {}, "tensors 'blk.3."],
  ['a bias', {}, { 'blk.0.attn_q.bias': {} }, "tensor 'blk.0.attn_q.bias' not used by bitnet-b1.58"],
  [
    'a swapped shape',
    {},
    { 'blk.0.ffn_up.weight': { dims: [512, 256] } },
    "'blk.0.ffn_up.weight': shape [512, 256], expected [256, 512]",
  ],
  ['a short norm', {}, { 'output_norm.weight': { dims: [255] } }, "'output_norm.weight': shape [255], expected [256]"],
  [
    'a type that is not read',
    {},
    { 'blk.0.attn_q.weight': { type: 'Q4_K' } },
    'type Q4_K, which this version does not read yet',
  ],
  [
    'a ternary embedding',
    {},
    { 'token_embd.weight': { type: 'I2_S' } },
    'type I2_S, expected F16, BF16, F32, Q8_0, Q6_K, Q4_0',
  ],
  [
    'a layer in Q8_0',
    {},
    { 'blk.0.attn_q.weight': { type: 'Q8_0' } },
    "'blk.0.attn_q.weight': type Q8_0, expected I2_S, TL1, TL2, TQ1_0, TQ2_0, F16, BF16, F32",
  ],
  [
    'an embedding in Q8_0 with rows of 48',
    { embedding_length: 48, 'attention.key_length': 64 },
    { 'token_embd.weight': { type: 'Q8_0', dims: [48, 512] } },
    "'token_embd.weight': row length 48, expected a multiple of 32 (Q8_0)",
  ],
  [
    'an embedding in Q6_K with rows of 128',
    { embedding_length: 128, 'attention.key_length': 64 },
    { 'token_embd.weight': { type: 'Q6_K', dims: [128, 512] } },
    "'token_embd.weight': row length 128, expected a multiple of 256 (Q6_K)",
  ],
  [
    'q and v of two types',
    {},
    { 'blk.2.attn_v.weight': { type: 'F16' } },
    "'blk.2.attn_v.weight': type F16, expected I2_S like 'blk.2.attn_q.weight'",
  ],
  [
    'gate and up of two types',
    {},
    { 'blk.0.ffn_up.weight': { type: 'F16' } },
    "'blk.0.ffn_up.weight': type F16, expected I2_S like",
  ],
  [
    'frequencies of another head',
    {},
    { 'rope_freqs.weight': { dims: [31] } },
    "'rope_freqs.weight': shape [31], expected [32]",
  ],
];

describe('readConfig', () => {
  it('reads a good file', () => {
    expect(readConfig(good, 'm.gguf')).toMatchObject({
      ...{
        architecture: 'bitnet-b1.58',
        vocab: 512,
        dim: 256,
        layers: 4,
        ffnDim: 512,
        heads: 4,
        kvHeads: 2,
        headDim: 64,
      },
      ...{
        ropeDim: 64,
        ropeBase: 10_000,
        ropeFactor: 1,
        contextLength: 256,
        activation: 'relu2',
        headTensor: 'token_embd.weight',
      },
    });
  });

  it.each(refusals)('refuses %s', (_what, keys, tensors, message) => {
    const read = () => readConfig(changed(keys, tensors), 'm.gguf');
    expect(read).toThrow(message);
    expect(read).toThrow(/^m\.gguf: /);
  });

  it.each([
    ['bitnet', {}, 'silu'],
    ['bitnet', { 'bitnet.hidden_activation': 'relu2' }, 'relu2'],
    ['bitnet-25', {}, 'relu2'],
  ] as const)('%s with %j has %s', (architecture, keys, activation) => {
    const metadata = new Map(
      [...changed(keys).metadata].map(([key, value]) => [key.replace('bitnet-b1.58.', `${architecture}.`), value]),
    );
    metadata.set('general.architecture', architecture);
    const header = { ...good, metadata };
    expect(readConfig(header, 'm.gguf').activation).toBe(activation);
    expect(readConfig(header, 'm.gguf', 'relu2').activation).toBe('relu2');
  });

  /** The golden model's header as that of another family: keys renamed, tensors taken away and added. */
  function asFamily(architecture: string, norms: Record<string, number>, keys: Keys = {}): GgufHeader {
    const tensors: Tensors = {};
    for (let layer = 0; layer < 4; layer++) {
      for (const name of ['attn_sub_norm', 'ffn_sub_norm']) tensors[`blk.${layer}.${name}.weight`] = undefined;
      for (const [name, length] of Object.entries(norms)) {
        tensors[`blk.${layer}.${name}.weight`] = { dims: [length], bytes: 4 * length };
      }
    }
    const header = changed(keys, tensors);
    const metadata = [...header.metadata].map(([key, value]): [string, GgufValue] => [
      key.replace('bitnet-b1.58.', `${architecture}.`),
      value,
    ]);
    return { ...header, metadata: new Map([...metadata, ['general.architecture', architecture]]) };
  }
  const EMBEDDING = {
    ...{ attn_q_norm_in: 256, attn_k_norm_in: 256, attn_v_norm_in: 256, attn_output_norm_in: 256 },
    ...{ ffn_gate_norm_in: 256, ffn_up_norm_in: 256, ffn_down_norm_in: 512, attn_q_norm: 64, attn_k_norm: 64 },
  };
  const POST = { post_attention_norm: 256, post_ffw_norm: 256 };
  const HEAD_DIM = { 'attention.key_length': 64 };

  it('reads the other families', () => {
    expect(readConfig(asFamily('llama', {}), 'm.gguf')).toMatchObject({
      ...{ ropeStyle: 'norm', activation: 'silu', hasSubNorm: false, hasInputNorms: false, embeddingScale: 1 },
      headTensor: 'token_embd.weight',
    });
    expect(readConfig(asFamily('qwen3', EMBEDDING, HEAD_DIM), 'm.gguf')).toMatchObject({
      ...{ ropeStyle: 'neox', activation: 'silu', hasInputNorms: true, hasHeadNorms: true, hasPostNorms: false },
      ...{ embeddingScale: 1, headTensor: undefined, pooling: 'last' },
    });
    const gemma3 = asFamily('gemma3', { ...EMBEDDING, ...POST }, { ...HEAD_DIM, pooling_type: 1 });
    expect(readConfig(gemma3, 'm.gguf')).toMatchObject({
      ...{ ropeStyle: 'neox', activation: 'gelu', hasInputNorms: true, hasHeadNorms: true, hasPostNorms: true },
      ...{ embeddingScale: 16, headTensor: undefined, pooling: 'mean' },
    });
  });

  it.each([
    ['qwen3 without head dimension', () => asFamily('qwen3', EMBEDDING), 'key qwen3.attention.key_length is missing'],
    ['qwen3 without a norm', () => asFamily('qwen3', { attn_q_norm: 64 }, HEAD_DIM), "'blk.0.attn_q_norm_in.weight'"],
    [
      'gemma3 without norms behind',
      () => asFamily('gemma3', EMBEDDING, HEAD_DIM),
      "'blk.0.post_attention_norm.weight'",
    ],
    ['llama with sub-norms', () => asFamily('llama', { attn_sub_norm: 256 }), "'blk.0.attn_sub_norm.weight'"],
    [
      'a norm of another length',
      () => asFamily('qwen3', { ...EMBEDDING, attn_k_norm: 32 }, HEAD_DIM),
      "'blk.0.attn_k_norm.weight': shape [32], expected [64]",
    ],
    [
      'a pooling that there is none of',
      () => asFamily('qwen3', EMBEDDING, { ...HEAD_DIM, pooling_type: 4 }),
      'key qwen3.pooling_type: 4, expected 1 (mean), 2 (first token) or 3 (last token)',
    ],
  ])('refuses %s', (_what, header, message) => {
    expect(() => readConfig(header(), 'm.gguf')).toThrow(message);
  });

  it.each(['F16', 'BF16', 'F32', 'Q8_0', 'Q6_K', 'Q4_0'] as const)('takes an embedding in %s', (type) => {
    const config = readConfig(changed({}, { 'token_embd.weight': { type } }), 'm.gguf');
    expect(config.headTensor).toBe('token_embd.weight');
  });

  it('ignores an output.weight, with a warning, where the family does', () => {
    const config = readConfig(changed({}, { 'output.weight': { dims: [256, 512], type: 'F16' } }), 'm.gguf');
    expect(config.headTensor).toBe('token_embd.weight');
    expect(config.warnings.join()).toContain('output.weight is ignored');
  });
});

describe('ropeTable', () => {
  const config = (change: Partial<Config> = {}): Config => ({ ...readConfig(good, 'm.gguf'), ...change });
  const angle = (table: Float32Array, pos: number, i: number) => [table[pos * 64 + 2 * i], table[pos * 64 + 2 * i + 1]];

  it('turns pair i of position p by p base^(-2i / dim)', () => {
    const [cos, sin] = angle(ropeTable(config(), undefined, 8), 5, 3);
    const theta = 5 * 10_000 ** (-6 / 64);
    expect(cos).toBeCloseTo(Math.cos(theta), 5);
    expect(sin).toBeCloseTo(Math.sin(theta), 5);
  });

  it('divides positions by the factor of linear scaling', () => {
    const scaled = readConfig(changed({ 'rope.scaling.type': 'linear', 'rope.scaling.factor': 4 }), 'm.gguf');
    expect(scaled.ropeFactor).toBe(4);
    expect(angle(ropeTable(scaled, undefined, 9), 8, 2)).toEqual(angle(ropeTable(config(), undefined, 9), 2, 2));
  });

  it('divides each angle by its entry in rope_freqs', () => {
    const freqs = Float32Array.from({ length: 32 }, (_, i) => (i === 3 ? 2 : 1));
    const [plain, divided] = [ropeTable(config(), undefined, 9), ropeTable(config(), freqs, 9)];
    expect(angle(divided, 8, 3)).toEqual(angle(plain, 4, 3));
    expect(angle(divided, 8, 2)).toEqual(angle(plain, 8, 2));
  });
});
