// Writes a ternary model with random I2_S weights: the shape and the byte layout of a real one, for timing.
//   npm run bench -- synthetic OUT.gguf [--shape 2b|llama3-8b|falcon3-10b|tiny] [--embedding f16|q8_0|q6_k] [--seed N] [--sparse]
// `ternlm convert` makes the other formats of it. With --sparse the weights are a hole in the file (all -1, tables 0): enough to
// see what memory a shape takes, without the disk.
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { FILE_TYPES } from '../dist/convert/types.js';
import { f16Bits } from '../dist/gguf/layouts/f16.js';
import { blocks as q6k } from '../dist/gguf/layouts/q6_k.js';
import { blocks as q80 } from '../dist/gguf/layouts/q8_0.js';
import { TAIL_BYTES } from '../dist/gguf/layouts/ternary.js';
import { requireLayout } from '../dist/gguf/layouts.js';
import { headerBytes } from '../dist/gguf/writer.js';

const SHAPES = {
  // BitNet-b1.58-2B-4T
  '2b': {
    layers: 30,
    dim: 2560,
    ffnDim: 6912,
    heads: 20,
    kvHeads: 5,
    vocab: 128256,
    context: 4096,
    ropeBase: 500000,
    controls: 256,
  },
  'llama3-8b': {
    arch: 'llama',
    layers: 32,
    dim: 4096,
    ffnDim: 14336,
    heads: 32,
    kvHeads: 8,
    vocab: 128256,
    context: 8192,
    ropeBase: 500000,
    controls: 256,
  },
  'falcon3-10b': {
    arch: 'llama',
    layers: 40,
    dim: 3072,
    ffnDim: 23040,
    heads: 12,
    kvHeads: 4,
    vocab: 131072,
    context: 32768,
    ropeBase: 1000042,
    controls: 256,
  },
  tiny: {
    layers: 4,
    dim: 256,
    ffnDim: 512,
    heads: 4,
    kvHeads: 2,
    vocab: 512,
    context: 256,
    ropeBase: 10000,
    controls: 16,
  },
};
const CHUNK_BYTES = 4 << 20;
/** Random byte -> four codes 0, 1, 2 of two bits. */
const TERNARY = Uint8Array.from({ length: 256 }, (_, i) => {
  const n = (i * 81) >> 8;
  return (Math.floor(n / 27) << 6) | ((Math.floor(n / 9) % 3) << 4) | ((Math.floor(n / 3) % 3) << 2) | (n % 3);
});
/** Of each type, bytes that belong together and what fills a chunk of them. */
const FILLS = {
  I2_S: [4, fillTernary],
  F16: [8, fillEmbedding],
  F32: [4, fillNorm],
  Q8_0: [q80.bytes, fillQ8],
  Q6_K: [q6k.bytes, fillQ6],
};
/** Random byte -> F16 of a multiple of 0.0005 from -0.064 to 0.0635. */
const EMBEDDING = Uint16Array.from({ length: 256 }, (_, i) => f16Bits((i - 128) * 0.0005));

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    shape: { type: 'string', default: '2b' },
    embedding: { type: 'string', default: 'f16' },
    seed: { type: 'string', default: '1' },
    sparse: { type: 'boolean', default: false },
  },
});
const shape = SHAPES[options.shape];
const seed = Number(options.seed);
const isTable = ['f16', 'q8_0', 'q6_k'].includes(options.embedding);
if (positionals.length !== 1 || !shape || !isTable || !Number.isSafeInteger(seed)) {
  console.error(
    `usage: npm run bench -- synthetic OUT.gguf [--shape ${Object.keys(SHAPES).join('|')}] [--embedding f16|q8_0|q6_k] [--seed N] [--sparse]`,
  );
  process.exit(2);
}
write(positionals[0], options.shape, shape, options.embedding.toUpperCase(), seed);

function write(path, name, shape, embedding, seed) {
  const started = performance.now();
  const tensors = tensorList(shape, embedding);
  const header = headerBytes(metadata(name, shape), tensors);
  const file = openSync(path, 'w');
  ftruncateSync(file, header.size);
  writeSync(file, header.bytes);
  for (const [i, tensor] of tensors.entries()) {
    const end = header.at[i + 1] ?? header.size;
    writeTensor(file, tensor, header.at[i], end, xorshift32(seed * 1000 + i));
  }
  closeSync(file);
  console.log(`${path}: ${header.size} bytes in ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

function tensorList({ arch, layers, dim, ffnDim, heads, kvHeads, vocab }, embedding) {
  const kvDim = (dim / heads) * kvHeads;
  const matrix = (name, inputs, rows) => ({ name, type: 'I2_S', dims: [inputs, rows] });
  const norm = (name, length) => ({ name, type: 'F32', dims: [length] });
  const isLlama = arch === 'llama'; // without sub-norms, with a head of its own
  const subNorm = (name, length) => (isLlama ? [] : [norm(name, length)]);
  const tensors = [{ name: 'token_embd.weight', type: embedding, dims: [dim, vocab] }];
  for (let layer = 0; layer < layers; layer++) {
    const blk = `blk.${layer}`;
    tensors.push(
      norm(`${blk}.attn_norm.weight`, dim),
      matrix(`${blk}.attn_q.weight`, dim, dim),
      matrix(`${blk}.attn_k.weight`, dim, kvDim),
      matrix(`${blk}.attn_v.weight`, dim, kvDim),
      ...subNorm(`${blk}.attn_sub_norm.weight`, dim),
      matrix(`${blk}.attn_output.weight`, dim, dim),
      norm(`${blk}.ffn_norm.weight`, dim),
      matrix(`${blk}.ffn_gate.weight`, dim, ffnDim),
      matrix(`${blk}.ffn_up.weight`, dim, ffnDim),
      ...subNorm(`${blk}.ffn_sub_norm.weight`, ffnDim),
      matrix(`${blk}.ffn_down.weight`, ffnDim, dim),
    );
  }
  tensors.push(norm('output_norm.weight', dim));
  if (isLlama) tensors.push({ name: 'output.weight', type: embedding, dims: [dim, vocab] });
  return tensors;
}

function metadata(name, shape) {
  const { arch = 'bitnet-b1.58', layers, dim, ffnDim, heads, kvHeads, vocab, context, ropeBase, controls } = shape;
  const { tokens, types, merges } = vocabulary(vocab, controls);
  const u32 = (value) => ({ type: 'u32', value });
  const f32 = (value) => ({ type: 'f32', value });
  const string = (value) => ({ type: 'string', value });
  return [
    ['general.architecture', string(arch)],
    ['general.name', string(`synthetic-${name}`)],
    ['general.file_type', u32(FILE_TYPES.I2_S)],
    ['general.quantization_version', u32(2)],
    [`${arch}.vocab_size`, u32(vocab)],
    [`${arch}.context_length`, u32(context)],
    [`${arch}.embedding_length`, u32(dim)],
    [`${arch}.block_count`, u32(layers)],
    [`${arch}.feed_forward_length`, u32(ffnDim)],
    [`${arch}.rope.dimension_count`, u32(dim / heads)],
    [`${arch}.rope.freq_base`, f32(ropeBase)],
    [`${arch}.attention.head_count`, u32(heads)],
    [`${arch}.attention.head_count_kv`, u32(kvHeads)],
    [`${arch}.attention.layer_norm_rms_epsilon`, f32(1e-5)],
    ['tokenizer.ggml.model', string('gpt2')],
    ['tokenizer.ggml.pre', string('llama-bpe')],
    ['tokenizer.ggml.tokens', { type: 'array', of: 'string', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', value: types }],
    ['tokenizer.ggml.merges', { type: 'array', of: 'string', value: merges }],
    ['tokenizer.ggml.bos_token_id', u32(vocab - controls)],
    ['tokenizer.ggml.eos_token_id', u32(vocab - controls + 1)],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: true }],
  ];
}

/** 256 byte symbols, then words that each merge an earlier token with a letter, then control tokens as in Llama 3. */
function vocabulary(size, controls) {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
  let unprintable = 0;
  const symbols = Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : 256 + unprintable++),
  );
  const tokens = [...symbols].sort((a, b) => a.charCodeAt(0) - b.charCodeAt(0));
  const letters = [...'etaoinshrdlucmfwypvbgkjxqz ETAOINSHRDLUCMFWYPVBGKJXQZ0123456789'].map(
    (letter) => symbols[letter.charCodeAt(0)],
  );
  const merges = [];
  const words = [...letters]; // breadth first: all of two letters, then of three
  for (let i = 0; merges.length < size - 256 - controls; i++) {
    const left = words[Math.floor(i / letters.length)];
    const right = letters[i % letters.length];
    words.push(left + right);
    tokens.push(left + right);
    merges.push(`${left} ${right}`);
  }
  const named = { 0: '<|begin_of_text|>', 1: '<|end_of_text|>', 9: '<|eot_id|>' };
  for (let i = 0; i < controls; i++) tokens.push(named[i] ?? `<|reserved_special_token_${i}|>`);
  const types = tokens.map((_, id) => (id < size - controls ? 1 : 3));
  return { tokens, types, merges };
}

/** A generator of whole numbers from 0 to 2^32 - 1 (Marsaglia 2003). */
function xorshift32(seed) {
  let x = Math.imul(seed + 1, 0x9e3779b1) | 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

function writeTensor(file, { name, type, dims }, at, end, random) {
  const bytes = requireLayout(type, name).sizeBytes(dims) - (type === 'I2_S' ? TAIL_BYTES : 0);
  const [unit, fill] = FILLS[type];
  const most = CHUNK_BYTES - (CHUNK_BYTES % unit);
  for (let done = 0; done < bytes && !(options.sparse && type !== 'F32'); done += most) {
    const chunk = new Uint8Array(Math.min(most, bytes - done));
    fill(chunk, random);
    writeSync(file, chunk, 0, chunk.length, at + done);
  }
  const rest = new Uint8Array(end - at - bytes);
  if (type === 'I2_S') {
    // Two thirds of the weights are not zero: rows of variance about one.
    const scale = (0.7 + (0.6 * random()) / 2 ** 32) / Math.sqrt(dims[0] * 0.6);
    new DataView(rest.buffer).setFloat32(0, scale, true);
  }
  writeSync(file, rest, 0, rest.length, at + bytes);
}

function fillTernary(chunk, random) {
  for (let i = 0; i < chunk.length; i += 4) {
    const x = random();
    chunk[i] = TERNARY[x & 255];
    chunk[i + 1] = TERNARY[(x >>> 8) & 255];
    chunk[i + 2] = TERNARY[(x >>> 16) & 255];
    chunk[i + 3] = TERNARY[x >>> 24];
  }
}

function fillEmbedding(chunk, random) {
  const values = new Uint16Array(chunk.buffer);
  for (let i = 0; i < values.length; i += 4) {
    const x = random();
    values[i] = EMBEDDING[x & 255];
    values[i + 1] = EMBEDDING[(x >>> 8) & 255];
    values[i + 2] = EMBEDDING[(x >>> 16) & 255];
    values[i + 3] = EMBEDDING[x >>> 24];
  }
}

/** As F16 above: d = 0.0005 and any int8. */
function fillQ8(chunk, random) {
  fillBytes(chunk, random);
  for (let at = 0; at < chunk.length; at += q80.bytes) putF16(chunk, at + q80.scaleAt, 0.0005);
}

/** Any codes -32 .. 31, each 16 with a step of 0.00125 to 0.0025. */
function fillQ6(chunk, random) {
  fillBytes(chunk, random);
  for (let at = 0; at < chunk.length; at += q6k.bytes) {
    for (let i = 192; i < 208; i++) chunk[at + i] = 64 | (chunk[at + i] & 63);
    putF16(chunk, at + q6k.scaleAt, 0.0025 / 127);
  }
}

function fillBytes(chunk, random) {
  for (let i = 0; i < chunk.length; i++) chunk[i] = random();
}

function putF16(chunk, at, value) {
  const bits = f16Bits(value);
  chunk[at] = bits;
  chunk[at + 1] = bits >> 8;
}

function fillNorm(chunk, random) {
  const values = new Float32Array(chunk.buffer);
  for (let i = 0; i < values.length; i++) values[i] = 0.5 + random() / 2 ** 32;
}
