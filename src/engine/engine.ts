import type { Tensor } from '../backend/backend.ts';
import type { KvBlocks, KvSequence } from '../model/kv_cache.ts';
import type { Stepper } from '../model/step.ts';
import { PICK_BYTES, type Pick, type ResolvedSampler, readPick, writeParams } from '../sampler.ts';

/** What is asked of the engine: tokens to continue, and who hears of each new one. */
export interface Request {
  /** At least one token, at most as many as the context has positions. */
  readonly prompt: ArrayLike<number>;
  /** At least 1. The context's end also ends a sequence. */
  readonly maxTokens: number;
  readonly sampler: ResolvedSampler;
  /** Whether another token can be taken now; when that changes, call `wake`. A slow reader holds back only itself. */
  ready(): boolean;
  /** A new token; true ends the sequence. The pick is reused. */
  onToken(pick: Readonly<Pick>): boolean;
  /** Once: all tokens are out, or `error` says why not. Not called after `cancel`. */
  onEnd(error?: unknown): void;
}

/** When things happened to a sequence, in ms of performance.now(). */
export interface Times {
  started: number;
  firstToken: number;
  lastToken: number;
}

export interface Sequence {
  readonly times: Times;
  /** Takes the sequence out; its place in the cache is free after the step that is under way. */
  cancel(): void;
  /** Tells that `ready` may have changed. */
  wake(): void;
}

export interface Engine {
  /** Queues a request; it starts when a place in the cache is free. */
  submit(request: Request): Sequence;
  /** Fails what waits and runs with `reason`; settles when no step is under way. */
  close(reason: Error): Promise<void>;
}

interface Entry extends Sequence {
  readonly request: Request;
  /** Prompt and new tokens, [length]. */
  readonly tokens: Int32Array;
  length: number;
  /** Positions that are in the cache. */
  computed: number;
  generated: number;
  place: KvSequence | undefined;
  ended: boolean;
  /** Its out in the step under way, or -1. */
  out: number;
}

/**
 * Runs any number of sequences over one set of weights. Each step is one forward pass: a row for every sequence that
 * decodes, then pieces of prompts as far as the step has rows. Requests enter and leave between steps, in the order they
 * came.
 */
export function createEngine<T extends Tensor>(stepper: Stepper, kv: KvBlocks<T>): Engine {
  const waiting: Entry[] = [];
  const running: Entry[] = [];
  const pick: Pick = { id: 0, logit: 0, probability: 0 };
  let stepping = false;
  let onIdle = () => {};
  /** Of the step under way. */
  let rows = 0;
  let outs = 0;
  let closed: Error | undefined;

  function end(entry: Entry, error?: unknown): void {
    if (entry.ended) return;
    entry.ended = true;
    entry.request.onEnd(error);
  }

  /** Lets go of what has ended and takes in what fits. */
  function admit(): void {
    for (let i = running.length - 1; i >= 0; i--) {
      if (!running[i].ended) continue;
      running[i].place?.free();
      running.splice(i, 1);
    }
    for (let i = 0; i < waiting.length; ) {
      const entry = waiting[i];
      if (entry.ended || admitted(entry)) waiting.splice(i, 1);
      else if (!entry.request.ready()) i++;
      else if (!makeRoom()) return;
    }
  }

  /** Gives a sequence its place, for all that it can ever need: so a running one never stops for want of blocks. */
  function admitted(entry: Entry): boolean {
    if (running.length === stepper.maxOuts || !entry.request.ready()) return false;
    const place = kv.open();
    if (place === undefined) return false;
    if (!place.reserve(Math.min(entry.tokens.length, kv.context))) {
      place.free();
      return false;
    }
    entry.place = place;
    if (entry.generated === 0) entry.times.started = performance.now();
    running.push(entry);
    return true;
  }

  /** Puts a sequence whose reader is away back into the queue; it is computed again when the reader comes back. */
  function makeRoom(): boolean {
    const i = running.findIndex((entry) => !entry.request.ready());
    if (i < 0) return false;
    const [entry] = running.splice(i, 1);
    entry.place?.free();
    entry.place = undefined;
    entry.computed = 0;
    waiting.push(entry);
    return true;
  }

  /** Rows of one entry: positions [computed, computed + count), the last with logits if it reaches the end. */
  function addRows(entry: Entry, row: number, count: number, out: number): boolean {
    for (let i = 0; i < count; i++) {
      const pos = entry.computed + i;
      stepper.tokens[row + i] = entry.tokens[pos];
      stepper.pos[row + i] = pos;
      stepper.sequence[row + i] = (entry.place as KvSequence).row;
    }
    entry.computed += count;
    if (entry.computed < entry.length) return false;
    stepper.index[out] = row + count - 1;
    writeParams(stepper.params[out], entry.request.sampler, entry.generated, entry.tokens, entry.length);
    entry.out = out;
    return true;
  }

  /** Puts the next batch together: decoding rows first, then pieces of prompts. */
  function compose(): void {
    admit();
    rows = 0;
    outs = 0;
    for (let pass = 0; pass < 2; pass++) {
      for (let i = 0; i < running.length; i++) {
        const entry = running[i];
        const missing = entry.length - entry.computed;
        if ((missing === 1) !== (pass === 0) || !entry.request.ready()) continue;
        const take = Math.min(missing, stepper.maxRows - rows);
        if (take > 0 && addRows(entry, rows, take, outs)) outs++;
        rows += take;
      }
    }
  }

  /** Hands out what the step picked. */
  function deliver(picks: DataView): void {
    for (let i = 0; i < running.length; i++) {
      const entry = running[i];
      if (entry.out < 0) continue;
      readPick(picks, entry.out * PICK_BYTES, pick);
      entry.out = -1;
      if (entry.ended) continue;
      if (pick.id < 0) {
        const at = `position ${entry.length - 1}`;
        end(entry, new Error(`${at}: no logit is a number; the model's weights or the prompt are broken`));
        continue;
      }
      entry.times.lastToken = performance.now();
      if (entry.generated === 0) entry.times.firstToken = entry.times.lastToken;
      entry.tokens[entry.length++] = pick.id;
      entry.generated++;
      if (entry.request.onToken(pick) || entry.length === entry.tokens.length) end(entry);
    }
  }

  /** Hands out what the last step picked, if there was one, and begins the next, whose end comes back here: no promise a token. */
  function step(error?: Error, picks?: DataView): void {
    try {
      if (error !== undefined) throw error;
      if (picks !== undefined) deliver(picks);
      compose();
      if (rows > 0) {
        stepper.start(rows, outs, outs > 0, 1, step);
        return;
      }
    } catch (cause) {
      for (const entry of [...running, ...waiting]) end(entry, cause);
      admit();
    }
    stepping = false;
    onIdle();
  }
  const start = () => {
    if (stepping) return;
    stepping = true;
    step();
  };

  return {
    submit(request) {
      if (closed !== undefined) throw closed;
      const { prompt, maxTokens } = request;
      // The token after the last position can be picked, but not computed: one more than the context.
      const tokens = new Int32Array(Math.min(prompt.length + maxTokens, kv.context + 1));
      tokens.set(prompt);
      const now = performance.now();
      const entry: Entry = {
        request,
        tokens,
        length: prompt.length,
        computed: 0,
        generated: 0,
        place: undefined,
        ended: false,
        out: -1,
        times: { started: now, firstToken: now, lastToken: now },
        cancel() {
          entry.ended = true;
          start();
        },
        wake: start,
      };
      waiting.push(entry);
      start();
      return entry;
    },
    async close(reason) {
      closed = reason;
      for (const entry of [...running, ...waiting]) end(entry, reason);
      start();
      if (stepping) {
        await new Promise<void>((resolve) => {
          onIdle = resolve;
        });
      }
    },
  };
}
