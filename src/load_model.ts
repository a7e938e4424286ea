import type { Activation, Backend, KvType } from './backend/backend.ts';
import type { Tier } from './backend/wasm/tier.ts';
import { type ActivationsOptions, activations } from './calibrate.ts';
import { type Chat, type ChatMessage, createChat } from './chat.ts';
import type { Engine } from './engine/engine.ts';
import {
  type EmbedOptions,
  embed,
  evaluate,
  LEAST_CHUNK,
  type Perplexity,
  type PerplexityOptions,
  perplexity,
} from './evaluate.ts';
import { type Completion, collect, type GenerateOptions, generate, resolveOptions, type Token } from './generate.ts';
import { GgufError } from './gguf/error.ts';
import { readHeader } from './gguf/header.ts';
import type { Source } from './gguf/source.ts';
import type { TilesOption } from './gguf/tiles.ts';
import { checkOptions } from './hub/input.ts';
import { type OpenOptions, openModel } from './hub/open.ts';
import type { DownloadProgress } from './hub/progress.ts';
import { MAX_CONTEXT } from './model/advice.ts';
import { type Config, readConfig } from './model/config.ts';
import type { LoadProgress, WeightStorage } from './model/weights.ts';
import { checkBackend, type Placed, placeModel } from './placement.ts';
import { createTokenizer, type EncodeOptions, type Tokenizer } from './tokenizer/tokenizer.ts';

/** A path, an address, a model of the hub as `org/repo[:file][@revision]`, or the file itself. */
export type ModelInput = string | URL | Blob | Uint8Array | ArrayBuffer;

export interface LoadModelOptions extends Omit<OpenOptions, 'onProgress'> {
  /**
   * What computes, or a function that opens it, as `() => webgpu()` of the plugin @ternlm/webgpu. The model owns it: it is
   * disposed of with the model, and when loading fails. Not with `threads`, `tier` and `revectorize`, which are the CPU's.
   * Default: the CPU.
   */
  readonly backend?: Backend | (() => Promise<Backend>);
  /**
   * Lets the CPU take over where `backend` cannot be opened, is too small for the model or fails to load it, or is lost later:
   * then the weights are read again, and generations go on from their tokens after a pause; other calls under way fail, later
   * ones do not. info.warnings says why. Without it they fail with a BackendLostError. Default false.
   */
  readonly fallback?: boolean;
  /**
   * Threads of the CPU backend; 1 runs on the caller's thread. Default: the physical cores, at most 16, and 1 in a page that is
   * not cross-origin isolated (info.warnings).
   */
  readonly threads?: number;
  /** Kernels of the CPU backend. Default 'auto': the fastest that work here. */
  readonly tier?: Tier | 'auto';
  /**
   * Lets 'auto' try the kernels whose pairs of 128-bit operations V8 makes 256-bit ones of (Node 24 and newer), and take them if
   * they are right and faster here. For that V8's experimental flag `--experimental-wasm-revectorize` is set for the whole
   * process while the kernels compile. Default false.
   */
  readonly revectorize?: boolean;
  /** Positions a sequence can have, prompt included. Default: what the model was trained for, at most 4096. */
  readonly contextSize?: number;
  /**
   * Sequences computed at once, 1 to 16; further ones wait until one ends or its reader pauses. Their cache is taken from the
   * system as it fills. Where memory does not hold `contextSize` positions of each, they share fewer, at least one full context:
   * then a long sequence may wait for another to end (info.kvBytes, info.warnings). Default 4 (not tuned).
   */
  readonly parallel?: number;
  /** How keys and values are stored. Default 'f16'. */
  readonly kv?: KvType;
  /**
   * 'auto' reads a 7-bit copy of the output head for each token, and from the file's own numbers only the rows whose logits a
   * sampler can tell apart: tokens are those of 'exact', which reads all; only `probability` is off, by the little that the
   * other rows are. The copy takes vocab * dim bytes. Default 'auto'.
   */
  readonly head?: 'auto' | 'exact';
  /**
   * 'auto' repacks weights at loading where another layout is quicker to compute with here: TL1 to I2_S and TQ1_0 to TQ2_0, TL2 to
   * I2_S on all tiers but `simd`. The logits are the same. 'none' computes with the file's own bytes, which may take less memory
   * (TL2: 1.67 bits a weight, not 2). Default 'auto'.
   */
  readonly repack?: 'auto' | 'none';
  /**
   * Tile parameters of TL1 and TL2, which files of other programs do not tell: a preset (bitnet_b1_58-large, bitnet_b1_58-3B,
   * Llama3-8B, Llama3-8B-shipped), BM, BK and bm as `{ rows, cols, sub }`, or those of each shape as `{ '1536x4096': … }`. With
   * wrong ones a model writes nonsense. Default: what the file says, or the first preset that has the shape.
   */
  readonly layout?: TilesOption;
  /** Overrides the activation where the file leaves it open (architecture `bitnet`). */
  readonly activation?: Activation;
  /**
   * Whether a page runs the model in a web worker of its own, which ends with the model: then the page never waits for it. A
   * `backend` computes where it was opened, without one. Bytes are copied to the worker; a File or an address is read there. A
   * wrong option of `generate` is told with the first token, as it is seen there. A Content-Security-Policy has to allow it with
   * `worker-src blob:` and `script-src 'wasm-unsafe-eval'`. Default: true in a page without a `backend`; only there it can be.
   */
  readonly worker?: boolean;
  /** Told of a download first where there is one. */
  readonly onProgress?: (progress: LoadProgress | DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

export interface ModelInfo {
  readonly name: string;
  readonly architecture: string;
  /** Numbers in the file's tensors. */
  readonly parameters: number;
  readonly layers: number;
  readonly dim: number;
  /** Whether there are logits: an embedding model has none. */
  readonly hasHead: boolean;
  readonly vocab: number;
  readonly contextSize: number;
  readonly trainedContext: number;
  /**
   * Where the template of chats is from: the file, the family (BitNet b1.58 2B-4T), or, as neither has one, a plain transcript,
   * which a model that was not trained for chats continues as any text.
   */
  readonly chatTemplate: Chat['origin'];
  readonly parallel: number;
  readonly kv: KvType;
  readonly head: 'auto' | 'exact';
  /** How the matrices of the layers are stored in the file and in memory. */
  readonly weights: WeightStorage;
  /** e.g. "wasm relaxed, 2 threads". */
  readonly backend: string;
  /** Of the CPU backend. */
  readonly tier: Tier | undefined;
  readonly threads: number | undefined;
  readonly fileBytes: number;
  /** Memory of the backend in use: weights, cache and working memory. */
  readonly memoryBytes: number;
  /** What of it a full cache takes. */
  readonly kvBytes: number;
  readonly warnings: readonly string[];
}

export type Prompt = string | readonly ChatMessage[] | readonly number[] | Int32Array;

export interface CompleteOptions extends GenerateOptions {
  /** Called with each token as it comes. */
  readonly onToken?: (token: Token) => void;
}

export interface LogitsOptions {
  readonly kv?: KvType;
  /** Rows of one forward pass, 1 to 16; default 16. */
  readonly batch?: number;
}

/** A loaded model. Any number of generations may run on it at once. */
export interface Model {
  /** As it is now: the backend, and what hangs on it, changes where the CPU takes over. */
  readonly info: ModelInfo;
  /** Continues a text, a chat, or tokens: `for await (const token of model.generate('Once upon a time'))`. */
  generate(prompt: Prompt, options?: GenerateOptions): AsyncGenerator<Token, Completion, undefined>;
  /** The whole answer at once, `onToken` for each token on the way. */
  complete(prompt: Prompt, options?: CompleteOptions): Promise<Completion>;
  /** Tokens of a prompt as generate would see it, or of a text. */
  tokenize(text: string, options?: EncodeOptions): Promise<number[]>;
  detokenize(tokens: ArrayLike<number>, options?: { skipSpecial?: boolean }): Promise<string>;
  /** Logits f32 [tokens][vocab], row i after token i; for evaluation. */
  logits(tokens: ArrayLike<number>, options?: LogitsOptions): Promise<Float32Array>;
  /**
   * Vectors f32 [dim] of length 1, whose products tell how near texts are: of an embedding model what it was trained to give.
   * Several texts share forward passes; each is a text or its tokens.
   */
  embed(text: string | Int32Array, options?: EmbedOptions): Promise<Float32Array>;
  embed(texts: readonly (string | ArrayLike<number>)[], options?: EmbedOptions): Promise<Float32Array[]>;
  /** How well the model foretells a text, as llama.cpp measures it. */
  perplexity(text: string, options?: PerplexityOptions): Promise<Perplexity>;
  /**
   * What the seven matrices of each layer see over a text: mean squares f32 [cols] of their inputs, all norms included, by the
   * matrix's name in GGUF. The conversion weighs errors with them (`ternlm convert --calibrate`).
   */
  activations(text: string, options?: ActivationsOptions): Promise<Map<string, Float32Array>>;
  /** Ends what runs, frees memory and threads; settles when they are gone. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Most sequences, and most rows that can ask for logits: 0.5 MB each for a vocabulary of 128,256, taken at loading. */
const MAX_OUTS = 16;

/**
 * Opens a ternary GGUF model.
 *
 * @param input path, URL (ranges are used where the server has them), `org/repo[:file][@revision]` of the hub, Blob, or the
 *   file's bytes; a text is an address, else an existing path, else a reference
 * @throws GgufError when the file is broken or not supported: what, where, expected, got
 * @throws HubError when a model of the hub cannot be had
 * @throws RangeError when an option is out of range or memory does not suffice
 * @throws TypeError when `input` is no place of a model
 * @throws what opening the backend throws
 */
export async function loadModel(input: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
  checkOptions(options);
  const { backend: given, fallback = false, signal } = options;
  /** Ends reading, now and when weights are read again. */
  const reading = new AbortController();
  const onAbort = () => reading.abort(signal?.reason);
  if (given !== undefined && typeof given !== 'function') checkBackend(given);
  /** To be disposed of where this fails. */
  let owned = typeof given === 'object' ? given : undefined;
  let source: Source | undefined;
  try {
    checkAlone(options);
    const { parallel, kv: kvType, head, repack, contextOf } = layOptions(options);
    signal?.throwIfAborted();
    signal?.addEventListener('abort', onAbort);

    source = await openModel(input, { ...options, signal: reading.signal });
    const { name: file, size: fileBytes, close } = source;
    const header = await readHeader(source);
    const config = readConfig(header, file, options.activation);
    const tokenizer = openTokenizer(header.metadata, file);
    const chat = createChat(header.metadata, tokenizer);
    const contextSize = contextOf(config);
    const { layout, onProgress, threads, tier, revectorize } = options;
    owned = undefined; // from here on it is placeModel's
    const placement = await placeModel(source, header, config, {
      ...{ backend: given, fallback, cpu: { threads, tier, revectorize } },
      ...{ head, repack, kv: kvType, contextSize, parallel, layout, onProgress, signal: reading.signal },
    });
    const { engine, beside } = placement;

    const parameters = [...header.tensors.values()].reduce((sum, t) => sum + t.dims.reduce((a, b) => a * b, 1), 0);
    const trained = config.contextLength;
    const longer = `contextSize ${contextSize} is more than the ${trained} positions of the training`;
    const infoOf = ({ backend, weights, warnings, ...rest }: Placed): ModelInfo => ({
      name: config.name,
      architecture: config.architecture,
      parameters,
      layers: config.layers,
      dim: config.dim,
      hasHead: config.headTensor !== undefined,
      vocab: config.vocab,
      contextSize,
      trainedContext: trained,
      chatTemplate: chat.origin,
      parallel,
      kv: kvType,
      head: rest.head,
      weights: weights.storage,
      backend: backend.name,
      tier: rest.tier,
      threads: rest.threads,
      fileBytes,
      memoryBytes: backend.memoryUsed().allocated,
      kvBytes: rest.kvBytes,
      warnings: [...config.warnings, ...warnings, ...(contextSize > trained ? [longer] : [])],
    });
    let { placed } = placement;
    let info = infoOf(placed);

    let disposed: Promise<void> | undefined;
    const live = () => {
      if (disposed !== undefined) throw new Error('the model was disposed');
    };

    const isChat = (prompt: Prompt): prompt is readonly ChatMessage[] =>
      Array.isArray(prompt) && typeof prompt[0] === 'object';

    function tokensOf(prompt: Prompt, parseSpecial: boolean): ArrayLike<number> {
      if (typeof prompt === 'string') return tokenizer.encode(prompt, { addSpecial: true, parseSpecial });
      return isChat(prompt) ? chat.encode(prompt) : prompt;
    }

    /** A plain transcript has no token that ends a turn: the model's own next "User:" does. */
    function optionsOf(prompt: Prompt, given: GenerateOptions): GenerateOptions {
      if (!isChat(prompt) || chat.origin !== 'plain' || given.stop !== undefined) return given;
      return { ...given, stop: '\nUser:' };
    }

    function checked(tokens: ArrayLike<number>, most: number, what = 'prompt'): ArrayLike<number> {
      if (typeof tokens !== 'object' || tokens === null || typeof tokens.length !== 'number') {
        throw new TypeError(`${what}: got ${String(tokens)}, expected a text, messages or token ids`);
      }
      if (tokens.length === 0) throw new RangeError(`${what}: no tokens, expected at least one`);
      if (tokens.length > most) {
        throw new RangeError(`${what}: ${tokens.length} tokens, expected at most ${most} (contextSize ${contextSize})`);
      }
      for (let i = 0; i < tokens.length; i++) {
        const id = tokens[i];
        if (!Number.isInteger(id) || id < 0 || id >= config.vocab) {
          throw new RangeError(`${what}: token ${i} is ${id}, expected a whole number from 0 to ${config.vocab - 1}`);
        }
      }
      return tokens;
    }

    /** @throws Error where there are no logits */
    function generator(what: string): Engine {
      if (engine !== undefined) return engine;
      throw new Error(
        `${config.name} is an embedding model (${config.architecture}), without an output head for ${what}: see embed`,
      );
    }

    function embedTexts(text: string | Int32Array, embedOptions?: EmbedOptions): Promise<Float32Array>;
    function embedTexts(
      texts: readonly (string | ArrayLike<number>)[],
      embedOptions?: EmbedOptions,
    ): Promise<Float32Array[]>;
    async function embedTexts(
      texts: string | Int32Array | readonly (string | ArrayLike<number>)[],
      embedOptions: EmbedOptions = {},
    ): Promise<Float32Array | Float32Array[]> {
      live();
      checkKv(embedOptions.kv ?? kvType);
      const alone = typeof texts === 'string' || texts instanceof Int32Array;
      const all = alone ? [texts] : texts;
      if (!Array.isArray(all)) throw new TypeError('embed: expected a text, or an array of texts');
      const tokens = all.map((text, i) => {
        const ids = typeof text === 'string' ? tokenizer.encode(text, { addSpecial: true }) : text;
        return checked(ids, contextSize, `embed: text ${i}`);
      });
      const vectors = await beside((subject) => embed(subject, tokens, { kv: kvType, ...embedOptions }, live));
      return alone ? vectors[0] : vectors;
    }

    function tokensOfText(text: string, what: string): number[] {
      if (typeof text !== 'string') throw new TypeError(`${what}: got ${typeof text}, expected a text`);
      return tokenizer.encode(text, { addSpecial: true });
    }

    /** Tokens of a piece of a longer text. */
    function chunkOf(given: number | undefined): number {
      const chunk = given ?? Math.min(contextSize, 512);
      count('contextSize', chunk, contextSize, LEAST_CHUNK);
      return chunk;
    }
    const bos = tokenizer.addBos ? tokenizer.bos : undefined;

    const model: Model = {
      get info() {
        if (placed !== placement.placed) info = infoOf(placement.placed);
        placed = placement.placed;
        return info;
      },
      generate(prompt, generateOptions = {}) {
        live();
        const generating = generator('generate');
        const resolved = resolveOptions(optionsOf(prompt, generateOptions), config.vocab, tokenizer.eogTokens);
        const tokens = checked(tokensOf(prompt, generateOptions.parseSpecial ?? false), contextSize);
        return generate(generating, tokenizer, tokens, resolved);
      },
      complete: async (prompt, { onToken, ...rest } = {}) => collect(model.generate(prompt, rest), onToken),
      tokenize: async (text, encodeOptions) => tokenizer.encode(text, { addSpecial: true, ...encodeOptions }),
      detokenize: async (tokens, decodeOptions) => tokenizer.decode(tokens, decodeOptions),
      async logits(tokens, { kv: type = kvType, batch = MAX_OUTS } = {}) {
        live();
        checkKv(type);
        count('batch', batch, MAX_OUTS);
        const { length } = checked(tokens, contextSize);
        generator('logits');
        const result = new Float32Array(length * config.vocab);
        const pass = {
          kv: type,
          rows: batch,
          wanted: () => true,
          onOut(_: number, at: number, logits: Float32Array) {
            live();
            result.set(logits, at * logits.length);
          },
        };
        await beside((subject) => evaluate(subject, [tokens], pass));
        return result;
      },
      embed: embedTexts,
      async perplexity(text, perplexityOptions = {}) {
        live();
        generator('perplexity');
        checkKv(perplexityOptions.kv ?? kvType);
        const most = chunkOf(perplexityOptions.contextSize);
        const tokens = tokensOfText(text, 'perplexity');
        if (tokens.length < 2) throw new RangeError(`perplexity: ${tokens.length} tokens, expected at least 2`);
        const resolved = { kv: kvType, ...perplexityOptions, contextSize: most };
        return beside((subject) => perplexity(subject, tokens, bos, resolved, live));
      },
      async activations(text, activationsOptions = {}) {
        live();
        checkKv(activationsOptions.kv ?? kvType);
        const most = chunkOf(activationsOptions.contextSize);
        const tokens = checked(tokensOfText(text, 'activations'), Number.POSITIVE_INFINITY, 'activations');
        const resolved = { kv: kvType, ...activationsOptions, contextSize: most };
        return beside((subject) => activations(subject, tokens, bos, resolved, live));
      },
      dispose() {
        disposed ??= (async () => {
          const gone = new Error('the model was disposed');
          reading.abort(gone);
          await placement.dispose(gone);
          await close();
        })();
        return disposed;
      },
      [Symbol.asyncDispose]: () => model.dispose(),
    };
    return model;
  } catch (error) {
    await owned?.dispose();
    await source?.close();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

/** The tokenizer knows keys, not files. */
function openTokenizer(metadata: ReadonlyMap<string, unknown>, file: string): Tokenizer {
  try {
    return createTokenizer(metadata);
  } catch (error) {
    throw new GgufError(`${file}: ${(error as Error).message}`, undefined, { cause: error });
  }
}

/** How a model is to lie in memory: what these options say, checked, or leave open. */
export function layOptions(options: Pick<LoadModelOptions, 'contextSize' | 'parallel' | 'kv' | 'head' | 'repack'>): {
  parallel: number;
  kv: KvType;
  head: 'auto' | 'exact';
  repack: 'auto' | 'none';
  contextOf(config: Pick<Config, 'contextLength'>): number;
} {
  const { contextSize, parallel = 4, kv = 'f16', head = 'auto', repack = 'auto' } = options;
  count('parallel', parallel, MAX_OUTS);
  checkKv(kv);
  checkHead(head);
  checkRepack(repack);
  if (contextSize !== undefined) count('contextSize', contextSize, MAX_CONTEXT);
  return {
    ...{ parallel, kv, head, repack },
    contextOf: ({ contextLength }) => contextSize ?? Math.min(contextLength, 4096),
  };
}

const CPU_OPTIONS = ['threads', 'tier', 'revectorize'] as const;

/** @throws RangeError where options of the CPU are given beside a backend */
export function checkAlone(options: Pick<LoadModelOptions, 'backend' | 'worker' | (typeof CPU_OPTIONS)[number]>): void {
  if (options.worker) throw new RangeError('worker: got true, expected it only in a page, which has web workers');
  const set = CPU_OPTIONS.filter((name) => options[name] !== undefined);
  if (options.backend === undefined || set.length === 0) return;
  throw new RangeError(`${set.join(', ')}: of the CPU, expected only where no backend is given`);
}

function checkKv(type: KvType): void {
  if (type !== 'f16' && type !== 'f32') throw new RangeError(`kv: got '${String(type)}', expected f16 or f32`);
}

function checkHead(head: 'auto' | 'exact'): void {
  if (head !== 'auto' && head !== 'exact') throw new RangeError(`head: got '${String(head)}', expected auto or exact`);
}

function checkRepack(repack: 'auto' | 'none'): void {
  if (repack !== 'auto' && repack !== 'none')
    throw new RangeError(`repack: got '${String(repack)}', expected auto or none`);
}

function count(option: string, value: number, most: number, least = 1): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`${option}: got ${value}, expected a whole number from ${least} to ${most}`);
  }
}
