import type { Backend, KvType, Tensor } from './backend/backend.ts';
import type { Config, Pooling } from './model/config.ts';
import { createKvCache, type KvSequence, kvBlocksOf } from './model/kv_cache.ts';
import { createStepper, type Stepper } from './model/step.ts';
import type { LoadedWeights } from './model/weights.ts';

/** A model to look into, beside what generates with it. */
export interface Subject<T extends Tensor = Tensor> {
  readonly backend: Backend<T>;
  readonly config: Config;
  readonly weights: LoadedWeights<T>;
}

interface Pass {
  readonly kv: KvType;
  /** Rows of one forward pass. */
  readonly rows: number;
  /** Whether what comes out at this position of a text is wanted. */
  wanted(text: number, at: number): boolean;
  /** Logits f32 [vocab], or a hidden state f32 [dim] of a model without a head; reused. May throw to end the pass. */
  onOut(text: number, at: number, out: Float32Array): void;
}

/** Runs texts of tokens through a cache of their own, several to a forward pass as its rows allow. */
export async function evaluate<T extends Tensor>(
  { backend, config, weights }: Subject<T>,
  texts: readonly ArrayLike<number>[],
  { kv, rows: maxRows, wanted, onOut }: Pass,
): Promise<void> {
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const blocks = texts.reduce((sum, { length }) => sum + kvBlocksOf(length), 0);
  const cache = createKvCache(backend, config, kv, longest, texts.length, blocks);
  let stepper: Stepper | undefined;
  try {
    const places = texts.map(({ length }) => {
      const place = cache.open() as KvSequence;
      place.reserve(length);
      return place;
    });
    stepper = createStepper(backend, config, weights, cache, { maxRows, maxOuts: maxRows, paramsStride: 64 });
    const out = new Float32Array(config.headTensor === undefined ? config.dim : config.vocab);
    for (let text = 0, at = 0; text < texts.length; ) {
      const outs: [text: number, at: number][] = [];
      let rows = 0;
      for (; rows < maxRows && text < texts.length; rows++) {
        stepper.tokens[rows] = texts[text][at];
        stepper.pos[rows] = at;
        stepper.sequence[rows] = places[text].row;
        if (wanted(text, at)) stepper.index[outs.push([text, at]) - 1] = rows;
        at++;
        if (at === texts[text].length) [text, at] = [text + 1, 0];
      }
      await stepper.run(rows, outs.length, false);
      for (const [o, [of, position]] of outs.entries()) {
        await stepper.readOut(o, out);
        onOut(of, position, out);
      }
    }
  } finally {
    stepper?.dispose();
    cache.dispose();
  }
}

/**
 * Rows of one step. More share a weight's way through the cache, but an abort waits for a whole piece of a prompt: 64 rows of a
 * 2B model take half a second on two cores (126 tokens/s, bench/LOG.md).
 */
export const ROWS = 64;
/** Texts that share a pass: more than fill ROWS where they are short (not tuned). */
const TEXTS = 16;

export interface EmbedOptions {
  /** First numbers of each vector that are kept, before it is normalised (Matryoshka, arXiv 2205.13147). Default: all. */
  readonly dimensions?: number;
  /** Default: what the file says, else 'last'. */
  readonly pooling?: Pooling;
  /** How keys and values are stored. Default: as the model was loaded. */
  readonly kv?: KvType;
  readonly signal?: AbortSignal;
}

/**
 * Hidden states after the output norm, pooled over each text's tokens, of length 1.
 * @param live throws when the model is gone
 * @throws RangeError when `dimensions` or `pooling` is out of range
 */
export async function embed<T extends Tensor>(
  { backend, config, weights }: Subject<T>,
  texts: readonly ArrayLike<number>[],
  { dimensions = config.dim, pooling = config.pooling, kv = 'f16', signal }: EmbedOptions,
  live: () => void,
): Promise<Float32Array<ArrayBuffer>[]> {
  if (!Number.isInteger(dimensions) || dimensions < 1 || dimensions > config.dim) {
    throw new RangeError(`dimensions: got ${dimensions}, expected a whole number from 1 to ${config.dim}`);
  }
  if (!['mean', 'first', 'last'].includes(pooling)) {
    throw new RangeError(`pooling: got '${String(pooling)}', expected mean, first or last`);
  }
  const headless = { ...config, headTensor: undefined };
  const subject = { backend, config: headless, weights: { ...weights, head: undefined, screen: undefined } };
  const vectors = texts.map(() => new Float32Array(dimensions));
  for (let from = 0; from < texts.length; from += TEXTS) {
    const some = texts.slice(from, from + TEXTS);
    await evaluate(subject, some, {
      kv,
      rows: ROWS,
      wanted: (text, at) => pooling === 'mean' || at === (pooling === 'last' ? some[text].length - 1 : 0),
      onOut(text, _at, out) {
        live();
        signal?.throwIfAborted();
        const vector = vectors[from + text];
        for (let i = 0; i < dimensions; i++) vector[i] += out[i];
      },
    });
  }
  for (const vector of vectors) normalize(vector);
  return vectors;
}

/** x / |x|; of a vector of zeros nothing is changed. */
function normalize(x: Float32Array): void {
  const length = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
  if (length > 0) for (let i = 0; i < x.length; i++) x[i] /= length;
}

/** Tokens of the smallest chunk in whose second half one is scored. */
export const LEAST_CHUNK = 3;

export interface PerplexityOptions {
  /** Tokens that are seen at once. Default 512, as in llama.cpp's. */
  readonly contextSize?: number;
  /** How keys and values are stored. Default: as the model was loaded. */
  readonly kv?: KvType;
  readonly onProgress?: (progress: { readonly tokens: number; readonly total: number; perplexity: number }) => void;
  readonly signal?: AbortSignal;
}

export interface Perplexity {
  /** e^nll. */
  readonly perplexity: number;
  /** Mean of -ln p of the tokens that were scored. */
  readonly nll: number;
  /** Standard error of nll, tokens taken as independent. */
  readonly nllError: number;
  /** How many were scored. */
  readonly tokens: number;
}

/** A text in whole pieces of `contextSize` tokens, or one that is shorter, each begun with `bos` in place of its first token. */
export function chunksOf(tokens: ArrayLike<number>, bos: number | undefined, contextSize: number): number[][] {
  const all = Array.from(tokens);
  const count = Math.max(1, Math.floor(all.length / contextSize));
  const chunks = Array.from({ length: count }, (_, i) => all.slice(i * contextSize, (i + 1) * contextSize));
  if (bos !== undefined) for (const chunk of chunks) chunk[0] = bos;
  return chunks;
}

/**
 * How well a model foretells a text, as llama.cpp measures it: the text in chunks of `contextSize` tokens, each begun with
 * `bos` in place of its first token where there is one; the tokens of each chunk's second half are scored, what is left over
 * is not. A text of less than one chunk is scored whole.
 *
 * @param tokens at least two, `bos` included
 */
export async function perplexity<T extends Tensor>(
  subject: Subject<T>,
  tokens: ArrayLike<number>,
  bos: number | undefined,
  { contextSize = 512, kv = 'f16', onProgress, signal }: PerplexityOptions,
  live: () => void,
): Promise<Perplexity> {
  const chunks = chunksOf(tokens, bos, contextSize);
  const first = tokens.length < contextSize ? 0 : contextSize >> 1;
  let [sum, squares, scored] = [0, 0, 0];
  const result = (): Perplexity => {
    const nll = sum / scored;
    const variance = Math.max(0, squares / scored - nll * nll);
    return { perplexity: Math.exp(nll), nll, nllError: Math.sqrt(variance / Math.max(1, scored - 1)), tokens: scored };
  };
  for (const [i, chunk] of chunks.entries()) {
    await evaluate(subject, [chunk], {
      kv,
      rows: ROWS,
      wanted: (_, at) => at >= first && at + 1 < chunk.length,
      onOut(_, at, logits) {
        live();
        signal?.throwIfAborted();
        const loss = -logProbability(logits, chunk[at + 1]);
        sum += loss;
        squares += loss * loss;
        scored++;
      },
    });
    onProgress?.({
      tokens: (i + 1) * chunk.length,
      total: chunks.length * chunk.length,
      perplexity: result().perplexity,
    });
  }
  return result();
}

/** ln of the softmax at `id`. */
function logProbability(logits: Float32Array, id: number): number {
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) if (logits[i] > most) most = logits[i];
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - most);
  return logits[id] - most - Math.log(sum);
}
