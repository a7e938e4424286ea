import type { Backend, KvType, Tensor, TernaryType } from '../backend/backend.ts';
import type { GgufHeader, TensorInfo } from '../gguf/header.ts';
import { blocks as q6k } from '../gguf/layouts/q6_k.ts';
import { TERNARY } from '../gguf/layouts.ts';
import type { Config } from './config.ts';
import { kvBlockBytes, kvBlocksOf } from './kv_cache.ts';

/** What a model takes of a backend's memory, in bytes. */
export interface Needs {
  /** Matrices and norms of the layers, as they are computed with. */
  readonly layers: number;
  readonly head: number;
  /** The embedding table, where it has to be there and is not the head as well. */
  readonly embedding: number;
  /** The copy that the head is screened with. */
  readonly screen: number;
  /** Keys and values of one sequence of the whole context, and the angles of its positions. */
  readonly cache: number;
  /** Activations of a step, and the largest tensor before it is repacked. */
  readonly working: number;
}

export interface Wishes {
  readonly head: 'auto' | 'exact';
  readonly repack: 'auto' | 'none';
  readonly kv: KvType;
  readonly contextSize: number;
  /** Rows and outs of a step. */
  readonly rows: number;
  readonly outs: number;
}

/** Bytes of a tensor where it is repacked; rows of I2_S are whole blocks of 128 there. */
export function repackedBytes({ dims: [cols, rows] }: TensorInfo, type: TernaryType): number {
  const { rowMultiple, sizeBytes } = TERNARY[type.toUpperCase() as Uppercase<TernaryType>];
  return sizeBytes([Math.ceil(cols / rowMultiple) * rowMultiple, rows]);
}

/** What a model will take, before anything is read of it. */
export function needsOf<T extends Tensor>(
  header: GgufHeader,
  c: Config,
  backend: Pick<Backend<T>, 'repacks' | 'screenBytes' | 'maxRepeats'>,
  { head, repack, kv, contextSize, rows, outs }: Wishes,
): Needs {
  const headTensor = c.headTensor === undefined ? undefined : header.tensors.get(c.headTensor);
  let [layers, largest] = [0, 0];
  for (const info of header.tensors.values()) {
    if (info.dims.length === 1) layers += 4 * info.dims[0];
    if (info.dims.length === 1 || !info.name.startsWith('blk.')) continue;
    const to = repack === 'auto' ? backend.repacks[info.type.toLowerCase() as TernaryType] : undefined;
    layers += to === undefined ? info.bytes : repackedBytes(info, to);
    if (to !== undefined) largest = Math.max(largest, info.bytes);
  }
  const widest = Math.max(c.dim, c.heads * c.headDim, c.ffnDim);
  // Of f32, from above: x and staged rows, q, k, v and attn (src/model/step.ts), ffn and six widths of scratch (scratchBytes);
  // logits and the lower bounds of a screen. test/fit.test.ts holds it to what loading takes.
  const activations = 4 * rows * (2 * c.dim + 4 * c.heads * c.headDim + 7 * widest) + 8 * outs * c.vocab;
  const isApart = backend.maxRepeats > 1 && c.headTensor !== 'token_embd.weight';
  return {
    layers,
    head: headTensor?.bytes ?? 0,
    embedding: isApart ? (header.tensors.get('token_embd.weight') as TensorInfo).bytes : 0,
    screen: headTensor !== undefined && head === 'auto' ? backend.screenBytes(c.vocab, c.dim) : 0,
    cache: headTensor === undefined ? 0 : kvBlocksOf(contextSize) * kvBlockBytes(c, kv) + 4 * contextSize * c.ropeDim,
    working: activations + largest,
  };
}

/**
 * How a model fits into `limit` bytes: as it is wished, or without the screen, which costs speed and no tokens.
 * @throws RangeError that tells what takes how much, and what would take less
 */
export function fitOf(
  file: string,
  c: Config,
  needs: Needs,
  limit: number,
  contextSize: number,
): 'all' | 'without screen' {
  const { layers, head, embedding, screen, cache, working } = needs;
  const least = layers + head + embedding + cache + working;
  if (least + screen <= limit) return 'all';
  if (least <= limit) return 'without screen';
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  const left = limit - layers - head - embedding - working;
  const positions = cache === 0 ? 0 : Math.floor((left * contextSize) / cache / 32) * 32;
  const lessHead = head - (c.vocab * c.dim * q6k.bytes) / q6k.weights;
  const advice = [
    ...(positions > 0 ? [`a contextSize of ${positions} fits`] : []),
    // Less would not be worth a conversion.
    ...(lessHead > 1e8 ? [`a head in Q6_K takes ${gb(lessHead)} less (ternlm convert --embedding q6_k)`] : []),
  ];
  throw new RangeError(
    `${file}: does not fit: layers ${gb(layers)}, head ${gb(head)}, ` +
      `${embedding > 0 ? `embedding ${gb(embedding)}, ` : ''}cache of ${contextSize} positions ${gb(cache)}, ` +
      `working memory ${gb(working)}: ${gb(least)} of at most ${gb(limit)}${advice.map((text) => `; ${text}`).join('')}`,
  );
}
