import { GgufError } from '../gguf/error.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { layoutOf } from '../gguf/layouts.ts';

/** The families whose graph `forward` writes. */
export const ARCHITECTURES = ['bitnet-b1.58', 'bitnet-25', 'bitnet'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

export type Activation = 'relu2' | 'silu';

/** What `forward` reads of a model: every number checked against the file, once, here. */
export interface Config {
  readonly architecture: Architecture;
  readonly name: string;
  readonly vocab: number;
  readonly dim: number;
  readonly layers: number;
  readonly ffnDim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ropeDim: number;
  readonly ropeBase: number;
  /** Positions are divided by this (linear scaling). */
  readonly ropeFactor: number;
  readonly ropeStyle: 'neox' | 'norm';
  /** Positions the model was trained for. */
  readonly contextLength: number;
  readonly eps: number;
  readonly activation: Activation;
  /** RMSNorm before attn_output and ffn_down. */
  readonly hasSubNorm: boolean;
  /** Tensor of the output head: token_embd.weight where tied. */
  readonly headTensor: 'token_embd.weight' | 'output.weight';
  /** What a person should know, e.g. a tensor that the family ignores. */
  readonly warnings: readonly string[];
}

/** The matrices of a layer, [rows, cols] by name. */
export function layerMatrices(c: Config): Readonly<Record<string, readonly [number, number]>> {
  const kvDim = c.kvHeads * c.headDim;
  const attnDim = c.heads * c.headDim;
  return {
    attn_q: [attnDim, c.dim],
    attn_k: [kvDim, c.dim],
    attn_v: [kvDim, c.dim],
    attn_output: [c.dim, attnDim],
    ffn_gate: [c.ffnDim, c.dim],
    ffn_up: [c.ffnDim, c.dim],
    ffn_down: [c.dim, c.ffnDim],
  };
}

/** The norm vectors of a layer, length by name. */
export function layerNorms(c: Config): Readonly<Record<string, number>> {
  const subNorms = { attn_sub_norm: c.heads * c.headDim, ffn_sub_norm: c.ffnDim };
  return { attn_norm: c.dim, ffn_norm: c.dim, ...(c.hasSubNorm ? subNorms : {}) };
}

/**
 * Metadata and tensor table -> Config.
 *
 * @param file name for messages
 * @param activation overrides what the file says or leaves open
 * @throws GgufError naming the key or tensor, what was expected and what was found
 */
export function readConfig(header: GgufHeader, file: string, activation?: Activation): Config {
  const fail = (message: string): never => {
    throw new GgufError(`${file}: ${message}`);
  };
  const architecture = header.metadata.get('general.architecture');
  const known = ARCHITECTURES.find((a) => a === architecture);
  if (known === undefined) {
    return fail(
      architecture === undefined
        ? 'general.architecture is missing'
        : `general.architecture '${String(architecture)}', expected one of ${ARCHITECTURES.join(', ')}`,
    );
  }

  const number = (key: string, fallback: number | undefined, ok: (x: number) => boolean, expected: string): number => {
    const full = `${known}.${key}`;
    const value = header.metadata.get(full) ?? fallback;
    if (value === undefined) return fail(`key ${full} is missing`);
    if (typeof value !== 'number' || !ok(value)) return fail(`key ${full}: ${String(value)}, expected ${expected}`);
    return value;
  };
  const count = (key: string, fallback?: number, most = 1 << 20) =>
    number(key, fallback, (x) => Number.isInteger(x) && x >= 1 && x <= most, `a whole number from 1 to ${most}`);
  const positive = (key: string, fallback?: number) =>
    number(key, fallback, (x) => Number.isFinite(x) && x > 0, 'a number above 0');

  const embedding = header.tensors.get('token_embd.weight') ?? fail('tensor token_embd.weight is missing');
  const vocab = count('vocab_size', embedding.dims[1], 1 << 24);
  const dim = count('embedding_length');
  const layers = count('block_count', undefined, 1000);
  const ffnDim = count('feed_forward_length');
  const heads = count('attention.head_count');
  const kvHeads = count('attention.head_count_kv', heads);
  const headDim = count('attention.key_length', dim / heads);
  const valueDim = count('attention.value_length', headDim);
  const ropeDim = count('rope.dimension_count', headDim);
  const contextLength = count('context_length', undefined, 1 << 24);
  if (valueDim !== headDim) fail(`${known}.attention.value_length ${valueDim}, expected key_length ${headDim}`);
  if (heads % kvHeads !== 0)
    fail(`${known}.attention.head_count ${heads}, expected a multiple of head_count_kv ${kvHeads}`);
  if (headDim % 4 !== 0) fail(`head dimension ${headDim}, expected a multiple of 4`);
  if (ropeDim % 2 !== 0 || ropeDim > headDim) fail(`rope dimension ${ropeDim}, expected even and at most ${headDim}`);

  const warnings = [...header.warnings];
  const hasOutput = header.tensors.has('output.weight');
  const ownHead = hasOutput && known === 'bitnet';
  if (hasOutput && !ownHead) warnings.push(`output.weight is ignored: ${known} models use token_embd.weight as head`);

  const config: Config = {
    architecture: known,
    name: textOf(header.metadata.get('general.name')) ?? file,
    vocab,
    dim,
    layers,
    ffnDim,
    heads,
    kvHeads,
    headDim,
    ropeDim,
    ropeBase: positive('rope.freq_base', 10_000),
    ropeFactor: ropeFactor(header, known, fail),
    ropeStyle: 'neox',
    contextLength,
    eps: positive('attention.layer_norm_rms_epsilon'),
    activation: activation ?? activationOf(header, known, vocab, fail),
    hasSubNorm: true,
    headTensor: ownHead ? 'output.weight' : 'token_embd.weight',
    warnings,
  };
  checkTensors(header, config, file);
  checkVocabulary(header, config, fail);
  return config;
}

const textOf = (value: unknown) => (typeof value === 'string' && value !== '' ? value : undefined);

/**
 * ReLU^2 in bitnet-b1.58 and bitnet-25. `bitnet` is ambiguous: SiLU for bitnet_b1_58-large and -3B, ReLU^2 for a 2B-4T that
 * llama.cpp converted, which is told by the key, or by its vocabulary of 128,256.
 */
function activationOf(
  header: GgufHeader,
  architecture: Architecture,
  vocab: number,
  fail: (m: string) => never,
): Activation {
  const key = `${architecture}.hidden_activation`;
  const value = header.metadata.get(key);
  if (value === 'relu2' || value === 'silu') return value;
  if (value !== undefined) return fail(`key ${key}: '${String(value)}', expected relu2 or silu`);
  return architecture === 'bitnet' && vocab !== 128_256 ? 'silu' : 'relu2';
}

function ropeFactor(header: GgufHeader, architecture: Architecture, fail: (m: string) => never): number {
  const type = header.metadata.get(`${architecture}.rope.scaling.type`) ?? 'none';
  const factor = header.metadata.get(`${architecture}.rope.scaling.factor`) ?? 1;
  if (type === 'none') return 1;
  if (type !== 'linear' || typeof factor !== 'number' || !(factor > 0)) {
    return fail(`rope scaling '${String(type)}' by ${String(factor)}, expected none, or linear by a number above 0`);
  }
  return factor;
}

function checkTensors(header: GgufHeader, c: Config, file: string): void {
  const wanted = new Map<string, readonly number[]>([
    ['token_embd.weight', [c.dim, c.vocab]],
    ['output_norm.weight', [c.dim]],
  ]);
  if (c.headTensor === 'output.weight') wanted.set('output.weight', [c.dim, c.vocab]);
  for (let layer = 0; layer < c.layers; layer++) {
    for (const [name, [rows, cols]] of Object.entries(layerMatrices(c)))
      wanted.set(`blk.${layer}.${name}.weight`, [cols, rows]);
    for (const [name, length] of Object.entries(layerNorms(c))) wanted.set(`blk.${layer}.${name}.weight`, [length]);
  }

  const missing = [...wanted.keys()].filter((name) => !header.tensors.has(name));
  if (missing.length > 0)
    throw new GgufError(`${file}: ${listed(missing)} missing (${c.architecture}, ${c.layers} layers)`);
  const ignored = new Set([...wanted.keys(), 'output.weight', 'rope_freqs.weight']);
  const strange = [...header.tensors.keys()].filter((name) => !ignored.has(name));
  if (strange.length > 0) {
    throw new GgufError(`${file}: ${listed(strange)} not used by ${c.architecture} with ${c.layers} layers`);
  }
  for (const [name, dims] of wanted) {
    const tensor = header.tensors.get(name) as TensorInfo;
    if (tensor.dims.length !== dims.length || tensor.dims.some((d, i) => d !== dims[i])) {
      throw new GgufError(
        `${file}: tensor '${name}': shape [${tensor.dims.join(', ')}], expected [${dims.join(', ')}]`,
        tensor.at,
      );
    }
    checkType(tensor, file, dims.length === 1 ? NORM_TYPES : isTable(name) ? TABLE_TYPES : MATRIX_TYPES);
    // Kernels read eight numbers at a time.
    const multiple = Math.max(8, layoutOf(tensor.type)?.rowMultiple ?? 1);
    if (dims.length > 1 && dims[0] % multiple !== 0) {
      throw new GgufError(
        `${file}: tensor '${name}': row length ${dims[0]}, expected a multiple of ${multiple} (${tensor.type})`,
        tensor.at,
      );
    }
  }
  for (let layer = 0; layer < c.layers; layer++) {
    for (const group of SHARED_INPUT) {
      const [first, ...others] = group.map((name) => header.tensors.get(`blk.${layer}.${name}.weight`) as TensorInfo);
      const other = others.find(({ type }) => type !== first.type);
      if (other === undefined) continue;
      const expected = `${first.type} like '${first.name}': they read the same activations`;
      throw new GgufError(`${file}: tensor '${other.name}': type ${other.type}, expected ${expected}`, other.at);
    }
  }
  const freqs = header.tensors.get('rope_freqs.weight');
  if (freqs !== undefined) {
    checkType(freqs, file, ['F32']);
    if (freqs.dims.length !== 1 || freqs.dims[0] !== c.ropeDim / 2) {
      throw new GgufError(
        `${file}: tensor 'rope_freqs.weight': shape [${freqs.dims.join(', ')}], expected [${c.ropeDim / 2}]`,
        freqs.at,
      );
    }
  }
}

/** Matrices of one input, which is prepared for one type. */
const SHARED_INPUT = [
  ['attn_q', 'attn_k', 'attn_v'],
  ['ffn_gate', 'ffn_up'],
];
const NORM_TYPES = ['F32', 'F16'];
const TABLE_TYPES = ['F16', 'BF16', 'F32', 'Q8_0', 'Q6_K'];
const MATRIX_TYPES = ['I2_S', 'F16', 'BF16', 'F32'];
const isTable = (name: string) => name === 'token_embd.weight' || name === 'output.weight';

function checkType(tensor: TensorInfo, file: string, types: readonly string[]): void {
  if (types.includes(tensor.type)) return;
  const unread = layoutOf(tensor.type) === undefined ? ', which this version does not read yet' : '';
  throw new GgufError(
    `${file}: tensor '${tensor.name}': type ${tensor.type}${unread}, expected ${types.join(', ')}`,
    tensor.at,
  );
}

function checkVocabulary(header: GgufHeader, c: Config, fail: (m: string) => never): void {
  const tokens = header.metadata.get('tokenizer.ggml.tokens');
  if (Array.isArray(tokens) && tokens.length !== c.vocab) {
    fail(`tokenizer.ggml.tokens: ${tokens.length} tokens, expected ${c.vocab}, the rows of token_embd.weight`);
  }
}

/** "tensor 'a'" or "tensors 'a', 'b', 'c' and 7 more". */
function listed(names: readonly string[]): string {
  const first = names.slice(0, 3).map((name) => `'${name}'`);
  const more = names.length > 3 ? ` and ${names.length - 3} more` : '';
  return `${names.length === 1 ? 'tensor' : 'tensors'} ${first.join(', ')}${more}`;
}
