import type { Engine, Sequence } from './engine/engine.ts';
import { type ResolvedSampler, resolveSampler, type SamplerOptions } from './sampler.ts';
import { createDetokenizer, type Tokenizer } from './tokenizer/tokenizer.ts';

export interface GenerateOptions extends SamplerOptions {
  /** Most tokens to generate; the end of the context also ends it. Default: up to the end of the context. */
  readonly maxTokens?: number;
  /** Text that ends the generation and is not part of it. */
  readonly stop?: string | readonly string[];
  readonly signal?: AbortSignal;
  /** Write on where the model would end: the tokens that end an answer are banned. Default false. */
  readonly ignoreEos?: boolean;
  /** Special tokens written in a prompt, such as <|eot_id|>, are tokens and not text. Default false. */
  readonly parseSpecial?: boolean;
}

export interface Token {
  readonly id: number;
  /** What this token adds to the text. Empty while a character or a possible stop text is incomplete; the next one brings it. */
  readonly text: string;
  /** Share of this token in the softmax of all raw logits. */
  readonly probability: number;
  readonly logit: number;
  /** The model ended its answer with this token. */
  readonly isEos: boolean;
}

/** 'stop': the model ended, or a stop text came; 'length': maxTokens or the end of the context. */
export type FinishReason = 'stop' | 'length';

export interface Timings {
  readonly promptTokens: number;
  /** From the start of the prompt's first step to the first token. */
  readonly promptMs: number;
  readonly promptPerSecond: number;
  readonly generatedTokens: number;
  /** From the first to the last token. */
  readonly generatedMs: number;
  /** Of the tokens after the first. */
  readonly generatedPerSecond: number;
}

export interface Completion {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly finishReason: FinishReason;
  /** The seed that was used; with it and the same options the text comes again. */
  readonly seed: number;
  readonly timings: Timings;
}

/**
 * Tokens that wait for their reader before its sequence pauses: enough for a reader that lags for a step or two (not tuned).
 * Where several come at once, those of all starts under way are added.
 */
const MAX_UNREAD = 8;

/**
 * Where readers begin the steps (Host.turn), one whose sequence waits for a place leaves that to those who have one, and looks so
 * often whether they are still there (not tuned).
 */
const QUEUED_MS = 10;

/** Options checked against the model; throws a RangeError or TypeError that names the option. */
export interface ResolvedOptions {
  readonly sampler: ResolvedSampler;
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly signal: AbortSignal | undefined;
}

export function resolveOptions(
  options: GenerateOptions,
  vocab: number,
  endTokens: ReadonlySet<number>,
): ResolvedOptions {
  const { maxTokens = Number.MAX_SAFE_INTEGER, stop = [], signal, ignoreEos = false } = options;
  if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
    throw new RangeError(`maxTokens: got ${maxTokens}, expected a whole number from 1 up`);
  }
  const stops = typeof stop === 'string' ? [stop] : stop;
  if (!Array.isArray(stops) || stops.length > 16 || stops.some((s) => typeof s !== 'string' || s === '')) {
    throw new TypeError('stop: expected a text or up to 16 of them, none empty');
  }
  const sampler = resolveSampler(ignoreEos ? banned(options, endTokens) : options, vocab);
  return { sampler, maxTokens, stop: stops, signal };
}

function banned(options: GenerateOptions, ids: ReadonlySet<number>): GenerateOptions {
  const { logitBias = {} } = options;
  const bias = new Map<number, number>(
    logitBias instanceof Map ? logitBias : Object.entries(logitBias).map(([id, x]) => [Number(id), x]),
  );
  for (const id of ids) bias.set(id, -Infinity);
  return { ...options, logitBias: bias };
}

/** Continues `prompt`: yields each token, returns the whole. Leaving the loop frees the sequence. */
export async function* generate(
  engine: Engine,
  tokenizer: Tokenizer,
  prompt: ArrayLike<number>,
  options: ResolvedOptions,
): AsyncGenerator<Token, Completion, undefined> {
  const { sampler, maxTokens, stop, signal } = options;
  signal?.throwIfAborted();
  const ids: number[] = [];
  const unread = createQueue<Token>();
  const mostUnread = MAX_UNREAD + engine.burst - 1;
  const texts = createTexts(tokenizer, stop, unread.push);
  let ended = false;
  let failure: unknown;
  let notify = () => {};
  let finishReason: FinishReason = 'length';

  const sequence: Sequence = engine.submit({
    prompt,
    maxTokens,
    sampler,
    ready: () => unread.length < mostUnread,
    onToken({ id, probability, logit }) {
      const isEos = tokenizer.eogTokens.has(id);
      ids.push(id);
      texts.push({ id, text: '', probability, logit, isEos });
      if (isEos || texts.stopped) finishReason = 'stop';
      notify();
      return isEos || texts.stopped;
    },
    onEnd(error) {
      failure = error;
      ended = true;
      texts.end();
      notify();
    },
  });
  const onAbort = () => {
    sequence.cancel();
    notify();
  };
  signal?.addEventListener('abort', onAbort, { once: true });

  try {
    while (true) {
      signal?.throwIfAborted();
      const token = unread.shift();
      if (token !== undefined) {
        if (unread.length === mostUnread - 1) sequence.wake();
        yield token;
      } else if (ended) break;
      else if (engine.turn !== undefined) {
        await engine.turn(sequence.place === undefined ? QUEUED_MS : 0);
        if (unread.length === 0) sequence.wake();
        await undefined; // a run on one thread is over by now
      } else {
        await new Promise<void>((resolve) => {
          notify = resolve;
        });
      }
    }
    if (failure !== undefined) throw failure;
    const { started, firstToken, lastToken } = sequence.times;
    const perSecond = (n: number, ms: number) => (ms > 0 ? (1000 * n) / ms : 0);
    return {
      text: texts.all(),
      tokens: ids,
      finishReason,
      seed: sampler.seed,
      timings: {
        promptTokens: prompt.length,
        promptMs: firstToken - started,
        promptPerSecond: perSecond(prompt.length, firstToken - started),
        generatedTokens: ids.length,
        generatedMs: lastToken - firstToken,
        generatedPerSecond: perSecond(ids.length - 1, lastToken - firstToken),
      },
    };
  } finally {
    signal?.removeEventListener('abort', onAbort);
    if (!ended) sequence.cancel();
  }
}

/** The whole answer, `onToken` for each token on the way; where that throws, the generation ends. */
export async function collect(
  tokens: AsyncGenerator<Token, Completion, undefined>,
  onToken: ((token: Token) => void) | undefined,
): Promise<Completion> {
  try {
    while (true) {
      const next = await tokens.next();
      if (next.done) return next.value;
      onToken?.(next.value);
    }
  } finally {
    await tokens.return(undefined as never);
  }
}

/** First in, first out. Keeps its room: an array that is emptied and filled in turn is allocated anew each time. */
function createQueue<X>(): { readonly length: number; push(x: X): void; shift(): X | undefined } {
  const items: (X | undefined)[] = [];
  let first = 0;
  let end = 0;
  return {
    get length() {
      return end - first;
    },
    push(x) {
      if (first > 0 && end === items.length) {
        items.copyWithin(0, first, end);
        end -= first;
        first = 0;
      }
      items[end++] = x;
    },
    shift() {
      if (first === end) return undefined;
      const x = items[first];
      items[first++] = undefined;
      return x;
    },
  };
}

type Writable<X> = { -readonly [K in keyof X]: X[K] };

interface Texts {
  readonly stopped: boolean;
  /** Takes a token; puts out those whose text is settled. */
  push(token: Writable<Token>): void;
  /** Puts out what is left, as no more tokens come. */
  end(): void;
  all(): string;
}

/**
 * Gives tokens their text. A token is held back while its text ends inside a character or could be the beginning of a stop
 * text; the last one held then carries the text of all.
 */
function createTexts(tokenizer: Tokenizer, stops: readonly string[], out: (token: Token) => void): Texts {
  const detokenizer = createDetokenizer(tokenizer, { skipSpecial: true, continues: true });
  const held: Writable<Token>[] = [];
  const parts: string[] = [];
  let pending = '';
  let stopped = false;

  function release(text: string): void {
    if (held.length > 0) held[held.length - 1].text = text;
    parts.push(text);
    for (let i = 0; i < held.length; i++) out(held[i]);
    held.length = 0;
  }

  return {
    get stopped() {
      return stopped;
    },
    push(token) {
      const text = detokenizer.push(token.id);
      if (stops.length === 0 && held.length === 0 && !detokenizer.pending) {
        // The common case goes straight through.
        token.text = text;
        parts.push(text);
        out(token);
        return;
      }
      held.push(token);
      pending += text;
      let cut = pending.length;
      for (const stop of stops) {
        const found = pending.indexOf(stop);
        if (found >= 0) {
          cut = Math.min(cut, found);
          stopped = true;
        }
      }
      if (stopped) {
        pending = pending.slice(0, cut);
        return;
      }
      const open = stops.reduce((most, stop) => Math.max(most, openEnd(pending, stop)), 0);
      if (open > 0 || detokenizer.pending) return;
      release(pending);
      pending = '';
    },
    end() {
      if (!stopped) pending += detokenizer.flush();
      if (held.length > 0) release(pending);
      pending = '';
    },
    all: () => parts.join(''),
  };
}

/** Length of the longest end of `text` that is a proper beginning of `stop`. */
function openEnd(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}
