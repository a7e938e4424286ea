// A Hugging Face checkpoint -> GGUF: config.json, safetensors and the files of its tokenizer.
import { decode } from '../gguf/layouts.ts';
import { type CheckpointTensor, type Folder, openCheckpoint, readJson } from '../safetensors/checkpoint.ts';
import { ConvertError } from './error.ts';
import { type HfConfig, type HfModel, type HfTensor, hfTensors, modelMetadata, readHfConfig } from './families.ts';
import type { InputTensor } from './input.ts';
import type { Plan } from './plan.ts';
import { isForkType, MATRIX, type MatrixType } from './types.ts';
import { readVocabulary } from './vocabulary.ts';

const MAX_CONFIG_BYTES = 1 << 20;

/**
 * @param type of the matrices that are to be written: it decides which engine opens the file
 * @throws SafetensorsError on files that are not what they promise, ConvertError on a model that is not of a known family, or
 * that lacks tensors or has others
 */
export async function planFromCheckpoint(folder: Folder, type: MatrixType): Promise<Plan> {
  const config = await readJson(folder, 'config.json', MAX_CONFIG_BYTES);
  if (config === undefined) throw new ConvertError(`${folder.name}: no config.json`);
  const model = readHfConfig(config, folder.name, isForkType(type));
  const checkpoint = await openCheckpoint(folder);
  try {
    const found = new Map([...checkpoint.tensors].map(([name, tensor]) => [name.replace(/^model\./, ''), tensor]));
    const hasInputNorms = [...found.keys()].some((name) => /^layers\.0\..*q_proj\.(rms_)?norm\.weight$/.test(name));
    const isEmbedding = hasInputNorms && model.hasHeadNorms;
    const hasHead = hasOwnHead(config, model, found, isEmbedding, folder.name);
    const wanted = hfTensors(model, isEmbedding, hasHead);
    const weights = await readWeights(config, model, found, isEmbedding, folder.name);
    const tensors = takeTensors(wanted, found, model, weights, folder.name);
    if (model.rope.freqs !== undefined) tensors.splice(1, 0, constant('rope_freqs.weight', model.rope.freqs));

    const notes: string[] = [];
    const { architecture, vocab, window, contextLength } = model;
    const name = typeof config._name_or_path === 'string' ? config._name_or_path : folder.name;
    const metadata = modelMetadata(model, /([^/\\]*)[/\\]*$/.exec(name)?.[1] || folder.name);
    if (isEmbedding) metadata.set(`${architecture}.pooling_type`, { type: 'u32', value: await poolingType(folder) });
    if (window !== undefined && window < contextLength) {
      notes.push(
        `attention of some layers ends after ${window} positions: readers without sliding windows differ from there`,
      );
    }
    const vocabulary = await readVocabulary(folder, config, vocab, isEmbedding);
    for (const [key, value] of vocabulary.metadata) metadata.set(key, value);
    return { metadata, tensors, notes: [...notes, ...vocabulary.notes], close: checkpoint.close };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

/** Whether there is an output head of its own. */
function hasOwnHead(
  config: HfConfig,
  model: HfModel,
  found: ReadonlyMap<string, unknown>,
  isEmbedding: boolean,
  where: string,
): boolean {
  if (isEmbedding || (config.tie_word_embeddings ?? model.isTied) === true) return false;
  const isThere = found.has('lm_head.weight');
  if (isThere === model.hasSubNorm) {
    const problem = isThere ? 'lm_head.weight, but BitNet models use the embedding' : 'no lm_head.weight';
    throw new ConvertError(`${where}: ${problem}, and tie_word_embeddings is not true`);
  }
  return isThere;
}

/** How the checkpoint holds its matrices. */
interface Weights {
  /** Real scale of each packed matrix, by the name of its weight_scale. */
  readonly scales: ReadonlyMap<string, number>;
  /** Whether this matrix of floats was trained to be rounded. */
  isMaster(name: string): boolean;
}

async function readWeights(
  config: HfConfig,
  model: HfModel,
  found: ReadonlyMap<string, CheckpointTensor>,
  isEmbedding: boolean,
  where: string,
): Promise<Weights> {
  const q = (config.quantization_config ?? {}) as HfConfig;
  if (isEmbedding && (q.rms_norm_eps ?? model.eps) !== model.eps) {
    throw new ConvertError(
      `${where}: config.json: quantization_config.rms_norm_eps ${String(q.rms_norm_eps)}, expected ${model.eps}, the model's`,
    );
  }
  const scales = new Map<string, number>();
  for (const [name, tensor] of found) {
    if (!name.endsWith('.weight_scale')) continue;
    const value = await readScalar(tensor);
    // BitLinear divides its product by weight_scale, AutoBitLinear multiplies with it. transformers takes the former where the
    // configuration does not say.
    const linear = q.quant_method === 'bitnet' ? (q.linear_class ?? 'bitlinear') : undefined;
    if (linear !== 'bitlinear' && linear !== 'autobitlinear') {
      throw new ConvertError(
        `${where}: config.json: quantization_config.linear_class ${String(linear)}, expected bitlinear or autobitlinear: ` +
          `it says what '${name}' means`,
      );
    }
    scales.set(name, Math.fround(linear === 'bitlinear' ? 1 / value : value));
  }
  const isBitNet = q.quant_method === 'bitnet' || model.hasSubNorm || isEmbedding;
  const spared = Array.isArray(q.modules_to_not_convert) ? q.modules_to_not_convert.map(String) : [];
  return {
    scales,
    // Beside packed matrices a matrix of floats is one that was not to be ternary.
    isMaster: (name) => isBitNet && scales.size === 0 && !spared.some((part) => name.includes(part)),
  };
}

async function readScalar({ file, at, bytes, dtype, shape, name }: CheckpointTensor): Promise<number> {
  const where = `${file.name}: tensor '${name}'`;
  const count = shape.reduce((a, b) => a * b, 1);
  if (count !== 1 || (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16')) {
    throw new ConvertError(`${where}: ${dtype} [${shape.join(', ')}], expected one number, F32, F16 or BF16`);
  }
  const packed = new Uint8Array(bytes);
  await file.read(at, packed);
  const [value] = decode(dtype, packed, [1], where);
  if (value > 0 && value < Infinity) return value;
  throw new ConvertError(`${where}: ${value}, expected a finite number above 0`);
}

/** Every tensor that is wanted, and no other in the checkpoint. */
function takeTensors(
  wanted: readonly HfTensor[],
  found: ReadonlyMap<string, CheckpointTensor>,
  model: HfModel,
  weights: Weights,
  where: string,
): InputTensor[] {
  const used = new Set(['lm_head.weight']);
  const tensors = wanted.map((tensor) => {
    const name = tensor.names.find((n) => found.has(n));
    if (name === undefined) {
      throw new ConvertError(`${where}: tensor '${tensor.names.join("' or '")}' is missing (${model.architecture})`);
    }
    used.add(name);
    used.add(name.replace(/weight$/, 'weight_scale'));
    return inputOf(tensor, name, found.get(name) as CheckpointTensor, weights);
  });
  const strange = [...found.keys()].filter((name) => !used.has(name) && !name.endsWith('rotary_emb.inv_freq'));
  if (strange.length > 0) {
    const more = strange.length > 1 ? ` and ${strange.length - 1} other tensors have` : ' has';
    throw new ConvertError(`${where}: '${strange[0]}'${more} no place in ${model.architecture}`);
  }
  return tensors;
}

function inputOf(
  { name, shape, interleavedHeads, plus }: HfTensor,
  hfName: string,
  tensor: CheckpointTensor,
  weights: Weights,
): InputTensor {
  const { file, at, bytes, dtype } = tensor;
  const where = `${file.name}: tensor '${tensor.name}'`;
  const isPacked = dtype === 'U8' && MATRIX.test(name);
  const got = isPacked ? [4 * tensor.shape[0], ...tensor.shape.slice(1)] : tensor.shape;
  if (got.length !== shape.length || got.some((n, i) => n !== shape[i])) {
    const expected = isPacked ? [shape[0] / 4, ...shape.slice(1)] : shape;
    throw new ConvertError(`${where}: shape [${tensor.shape.join(', ')}], expected [${expected.join(', ')}]`);
  }
  const common = {
    ...{ name, where, dims: [...shape].reverse(), file, at, bytes, plus },
    kept: shape.length === 1 ? ('F32' as const) : ('F16' as const),
    order: interleavedHeads === undefined ? undefined : interleaved(shape[0], interleavedHeads),
  };
  if (isPacked) {
    const scale = weights.scales.get(hfName.replace(/weight$/, 'weight_scale'));
    if (scale === undefined) throw new ConvertError(`${where}: packed (U8), but has no weight_scale`);
    return { ...common, type: 'packed', scale };
  }
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
    const packed = MATRIX.test(name) ? ' or packed U8' : '';
    throw new ConvertError(`${where}: dtype ${dtype}, expected F32, F16, BF16${packed}`);
  }
  return { ...common, type: dtype, isMaster: MATRIX.test(name) && weights.isMaster(hfName) };
}

/**
 * Rows of q or k as GGUF's llama has them: RoPE turns the rows i and i + headDim / 2 of a head together, which become its rows
 * 2i and 2i + 1.
 */
function interleaved(rows: number, heads: number): Int32Array {
  const headDim = rows / heads;
  return Int32Array.from({ length: rows }, (_, r) => {
    const head = r - (r % headDim);
    const i = (r % headDim) >> 1;
    return head + i + (r % 2) * (headDim / 2);
  });
}

/** A tensor that is computed. */
function constant(name: string, values: Float32Array): InputTensor {
  const bytes = new Uint8Array(values.slice().buffer);
  const read = async (at: number, dst: Uint8Array) => dst.set(bytes.subarray(at, at + dst.length));
  const file = { name, read };
  return {
    name,
    where: `tensor '${name}'`,
    dims: [values.length],
    file,
    at: 0,
    bytes: bytes.length,
    type: 'F32',
    kept: 'F32',
  };
}

/** llama.cpp's numbers, by the settings of sentence-transformers; without them the last token, which these models train. */
async function poolingType(folder: Folder): Promise<number> {
  const pooling = await readJson(folder, '1_Pooling/config.json', MAX_CONFIG_BYTES);
  if (pooling?.pooling_mode_mean_tokens === true) return 1;
  if (pooling?.pooling_mode_cls_token === true) return 2;
  if (pooling === undefined || pooling.pooling_mode_lasttoken === true) return 3;
  throw new ConvertError(`${folder.name}: 1_Pooling/config.json: expected the mean, the cls_token or the lasttoken`);
}
