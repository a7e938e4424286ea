import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';
import { type ConvertOptions, convert } from '../dist/convert/convert.js';
import type { Sink } from '../dist/convert/output.js';
import { type GgufHeader, readHeader, type TensorInfo } from '../dist/gguf/header.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import type { Ternary } from '../dist/gguf/layouts/ternary.js';
import { decode, TERNARY, type TernaryType } from '../dist/gguf/layouts.js';
import { openSource, type Source } from '../dist/gguf/source.js';
import { isTiled, tilesOf } from '../dist/gguf/tiles.js';
import { typedMetadata, writeGguf } from '../dist/gguf/writer.js';
import { readConfig } from '../dist/model/config.js';
import type { Folder } from '../dist/safetensors/checkpoint.js';
import { random } from './random.js';
import { packedTensors, rewrite } from './rewrite.js';

const golden = (file: string) => join(fileURLToPath(new URL('./golden', import.meta.url)), file);
const model = (name: string) => new Uint8Array(readFileSync(golden(`models/${name}.gguf`)));
const B158 = model('tiny-bitnet-b1.58-i2_s');
const SILU = model('tiny-bitnet-i2_s');

interface Converted {
  readonly bytes: Uint8Array;
  readonly header: GgufHeader;
  readonly notes: readonly string[];
}

/** A sink in memory: every byte of the file must be written once, in order. */
function memory(): Sink & { file(): Uint8Array } {
  const pieces: Uint8Array[] = [];
  let end = 0;
  return {
    write(at, bytes) {
      expect(at).toBe(end);
      pieces.push(bytes.slice());
      end += bytes.length;
    },
    file: () => new Uint8Array(Buffer.concat(pieces)),
  };
}

async function converted(
  input: Uint8Array | Source | Folder,
  options: Partial<ConvertOptions> = {},
): Promise<Converted> {
  const sink = memory();
  const source = input instanceof Uint8Array ? await openSource(input) : input;
  const { bytes: size, notes } = await convert(source, sink, { type: 'I2_S', ...options });
  const bytes = sink.file();
  expect(bytes.length).toBe(size);
  const header = await readHeader(await openSource(bytes));
  expect(header.warnings).toEqual([]);
  return { bytes, header, notes };
}

/** The message of the ConvertError, GgufError or SafetensorsError that is thrown. */
async function refusal(input: Uint8Array | Folder, options: Partial<ConvertOptions> = {}): Promise<string> {
  const error = await converted(input, options).catch((e: unknown) => e);
  expect((error as Error)?.name).toMatch(/^(Convert|Gguf|Safetensors)Error$/);
  return (error as Error).message;
}

function tensorOf({ header }: Pick<Converted, 'header'>, name: string): TensorInfo {
  const info = header.tensors.get(name);
  if (info === undefined) throw new Error(`no tensor ${name}`);
  return info;
}

const packedOf = ({ bytes }: Converted, { at, bytes: n }: TensorInfo) => bytes.subarray(at, at + n);

/** A matrix of any ternary type, or of F16 whose values are -s, 0 and s. */
function ternaryOf(c: Converted, name: string): Ternary {
  const info = tensorOf(c, name);
  const packed = packedOf(c, info);
  if (isTernary(info.type)) {
    const tiles = isTiled(info.type) ? tilesOf(info.type, info.dims, c.header.metadata, name).tiles : undefined;
    return TERNARY[info.type].unpack(packed, info.dims, name, tiles);
  }
  const values = decode(info.type, packed, info.dims, name);
  const scale = values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const weights = Int8Array.from(values, (v) => v / scale);
  expect(values.every((v, i) => v === weights[i] * scale)).toBe(true);
  return { weights, scales: Float32Array.of(scale) };
}

const floatsOf = (c: Converted, name: string) => {
  const info = tensorOf(c, name);
  return decode(info.type, packedOf(c, info), info.dims, name);
};

const isTernary = (type: string): type is TernaryType => Object.hasOwn(TERNARY, type);
/** Byte for byte; vitest's own equality takes seconds for a tensor. */
const sameBytes = (a: ArrayBufferView, b: ArrayBufferView): boolean =>
  Buffer.compare(
    new Uint8Array(a.buffer, a.byteOffset, a.byteLength),
    new Uint8Array(b.buffer, b.byteOffset, b.byteLength),
  ) === 0;
const f16Round = (x: number) => f16.f16Value(f16.f16Bits(x));

describe('checkpoints of transformers', () => {
  // golden/transformers/README.md says which program and command made them.
  const checkpoint = (name: string) => golden(`transformers/${name}`);
  interface Expected {
    matrices: Record<string, { shape: [number, number]; scale: number; sha256: string }>;
  }
  const expectedOf = (name: string): Expected =>
    JSON.parse(readFileSync(join(checkpoint(name), 'expected.json'), 'utf8'));
  const folderOf = (name: string) => directory(checkpoint(name));

  /** GGUF's name of a matrix of a checkpoint. */
  function ggufName(name: string): string {
    const [, layer, part] = /^(?:model\.)?layers\.(\d+)\.(.+)_proj\.weight$/.exec(name) ?? [];
    const stems: Record<string, string> = {
      'self_attn.q': 'attn_q',
      'self_attn.k': 'attn_k',
      'self_attn.v': 'attn_v',
      'self_attn.o': 'attn_output',
      'mlp.gate': 'ffn_gate',
      'mlp.up': 'ffn_up',
      'mlp.down': 'ffn_down',
    };
    return `blk.${layer}.${stems[part]}.weight`;
  }

  /** Rows of q and k from GGUF's order for llama, heads of [x0 y0 x1 y1 ...], to the checkpoint's [x0 x1 ... y0 y1 ...]. */
  function halves(weights: Int8Array, cols: number, headDim: number): Int8Array {
    const out = new Int8Array(weights.length);
    for (let row = 0; row < weights.length / cols; row++) {
      const [head, i] = [Math.floor(row / headDim), row % headDim];
      const to = head * headDim + (i % 2) * (headDim / 2) + Math.floor(i / 2);
      out.set(weights.subarray(row * cols, (row + 1) * cols), to * cols);
    }
    return out;
  }

  const CASES = ['bitnet', 'bitnet-master', 'llama', 'qwen3', 'gemma3'].flatMap((name) =>
    (['I2_S', 'TL1', 'F16'] as const).map((type): [string, ConvertOptions['type']] => [name, type]),
  );
  test.each([...CASES, ['gemma3-160', 'F16'] as [string, 'F16']])(
    '%s to %s has its ternary matrices',
    async (name, type) => {
      const c = await converted(folderOf(name), { type });
      const { matrices } = expectedOf(name);
      expect(Object.keys(matrices).length).toBeGreaterThanOrEqual(7);
      for (const [hf, { shape, scale, sha256 }] of Object.entries(matrices)) {
        const gguf = ggufName(hf);
        expect(tensorOf(c, gguf)).toMatchObject({ type, dims: [shape[1], shape[0]] });
        const { weights, scales } = ternaryOf(c, gguf);
        const turned = name === 'llama' && /attn_(q|k)/.test(gguf);
        const inOrder = turned ? halves(weights, shape[1], 32) : weights;
        expect(createHash('sha256').update(inOrder).digest('hex'), hf).toBe(sha256);
        // A mean may differ in its last bit from torch's.
        const bound = scale * (type === 'F16' ? 2 ** -11 : 2 ** -23);
        expect(Math.abs(scales[0] - scale), `scale of ${hf}`).toBeLessThanOrEqual(bound);
      }
    },
  );

  it('have their other tensors, norms in F32 and tables in F16', async () => {
    for (const name of ['bitnet', 'llama', 'qwen3', 'gemma3']) {
      const c = await converted(folderOf(name));
      const stored = await readTensors(checkpoint(name));
      const prefix = stored.has('model.norm.weight') ? 'model.' : '';
      const same = (gguf: string, hf: string, plus = 0) => {
        const expected = stored.get(hf)?.map((x) => (plus === 0 ? x : x + plus)) ?? new Float32Array(0);
        expect(sameBytes(floatsOf(c, gguf), expected), `${name} ${gguf}`).toBe(true);
        expect(tensorOf(c, gguf).type).toBe(gguf.endsWith('norm.weight') ? 'F32' : tensorOf(c, gguf).type);
      };
      const gemma = name === 'gemma3' ? 1 : 0;
      same('token_embd.weight', `${prefix}embed_tokens.weight`);
      expect(tensorOf(c, 'token_embd.weight').type).toBe('F16');
      same('output_norm.weight', `${prefix}norm.weight`, gemma);
      same('blk.1.attn_norm.weight', `${prefix}layers.1.input_layernorm.weight`, gemma);
      expect(tensorOf(c, 'output_norm.weight').type).toBe('F32');
      if (name === 'bitnet') {
        same('blk.0.attn_sub_norm.weight', 'model.layers.0.self_attn.attn_sub_norm.weight');
        same('blk.0.ffn_sub_norm.weight', 'model.layers.0.mlp.ffn_sub_norm.weight');
        same('blk.0.ffn_norm.weight', 'model.layers.0.post_attention_layernorm.weight');
      }
      if (name === 'llama') same('output.weight', 'lm_head.weight');
      if (name === 'qwen3' || name === 'gemma3') {
        same('blk.0.attn_output_norm_in.weight', 'layers.0.self_attn.o_proj.rms_norm.weight');
        same('blk.0.ffn_gate_norm_in.weight', 'layers.0.mlp.gate_proj.rms_norm.weight');
        same('blk.0.attn_k_norm.weight', 'layers.0.self_attn.k_norm.weight', gemma);
      }
      if (name === 'gemma3') {
        same('blk.0.post_attention_norm.weight', 'layers.0.post_attention_layernorm.weight', 1);
        same('blk.0.ffn_norm.weight', 'layers.0.pre_feedforward_layernorm.weight', 1);
        same('blk.0.post_ffw_norm.weight', 'layers.0.post_feedforward_layernorm.weight', 1);
      }
    }
  });

  it('have their numbers as metadata', async () => {
    const metadataOf = async (name: string, type: ConvertOptions['type'] = 'I2_S') => {
      const { header } = await converted(folderOf(name), { type });
      if (type === 'I2_S') expect(readConfig(header, name).warnings).toEqual([]);
      return Object.fromEntries([...header.metadata].filter(([, value]) => typeof value !== 'object'));
    };
    const bitnet = await metadataOf('bitnet');
    const chat = bitnet['tokenizer.chat_template'];
    expect(chat).toMatch(/^\{% for message in messages %\}.*<\|eot_id\|>/);
    expect(bitnet).toEqual({
      'general.architecture': 'bitnet-b1.58',
      'general.type': 'model',
      'general.name': 'bitnet',
      'general.file_type': 40,
      'general.quantization_version': 2,
      'bitnet-b1.58.vocab_size': 320,
      'bitnet-b1.58.context_length': 256,
      'bitnet-b1.58.embedding_length': 128,
      'bitnet-b1.58.block_count': 2,
      'bitnet-b1.58.feed_forward_length': 256,
      'bitnet-b1.58.attention.head_count': 4,
      'bitnet-b1.58.attention.head_count_kv': 2,
      'bitnet-b1.58.attention.layer_norm_rms_epsilon': Math.fround(1e-5),
      'bitnet-b1.58.rope.dimension_count': 32,
      'bitnet-b1.58.rope.freq_base': 500000,
      'bitnet-b1.58.rope.scaling.type': 'linear',
      'bitnet-b1.58.rope.scaling.factor': 1,
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'llama-bpe',
      'tokenizer.ggml.bos_token_id': 316,
      'tokenizer.ggml.eos_token_id': 317,
      'tokenizer.ggml.eot_token_id': 319,
      'tokenizer.ggml.add_bos_token': true,
      'tokenizer.ggml.add_eos_token': false,
      'tokenizer.chat_template': chat,
    });
    expect(await metadataOf('bitnet', 'F16')).toMatchObject({
      'general.architecture': 'bitnet',
      'general.file_type': 1,
      'bitnet.hidden_activation': 'relu2',
    });
    expect(await metadataOf('bitnet-master', 'TL1')).toMatchObject({
      'general.file_type': 38,
      'bitnet-b1.58.rope.freq_base': 500000,
    });
    expect(await metadataOf('llama')).toMatchObject({
      'general.architecture': 'llama',
      'llama.rope.freq_base': 500000,
      'llama.rope.dimension_count': 32,
    });
    expect(await metadataOf('qwen3')).toMatchObject({
      'qwen3.attention.key_length': 64,
      'qwen3.attention.value_length': 64,
      'qwen3.attention.layer_norm_rms_epsilon': Math.fround(1e-6),
      'qwen3.pooling_type': 3,
      'tokenizer.ggml.pre': 'qwen2',
      'tokenizer.ggml.eos_token_id': 314,
      'tokenizer.ggml.add_bos_token': false,
      'tokenizer.ggml.add_eos_token': true,
    });
    const gemma = await metadataOf('gemma3');
    expect(gemma).toMatchObject({
      'gemma3.attention.key_length': 64,
      'gemma3.rope.freq_base': 10000,
      'gemma3.pooling_type': 3,
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.bos_token_id': 2,
      'tokenizer.ggml.eos_token_id': 1,
      'tokenizer.ggml.add_bos_token': true,
      'tokenizer.ggml.add_eos_token': true,
      'tokenizer.ggml.add_space_prefix': false,
    });
    expect(gemma).not.toHaveProperty(['gemma3.attention.sliding_window']);
  });

  it("has Llama 3's frequencies", async () => {
    const freqs = floatsOf(await converted(folderOf('llama')), 'rope_freqs.weight');
    expect(freqs).toHaveLength(16);
    // Wavelengths up to 64 / 4 positions stay, from 64 on they are 8 times as long.
    const wavelength = (i: number) => 2 * Math.PI * 500000 ** (i / 16);
    expect(
      [...freqs].map((f, i) => (wavelength(i) < 16 ? f === 1 : wavelength(i) > 64 ? f === 8 : f > 1 && f < 8)),
    ).not.toContain(false);
    expect(new Set(freqs).size).toBeGreaterThan(2);
  });

  it('fills the vocabulary up to the rows of the embedding', async () => {
    const { header } = await converted(folderOf('qwen3'));
    expect((header.metadata.get('tokenizer.ggml.tokens') as string[]).slice(314)).toEqual([
      '<|endoftext|>',
      '<|im_start|>',
      '<|im_end|>',
      '[PAD317]',
      '[PAD318]',
      '[PAD319]',
    ]);
    expect([...(header.metadata.get('tokenizer.ggml.token_type') as Int32Array)].slice(313)).toEqual([
      1, 3, 3, 3, 5, 5, 5,
    ]);
  });

  it('refuses rows that the type cannot cut, by name', async () => {
    expect(await refusal(folderOf('gemma3-160'))).toMatch(
      /q_proj\.weight': row length 160, expected a multiple of 128 \(I2_S\)/,
    );
    expect(await refusal(folderOf('bitnet'), { type: 'TQ2_0' })).toMatch(
      /row length 128, expected a multiple of 256 \(TQ2_0\)/,
    );
    expect(await refusal(folderOf('gemma3-160'), { type: 'TL1' })).toMatch(/q_proj\.weight'.*row length 160/);
  });

  it('reads only the files it needs, each within the folder', async () => {
    const asked: string[] = [];
    const inner = folderOf('llama');
    await converted({
      name: 'x',
      open: (file) => {
        asked.push(file);
        return inner.open(file);
      },
    });
    expect(asked.filter((file) => /safetensors/.test(file))).toEqual([
      'model.safetensors.index.json',
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
    ]);
  });
});

describe('GGUF files', () => {
  const TYPES = ['I2_S', 'TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F16'] as const;

  // Files of the same weights that other programs packed; golden/README.md.
  test.each([
    ['tiny-bitnet-b1.58-i2_s', 'TL2', 'tiny-bitnet-b1.58-tl2'],
    ['tiny-bitnet-b1.58-i2_s', 'TQ2_0', 'tiny-bitnet-tq2_0'],
    ['tiny-bitnet-i2_s', 'TQ1_0', 'tiny-bitnet-tq1_0'],
    ['tiny-bitnet-tq1_0', 'TQ2_0', 'tiny-bitnet-tq2_0'],
    ['tiny-bitnet-tq2_0', 'I2_S', 'tiny-bitnet-i2_s'],
    ['tiny-bitnet-b1.58-tl2', 'I2_S', 'tiny-bitnet-b1.58-i2_s'],
  ] as const)('%s to %s has the bytes of %s', async (from, type, to) => {
    const c = await converted(model(from), { type });
    const twin = { bytes: model(to), header: await readHeader(await openSource(model(to))), notes: [] };
    expect([...c.header.tensors.keys()]).toEqual([...twin.header.tensors.keys()]);
    for (const [name, info] of twin.header.tensors) {
      expect(tensorOf(c, name).type).toBe(info.type);
      expect(sameBytes(packedOf(c, tensorOf(c, name)), packedOf(twin, info)), name).toBe(true);
    }
    const added = [...c.header.metadata.keys()].filter((key) => !twin.header.metadata.has(key));
    expect(added.filter((key) => !/^ternlm\.tiles\.|^bitnet\.hidden_activation$/.test(key))).toEqual([]);
    for (const [key, value] of twin.header.metadata) expect(c.header.metadata.get(key), key).toEqual(value);
  });

  test.each(TYPES)('to %s and back are the same', async (type) => {
    for (const original of [B158, SILU]) {
      const there = await converted(original, { type });
      const back = await converted(there.bytes);
      expect(sameBytes(back.bytes, original)).toBe(true);
      expect(back.notes.filter((note) => note.includes('rounded'))).toEqual([]); // the golden scales are exact in F16
    }
  });

  it('keep the types of their keys, and every key', async () => {
    const header = await readHeader(await openSource(SILU));
    const metadata = typedMetadata(header);
    const extra = [
      ['x.i8', { type: 'i8', value: -3 }],
      ['x.u64', { type: 'u64', value: 2n ** 60n }],
      ['x.f64', { type: 'f64', value: 0.1 }],
      ['x.bools', { type: 'array', of: 'bool', value: [true, false] }],
      ['x.none', { type: 'array', of: 'u16', value: new Uint16Array(0) }],
      ['ternlm.tiles.128x256', { type: 'array', of: 'u32', value: [128, 96, 32] }],
    ] as const;
    for (const [key, value] of extra) metadata.set(key, value);
    const { header: out } = await converted(writeGguf(metadata, packedTensors(header, SILU)), { type: 'TQ2_0' });
    metadata.delete('ternlm.tiles.128x256');
    metadata.set('general.file_type', { type: 'u32', value: 37 });
    expect([...typedMetadata(out)]).toEqual([...metadata]);
  });

  it('are renamed for the engine that is to open them', async () => {
    const { header, notes } = await converted(B158, { type: 'TQ2_0' });
    expect(header.metadata.get('general.architecture')).toBe('bitnet');
    expect(header.metadata.get('bitnet.block_count')).toBe(4);
    expect([...header.metadata.keys()].filter((key) => key.startsWith('bitnet-b1.58.'))).toEqual([]);
    expect(readConfig((await converted(B158, { type: 'F16' })).header, 'file').activation).toBe('relu2');
    expect(notes).toEqual([
      'architecture bitnet-b1.58 written as bitnet, its name in llama.cpp',
      expect.stringMatching(/ReLU².*hidden_activation/),
    ]);
    const silu = await converted(SILU, { type: 'TL2' });
    expect(silu.header.metadata.get('general.architecture')).toBe('bitnet');
    expect(readConfig((await converted(SILU)).header, 'file').activation).toBe('silu');
    expect(silu.notes).toEqual([]);
  });

  it('lose an output head that their own name ignores and the new one would use', async () => {
    const withHead = await rewrite(B158, (t) =>
      t.name === 'token_embd.weight' ? [t, { ...t, name: 'output.weight' }] : [t],
    );
    const { header, notes } = await converted(withHead, { type: 'F16' });
    expect(header.tensors.has('output.weight')).toBe(false);
    expect(notes.join()).toMatch(/output\.weight left out/);
    expect((await converted(withHead)).header.tensors.has('output.weight')).toBe(true);
  });

  test.each(['Q8_0', 'Q6_K', 'F16'] as const)('have an embedding in %s where that is asked for', async (embedding) => {
    const c = await converted(SILU, { embedding });
    expect(tensorOf(c, 'token_embd.weight').type).toBe(embedding);
    const [was, is] = [floatsOf(await converted(SILU), 'token_embd.weight'), floatsOf(c, 'token_embd.weight')];
    const largest = was.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const bound = { Q8_0: largest / 127, Q6_K: largest / 31, F16: 0 }[embedding];
    expect(was.every((x, i) => Math.abs(x - is[i]) <= bound)).toBe(true);
    const again = await converted(c.bytes, { type: 'TQ2_0' }); // as it is when nothing is asked for
    expect(tensorOf(again, 'token_embd.weight').type).toBe(embedding);
    const [first, second] = [c, again].map((file) => packedOf(file, tensorOf(file, 'token_embd.weight')));
    expect(sameBytes(first, second)).toBe(true);
  });

  it('say when scales were rounded to F16', async () => {
    const scales = new Float32Array([0.1]);
    const uneven = await rewrite(SILU, (t) => {
      if (t.name !== 'blk.1.ffn_up.weight') return [t];
      const packed = t.packed.slice();
      new DataView(packed.buffer).setFloat32(packed.length - 32, scales[0], true);
      return [{ ...t, packed }];
    });
    for (const type of ['TQ1_0', 'TQ2_0', 'F16'] as const) {
      const c = await converted(uneven, { type });
      expect(c.notes).toEqual(['scales of 1 tensor rounded to F16, by at most 0.024 %']);
      expect(ternaryOf(c, 'blk.1.ffn_up.weight').scales[0]).toBe(f16Round(scales[0]));
    }
    expect((await converted(uneven, { type: 'TL2' })).notes).toEqual([]);
  });

  it('of TL2 take tiles that were told, and refuse others', async () => {
    const tl2 = model('tiny-bitnet-b1.58-tl2');
    const told = await converted(tl2, { layout: 'tiny' });
    expect(sameBytes(told.bytes, B158)).toBe(true);
    expect(await refusal(tl2, { layout: 'Llama3-8B' })).toMatch(/preset 'Llama3-8B' has no TL2/);
    const strange = { rows: 64, cols: 96, sub: 32 };
    const c = await converted(B158, { type: 'TL2', layout: strange });
    expect(c.header.metadata.get('ternlm.tiles.128x256')).toEqual(Uint32Array.of(64, 96, 32));
    expect(sameBytes((await converted(c.bytes)).bytes, B158)).toBe(true);
  });
});

describe('scales of blocks', () => {
  /** SILU in TQ2_0 with other scales in the blocks of one tensor. */
  async function withScales(
    scaleOf: (block: number, was: number) => number,
    weights?: (block: number) => number | undefined,
  ) {
    const tq2 = (await converted(SILU, { type: 'TQ2_0' })).bytes;
    return rewrite(tq2, (t) => {
      if (t.name !== 'blk.2.attn_v.weight') return [t];
      const packed = t.packed.slice();
      for (let block = 0; block < packed.length / 66; block++) {
        const at = 66 * block;
        const was = f16.f16Value(packed[at + 64] | (packed[at + 65] << 8));
        const bits = f16.f16Bits(scaleOf(block, was));
        packed.set([bits & 255, bits >> 8], at + 64);
        const byte = weights?.(block);
        if (byte !== undefined) packed.fill(byte, at, at + 64);
      }
      return [{ ...t, packed }];
    });
  }

  it('that differ do not fit one, and stay between TQ1_0 and TQ2_0', async () => {
    const differ = await withScales((block, was) => (block === 7 ? 2 * was : was));
    for (const type of ['I2_S', 'TL1', 'TL2'] as const) {
      expect(await refusal(differ, { type })).toMatch(
        /'blk\.2\.attn_v\.weight': block 0 has the scale .*, block 7 has .*: scales of blocks do not fit the one of a tensor/,
      );
    }
    const tq1 = await converted(differ, { type: 'TQ1_0' });
    const back = await converted(tq1.bytes, { type: 'TQ2_0' });
    expect(sameBytes(back.bytes, differ)).toBe(true);
  });

  it('of blocks without weights do not count', async () => {
    const zeroes = await withScales(
      (block, was) => (block % 3 === 0 ? 123 : was),
      (block) => (block % 3 === 0 ? 0b01010101 : undefined),
    );
    const { weights, scales } = ternaryOf(await converted(zeroes), 'blk.2.attn_v.weight');
    expect(scales).toEqual(ternaryOf(await converted(SILU), 'blk.2.attn_v.weight').scales);
    expect(weights.subarray(0, 256).some((w) => w !== 0)).toBe(false);
  });

  it('below 0 turn the weights', async () => {
    const turned = ternaryOf(await converted(await withScales((_, was) => -was)), 'blk.2.attn_v.weight');
    const { weights, scales } = ternaryOf(await converted(SILU), 'blk.2.attn_v.weight');
    expect(turned.scales).toEqual(scales);
    expect(turned.weights.every((w, i) => w === 0 - weights[i])).toBe(true);
  });

  it('of 0 make weights of 0', async () => {
    const zeroes = await withScales((block, was) => (block === 1 ? 0 : was));
    const { weights } = ternaryOf(await converted(zeroes), 'blk.2.attn_v.weight');
    expect(weights.subarray(256, 512).some((w) => w !== 0)).toBe(false);
    expect(weights.subarray(512, 768).some((w) => w !== 0)).toBe(true);
  });
});

test('a TQ1_0 byte that encodes no trits is refused, also on the way to TQ1_0', async () => {
  const name = 'blk.0.attn_q.weight';
  const input = model('tiny-bitnet-tq1_0').slice();
  const { at } = tensorOf({ header: await readHeader(await openSource(input)) }, name);
  input[at + 40] = 60;
  for (const type of ['I2_S', 'TQ1_0', 'F16'] as const) {
    expect(await refusal(input, { type })).toMatch(
      /'blk\.0\.attn_q\.weight': byte 40 is 60, which encodes no five trits/,
    );
  }
});

describe('floats', () => {
  const NAME = 'blk.1.ffn_down.weight';
  /** SILU with one matrix in F32, F16 or BF16. */
  const withFloats = (type: 'F32' | 'F16' | 'BF16', values: Float32Array) =>
    rewrite(SILU, (t) => (t.name === NAME ? [{ ...t, type, packed: floatBytes(type, values) }] : [t]));
  const [cols, rows] = [512, 256];
  const normal = random(7).normal(rows * cols, 0.02);
  const masters = (type: 'F32' | 'F16' | 'BF16') => decode(type, floatBytes(type, normal), [cols, rows], NAME);

  test.each(['F32', 'F16', 'BF16'] as const)('in %s that are ternary are taken as they are', async (type) => {
    const was = ternaryOf(await converted(SILU), NAME);
    const values = Float32Array.from(was.weights, (w) => w * was.scales[0]); // 11 bits: exact in F16
    const scale = type === 'BF16' ? decode('BF16', floatBytes('BF16', was.scales), [1], NAME)[0] : was.scales[0];
    const c = await converted(await withFloats(type, values), { quantize: true });
    const is = ternaryOf(c, NAME);
    expect(sameBytes(is.weights, was.weights)).toBe(true);
    expect([...is.scales]).toEqual([scale]);
  });

  test.each(['I2_S', 'TL1', 'TL2', 'TQ1_0', 'TQ2_0'] as const)('that are not are refused for %s', async (type) => {
    expect(await refusal(await withFloats('F16', normal), { type })).toMatch(
      /'blk\.1\.ffn_down\.weight': F16 weights that are not ternary \(expected -s, 0 and s with one s\); quantize rounds them/,
    );
  });

  it('to F16 stay what they are', async () => {
    const c = await converted(await withFloats('BF16', normal), { type: 'F16' });
    expect(sameBytes(floatsOf(c, NAME), masters('BF16').map(f16Round))).toBe(true);
  });

  test.each(['F32', 'F16', 'BF16'] as const)(
    'in %s are rounded as BitNet does, where that is asked for',
    async (type) => {
      const values = masters(type);
      const scale = Math.fround(values.reduce((sum, x) => sum + Math.abs(x), 0) / values.length);
      const reciprocal = Math.fround(1 / scale);
      const weights = Int8Array.from(values, (x) => {
        const y = Math.fround(x * reciprocal);
        return y > 0.5 ? 1 : y < -0.5 ? -1 : 0;
      });
      const input = await withFloats(type, normal);
      for (const target of ['I2_S', 'TL2'] as const) {
        const is = ternaryOf(await converted(input, { type: target, quantize: true }), NAME);
        expect(sameBytes(is.weights, weights)).toBe(true);
        expect([...is.scales]).toEqual([scale]);
      }
      const tq = ternaryOf(await converted(input, { type: 'TQ2_0', quantize: true }), NAME);
      expect(sameBytes(tq.weights, weights)).toBe(true);
      expect(new Set(tq.scales)).toEqual(new Set([f16Round(scale)]));
    },
  );

  it('halfway between goes to 0, the next float up does not', async () => {
    // Powers of two: scale, its reciprocal and every product are exact. Each pair has the mean 1 / 4.
    const half = 1 / 8;
    const above = Math.fround(half + 2 ** -26);
    const values = new Float32Array(rows * cols);
    for (let i = 0; i < values.length; i += 2) values.set([half, 3 / 8], i);
    values.set([-half, -3 / 8, above, 3 / 8, -above, 3 / 8], 0);
    const { weights, scales } = ternaryOf(await converted(await withFloats('F32', values), { quantize: true }), NAME);
    expect(scales).toEqual(Float32Array.of(0.25));
    expect([...weights.subarray(0, 8)]).toEqual([0, -1, 1, 1, -1, 1, 0, 1]);
  });

  it('are rounded with a scale for each block', async () => {
    const input = await withFloats('BF16', normal);
    const values = masters('BF16');
    for (const block of [256, 512]) {
      const { weights, scales } = ternaryOf(
        await converted(input, { type: 'TQ1_0', quantize: true, blockSize: block }),
        NAME,
      );
      for (let from = 0; from < values.length; from += block) {
        const part = values.subarray(from, from + block);
        const scale = Math.fround(part.reduce((sum, x) => sum + Math.abs(x), 0) / block);
        for (let at = from; at < from + block; at += 256) expect(scales[at / 256]).toBe(f16Round(scale));
        for (let i = 0; i < block; i += 37) {
          expect(weights[from + i]).toBe(Math.abs(part[i]) > scale / 2 ? Math.sign(part[i]) : 0);
        }
      }
    }
    expect(await refusal(input, { type: 'TQ1_0', quantize: true, blockSize: 768 })).toMatch(
      /row length \d+, expected a multiple of the block size 768/,
    );
    for (const options of [
      { type: 'TQ1_0', quantize: true, blockSize: 100 },
      { type: 'I2_S', quantize: true, blockSize: 256 },
      { type: 'TQ1_0', blockSize: 256 },
    ] as const) {
      await expect(converted(input, options)).rejects.toThrow(RangeError);
    }
  });

  test.each([Number.NaN, Infinity, -Infinity])('that hold %d are refused', async (value) => {
    const values = normal.slice();
    values[1234] = value;
    expect(await refusal(await withFloats('F32', values), { quantize: true })).toMatch(
      /'blk\.1\.ffn_down\.weight': holds a weight that is (NaN|infinite)/,
    );
    expect(await refusal(await withFloats('F32', values), { type: 'F16' })).toMatch(
      /'blk\.1\.ffn_down\.weight': a number (NaN|-?Infinity), expected a finite one of at most 65504/,
    );
    const only = values.fill(0);
    only[5] = value;
    expect(await refusal(await withFloats('F32', only))).toMatch(/holds a weight that is|not ternary/);
  });

  it('of 0 alone are ternary', async () => {
    const { weights, scales } = ternaryOf(
      await converted(await withFloats('F16', new Float32Array(rows * cols))),
      NAME,
    );
    expect(weights.some((w) => w !== 0)).toBe(false);
    expect(scales[0]).toBeGreaterThan(0);
  });
});

describe('a conversion that fails', () => {
  it('says so with the first write, if the shapes tell it', async () => {
    let writes = 0;
    const sink = { write: () => void writes++ };
    await expect(convert(await openSource(B158), sink, { type: 'TL2', layout: 'Llama3-8B' })).rejects.toThrow();
    expect(writes).toBe(0);
  });

  it('passes on what the input or the sink throws', async () => {
    const source = await openSource(B158);
    const broken: Source = {
      ...source,
      read: (at, dst) => (at > 500_000 ? Promise.reject(new Error('unplugged')) : source.read(at, dst)),
    };
    await expect(converted(broken, { type: 'TQ2_0' })).rejects.toThrow('unplugged');
    const full = { write: (at: number) => (at > 300_000 ? Promise.reject(new Error('disk full')) : undefined) };
    await expect(convert(source, full, { type: 'TQ2_0' })).rejects.toThrow('disk full');
  });

  it('stops when it is aborted, and reports how far it is', async () => {
    const controller = new AbortController();
    const seen: number[] = [];
    const onProgress = ({
      doneBytes,
      totalBytes,
      tensor,
    }: {
      doneBytes: number;
      totalBytes: number;
      tensor: string;
    }) => {
      expect(doneBytes).toBeLessThanOrEqual(totalBytes);
      expect(tensor).not.toBe('');
      seen.push(doneBytes);
      if (doneBytes > totalBytes / 2) controller.abort(new Error('enough'));
    };
    await expect(converted(B158, { type: 'TL2', onProgress, signal: controller.signal })).rejects.toThrow('enough');
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });
});

/** A directory as a folder. */
function directory(path: string): Folder {
  return {
    name: path.replace(/.*\//, ''),
    async open(file) {
      try {
        return await openSource(new Uint8Array(readFileSync(join(path, file))));
      } catch {
        return undefined;
      }
    },
  };
}

function floatBytes(type: 'F32' | 'F16' | 'BF16', values: Float32Array): Uint8Array {
  if (type === 'F32') return new Uint8Array(values.slice().buffer);
  const bits = new Uint32Array(values.slice().buffer);
  const halves = Uint16Array.from(values, (x, i) => (type === 'F16' ? f16.f16Bits(x) : bits[i] >>> 16));
  return new Uint8Array(halves.buffer);
}

/** Float tensors of model.safetensors or of its shards, read without the code under test. */
async function readTensors(path: string): Promise<Map<string, Float32Array>> {
  const tensors = new Map<string, Float32Array>();
  const names = ['model', 'model-00001-of-00002', 'model-00002-of-00002'];
  for (const name of names) {
    let file: Buffer;
    try {
      file = readFileSync(join(path, `${name}.safetensors`));
    } catch {
      continue;
    }
    const length = Number(file.readBigUInt64LE(0));
    for (const [key, { dtype, data_offsets: offsets }] of Object.entries(
      JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, { dtype: string; data_offsets: number[] }>,
    )) {
      if (dtype !== 'BF16') continue;
      const data = file.subarray(8 + length + offsets[0], 8 + length + offsets[1]);
      const bits = Uint32Array.from({ length: data.length / 2 }, (_, i) => data.readUInt16LE(2 * i) << 16);
      tensors.set(key, new Float32Array(bits.buffer));
    }
  }
  return tensors;
}
