import type { Activation } from '../backend/backend.ts';
import { GgufError } from '../gguf/error.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { layoutOf } from '../gguf/layouts.ts';

/** What a family's graph has, where the file leaves no choice. */
interface Family {
  readonly activation: Activation;
  readonly ropeStyle: 'neox' | 'norm';
  /** RMSNorm of the heads' outputs before attn_output, of the gated product before ffn_down. */
  readonly hasSubNorm: boolean;
  /** RMSNorm of the input of each of the seven projections (BitNet embedding models). */
  readonly hasInputNorms: boolean;
  /** RMSNorm of each head of q and k before its rotation. */
  readonly hasHeadNorms: boolean;
  /** RMSNorm of what attention and feed-forward add to the residual stream. */
  readonly hasPostNorms: boolean;
  /** Embedding rows are multiplied by the square root of their length. */
  readonly scalesEmbedding: boolean;
  /** 'tied': token_embd.weight, an output.weight is ignored; 'own': output.weight where there is one; 'none': no logits. */
  readonly head: 'tied' | 'own' | 'none';
}

const BITNET: Family = {
  activation: 'relu2',
  ropeStyle: 'neox',
  hasSubNorm: true,
  hasInputNorms: false,
  hasHeadNorms: false,
  hasPostNorms: false,
  scalesEmbedding: false,
  head: 'tied',
};
const EMBEDDING: Family = { ...BITNET, hasSubNorm: false, hasInputNorms: true, hasHeadNorms: true, head: 'none' };

export const ARCHITECTURES = ['bitnet-b1.58', 'bitnet-25', 'bitnet', 'llama', 'qwen3', 'gemma3'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

/** The families whose graph `forward` writes. */
const FAMILIES: Readonly<Record<Architecture, Family>> = {
  'bitnet-b1.58': BITNET,
  'bitnet-25': BITNET,
  bitnet: { ...BITNET, head: 'own' },
  llama: { ...BITNET, activation: 'silu', ropeStyle: 'norm', hasSubNorm: false, head: 'own' },
  qwen3: { ...EMBEDDING, activation: 'silu' },
  gemma3: { ...EMBEDDING, activation: 'gelu', hasPostNorms: true, scalesEmbedding: true },
};

export type Pooling = 'mean' | 'first' | 'last';

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
  readonly hasSubNorm: boolean;
  readonly hasInputNorms: boolean;
  readonly hasHeadNorms: boolean;
  readonly hasPostNorms: boolean;
  /** Factor of embedding rows. */
  readonly embeddingScale: number;
  /** Tensor of the output head: token_embd.weight where tied; none of an embedding model. */
  readonly headTensor: 'token_embd.weight' | 'output.weight' | undefined;
  /** Which token's hidden state an embedding model gives. */
  readonly pooling: Pooling;
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
  const attnDim = c.heads * c.headDim;
  const subNorms = { attn_sub_norm: attnDim, ffn_sub_norm: c.ffnDim };
  const inputNorms = Object.fromEntries(
    Object.entries(layerMatrices(c)).map(([name, [, cols]]) => [`${name}_norm_in`, cols]),
  );
  return {
    ...{ attn_norm: c.dim, ffn_norm: c.dim },
    ...(c.hasSubNorm ? subNorms : {}),
    ...(c.hasInputNorms ? inputNorms : {}),
    ...(c.hasHeadNorms ? { attn_q_norm: c.headDim, attn_k_norm: c.headDim } : {}),
    ...(c.hasPostNorms ? { post_attention_norm: c.dim, post_ffw_norm: c.dim } : {}),
  };
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
  const family = FAMILIES[known];
  // Embedding models have heads wider than dim / heads: their converter writes the key.
  const headDim = count('attention.key_length', family.head === 'none' ? undefined : dim / heads);
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
  const ownHead = hasOutput && family.head === 'own';
  if (hasOutput && !ownHead) {
    const head = family.head === 'none' ? 'have no head' : 'use token_embd.weight as head';
    warnings.push(`output.weight is ignored: ${known} models ${head}`);
  }

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
    ropeStyle: family.ropeStyle,
    contextLength,
    eps: positive('attention.layer_norm_rms_epsilon'),
    activation: activation ?? activationOf(header, known, vocab, fail),
    hasSubNorm: family.hasSubNorm,
    hasInputNorms: family.hasInputNorms,
    hasHeadNorms: family.hasHeadNorms,
    hasPostNorms: family.hasPostNorms,
    embeddingScale: family.scalesEmbedding ? Math.fround(Math.sqrt(dim)) : 1,
    headTensor: family.head === 'none' ? undefined : ownHead ? 'output.weight' : 'token_embd.weight',
    pooling: poolingOf(header, known, fail),
    warnings,
  };
  checkTensors(header, config, file);
  checkVocabulary(header, config, fail);
  return config;
}

const textOf = (value: unknown) => (typeof value === 'string' && value !== '' ? value : undefined);

/**
 * The family's own. Only `bitnet` is ambiguous: SiLU for bitnet_b1_58-large and -3B, ReLU^2 for a 2B-4T that
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
  return architecture === 'bitnet' && vocab !== 128_256 ? 'silu' : FAMILIES[architecture].activation;
}

/** llama.cpp's numbers: 1 mean, 2 the first token's (CLS), 3 the last one's, which is that of causal models. */
function poolingOf(header: GgufHeader, architecture: Architecture, fail: (m: string) => never): Pooling {
  const key = `${architecture}.pooling_type`;
  const value = header.metadata.get(key) ?? 3;
  const pooling = (['mean', 'first', 'last'] as const)[Number(value) - 1];
  return pooling ?? fail(`key ${key}: ${String(value)}, expected 1 (mean), 2 (first token) or 3 (last token)`);
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
const TABLE_TYPES = ['F16', 'BF16', 'F32', 'Q8_0', 'Q6_K', 'Q4_0'];
const MATRIX_TYPES = ['I2_S', 'TL1', 'TL2', 'TQ1_0', 'TQ2_0', 'F16', 'BF16', 'F32'];
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
