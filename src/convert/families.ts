// Hugging Face's names and numbers of the families that have BitNet models -> GGUF's, as llama.cpp's and bitnet.cpp's
// converters write them.
import type { TypedValue } from '../gguf/writer.ts';
import { ConvertError } from './error.ts';

/** config.json. */
export type HfConfig = Readonly<Record<string, unknown>>;

interface Family {
  readonly activations: readonly string[];
  /** RMSNorm of the heads' outputs before o_proj, of the gated product before down_proj. */
  readonly hasSubNorm: boolean;
  /** RMSNorm of each head of q and k. */
  readonly hasHeadNorms: boolean;
  /** Gemma's: RMSNorm of what attention and feed-forward add, weights stored less 1, its own name for ffn_norm. */
  readonly isGemma: boolean;
  /** Pairs of RoPE are neighbours in GGUF and half a head apart in the checkpoint. */
  readonly interleaves: boolean;
  /** tie_word_embeddings where config.json does not say. */
  readonly isTied: boolean;
}

const BITNET: Family = {
  activations: ['relu2', 'silu'],
  hasSubNorm: true,
  hasHeadNorms: false,
  isGemma: false,
  interleaves: false,
  isTied: false,
};
const LLAMA: Family = { ...BITNET, activations: ['silu'], hasSubNorm: false, interleaves: true };
const QWEN3: Family = { ...BITNET, activations: ['silu'], hasSubNorm: false, hasHeadNorms: true };
const GEMMA3: Family = { ...QWEN3, activations: ['gelu_pytorch_tanh'], isGemma: true, isTied: true };

/** By `architectures`, else by `model_type`. */
const FAMILIES: Readonly<Record<string, Family>> = {
  BitNetForCausalLM: BITNET,
  BitnetForCausalLM: BITNET,
  LlamaForCausalLM: LLAMA,
  Qwen3ForCausalLM: QWEN3,
  Qwen3Model: QWEN3,
  Gemma3ForCausalLM: GEMMA3,
  Gemma3TextModel: GEMMA3,
  bitnet: BITNET,
  llama: LLAMA,
  qwen3: QWEN3,
  gemma3_text: GEMMA3,
};

/** What the conversion needs to know of a model. */
export interface HfModel extends Family {
  readonly architecture: string;
  readonly vocab: number;
  readonly dim: number;
  readonly layers: number;
  readonly ffnDim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly contextLength: number;
  readonly eps: number;
  readonly activation: string;
  readonly rope: Rope;
  /** Positions that sliding-window layers see, where there are such layers. */
  readonly window: number | undefined;
}

interface Rope {
  readonly base: number;
  /** Of linear scaling. */
  readonly factor: number;
  /** [headDim / 2] divisors of the frequencies, Llama 3's. */
  readonly freqs: Float32Array | undefined;
}

/**
 * @param where for messages: the folder's name
 * @param isFork whether bitnet.cpp is to open the file, which has a name of its own for the ReLU² models
 * @throws ConvertError on a model whose graph GGUF readers of these families do not have
 */
export function readHfConfig(config: HfConfig, where: string, isFork: boolean): HfModel {
  const fail = (problem: string): never => {
    throw new ConvertError(`${where}: config.json: ${problem}`);
  };
  const number = (key: string, fallback?: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    return fail(`${key}: ${JSON.stringify(value)}, expected a number above 0`);
  };
  const count = (key: string, fallback?: number): number => {
    const value = number(key, fallback);
    return Number.isInteger(value) && value <= 1 << 24 ? value : fail(`${key}: ${value}, expected a whole number`);
  };
  const [name] = Array.isArray(config.architectures) ? config.architectures : [];
  const family = FAMILIES[String(name)] ?? FAMILIES[String(config.model_type)];
  if (family === undefined) {
    const known = Object.keys(FAMILIES).filter((key) => /^[A-Z]/.test(key));
    return fail(`architectures ${JSON.stringify(config.architectures)}, expected one of ${known.join(', ')}`);
  }
  const activation = String(
    config.hidden_act ?? config.hidden_activation ?? (name === 'BitnetForCausalLM' ? 'silu' : family.activations[0]),
  );
  if (!family.activations.includes(activation)) {
    fail(`hidden_act '${activation}', expected ${family.activations.join(' or ')}`);
  }
  const dim = count('hidden_size');
  const heads = count('num_attention_heads');
  const headDim = count('head_dim', dim / heads);
  for (const key of ['attn_logit_softcapping', 'final_logit_softcapping']) {
    if (config[key] != null) fail(`${key} ${String(config[key])}, expected none`);
  }
  if (number('query_pre_attn_scalar', headDim) !== headDim) {
    fail(`query_pre_attn_scalar ${String(config.query_pre_attn_scalar)}, expected ${headDim}, the head's dimension`);
  }
  const isRelu2 = family.hasSubNorm && activation === 'relu2';
  return {
    ...family,
    architecture: family.hasSubNorm ? (isFork && isRelu2 ? 'bitnet-b1.58' : 'bitnet') : architectureOf(family),
    vocab: count('vocab_size'),
    dim,
    layers: count('num_hidden_layers'),
    ffnDim: count('intermediate_size'),
    heads,
    kvHeads: count('num_key_value_heads', heads),
    headDim,
    contextLength: count('max_position_embeddings'),
    eps: number('rms_norm_eps', 1e-6),
    activation,
    rope: readRope(config, headDim, fail),
    window: windowOf(config),
  };
}

const architectureOf = (family: Family) => (family === LLAMA ? 'llama' : family === QWEN3 ? 'qwen3' : 'gemma3');

const objectOf = (value: unknown) => (typeof value === 'object' && value !== null ? (value as HfConfig) : {});

/** Where both forms of the configuration, `rope_theta` with `rope_scaling` and the later `rope_parameters`, keep it. */
function readRope(config: HfConfig, headDim: number, fail: (problem: string) => never): Rope {
  const later = objectOf(config.rope_parameters);
  const parameters: HfConfig = { ...objectOf(later.full_attention ?? later), ...objectOf(config.rope_scaling) };
  const number = (key: string, fallback: number): number => {
    const value = parameters[key] ?? fallback;
    return typeof value === 'number' && value > 0 ? value : fail(`rope: ${key}: ${String(value)}, expected above 0`);
  };
  const base = number('rope_theta', Number(config.rope_theta ?? 10_000));
  const type = parameters.rope_type ?? parameters.type ?? 'default';
  if (type === 'default') return { base, factor: 1, freqs: undefined };
  if (type === 'linear') return { base, factor: number('factor', 1), freqs: undefined };
  if (type !== 'llama3') return fail(`rope scaling '${String(type)}', expected default, linear or llama3`);

  // Long wavelengths are slowed by `factor`, short ones are not, and between two bounds it goes from one to the other.
  const context = number('original_max_position_embeddings', 8192);
  const factor = number('factor', 8);
  const low = number('low_freq_factor', 1);
  const high = number('high_freq_factor', 4);
  const freqs = new Float32Array(headDim / 2);
  for (let i = 0; i < freqs.length; i++) {
    const turns = context / (2 * Math.PI * base ** ((2 * i) / headDim));
    const smooth = (turns - low) / (high - low);
    freqs[i] = turns > high ? 1 : turns < low ? factor : 1 / ((1 - smooth) / factor + smooth);
  }
  return { base, factor: 1, freqs };
}

function windowOf(config: HfConfig): number | undefined {
  const { sliding_window: window, layer_types: types, sliding_window_pattern: pattern } = config;
  if (typeof window !== 'number' || config.use_sliding_window === false) return undefined;
  const slides = Array.isArray(types) ? types.includes('sliding_attention') : pattern !== undefined && pattern !== 1;
  return slides ? window : undefined;
}

/** The model's keys, `general.architecture` and `general.name` before them. */
export function modelMetadata(m: HfModel, name: string): Map<string, TypedValue> {
  const metadata = new Map<string, TypedValue>();
  const string = (key: string, value: string) => metadata.set(key, { type: 'string', value });
  const u32 = (key: string, value: number) => metadata.set(`${m.architecture}.${key}`, { type: 'u32', value });
  const f32 = (key: string, value: number) => metadata.set(`${m.architecture}.${key}`, { type: 'f32', value });
  string('general.architecture', m.architecture);
  string('general.type', 'model');
  string('general.name', name);
  u32('vocab_size', m.vocab);
  u32('context_length', m.contextLength);
  u32('embedding_length', m.dim);
  u32('block_count', m.layers);
  u32('feed_forward_length', m.ffnDim);
  u32('attention.head_count', m.heads);
  u32('attention.head_count_kv', m.kvHeads);
  f32('attention.layer_norm_rms_epsilon', m.eps);
  if (m.hasHeadNorms || m.headDim * m.heads !== m.dim) {
    u32('attention.key_length', m.headDim);
    u32('attention.value_length', m.headDim);
  }
  if (m.window !== undefined) u32('attention.sliding_window', m.window);
  u32('rope.dimension_count', m.headDim);
  f32('rope.freq_base', m.rope.base);
  if (m.hasSubNorm || m.rope.factor !== 1) {
    string(`${m.architecture}.rope.scaling.type`, 'linear');
    f32('rope.scaling.factor', m.rope.factor);
  }
  if (m.architecture === 'bitnet' && m.activation === 'relu2') string('bitnet.hidden_activation', 'relu2');
  return metadata;
}

/** A tensor as GGUF and as the checkpoint calls it. Of several names in the checkpoint the first that is there counts. */
export interface HfTensor {
  readonly name: string;
  readonly names: readonly string[];
  /** Slowest first, as the checkpoint has it. */
  readonly shape: readonly number[];
  /** Heads whose rows are to be interleaved. */
  readonly interleavedHeads?: number;
  /** Is added to each number. */
  readonly plus?: number;
}

/** The tensors of a model in GGUF's order, without `model.`. */
export function hfTensors(m: HfModel, hasInputNorms: boolean, hasHead: boolean): HfTensor[] {
  const { dim, headDim } = m;
  const attnDim = m.heads * headDim;
  const kvDim = m.kvHeads * headDim;
  const plus = m.isGemma ? 1 : undefined;
  const tensors: HfTensor[] = [{ name: 'token_embd.weight', names: ['embed_tokens.weight'], shape: [m.vocab, dim] }];
  for (let layer = 0; layer < m.layers; layer++) {
    const at = `layers.${layer}.`;
    const name = (stem: string) => `blk.${layer}.${stem}.weight`;
    const norm = (stem: string, length: number, ...names: string[]) => {
      tensors.push({ name: name(stem), names: names.map((n) => `${at}${n}.weight`), shape: [length], plus });
    };
    const matrix = (stem: string, hf: string, rows: number, cols: number, heads?: number) => {
      const interleavedHeads = m.interleaves ? heads : undefined;
      tensors.push({ name: name(stem), names: [`${at}${hf}.weight`], shape: [rows, cols], interleavedHeads });
      if (!hasInputNorms) return;
      const names = [`${at}${hf}.norm.weight`, `${at}${hf}.rms_norm.weight`];
      tensors.push({ name: name(`${stem}_norm_in`), names, shape: [cols] }); // a plain RMSNorm also in Gemma
    };
    norm('attn_norm', dim, 'input_layernorm');
    matrix('attn_q', 'self_attn.q_proj', attnDim, dim, m.heads);
    matrix('attn_k', 'self_attn.k_proj', kvDim, dim, m.kvHeads);
    matrix('attn_v', 'self_attn.v_proj', kvDim, dim);
    if (m.hasHeadNorms) norm('attn_q_norm', headDim, 'self_attn.q_norm');
    if (m.hasHeadNorms) norm('attn_k_norm', headDim, 'self_attn.k_norm');
    if (m.hasSubNorm) norm('attn_sub_norm', attnDim, 'self_attn.attn_sub_norm', 'self_attn.inner_attn_ln');
    matrix('attn_output', 'self_attn.o_proj', dim, attnDim);
    if (m.isGemma) norm('post_attention_norm', dim, 'post_attention_layernorm');
    norm('ffn_norm', dim, m.isGemma ? 'pre_feedforward_layernorm' : 'post_attention_layernorm');
    matrix('ffn_gate', 'mlp.gate_proj', m.ffnDim, dim);
    matrix('ffn_up', 'mlp.up_proj', m.ffnDim, dim);
    if (m.hasSubNorm) norm('ffn_sub_norm', m.ffnDim, 'mlp.ffn_sub_norm', 'mlp.ffn_layernorm');
    matrix('ffn_down', 'mlp.down_proj', dim, m.ffnDim);
    if (m.isGemma) norm('post_ffw_norm', dim, 'post_feedforward_layernorm');
  }
  tensors.push({ name: 'output_norm.weight', names: ['norm.weight'], shape: [dim], plus });
  if (hasHead) tensors.push({ name: 'output.weight', names: ['lm_head.weight'], shape: [m.vocab, dim] });
  return tensors;
}
