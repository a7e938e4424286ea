import { BackendLostError, type Tensor } from '../backend/backend.ts';
import type { Host } from '../host/host.ts';
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
  /** Whether it has a place in the cache; without one it waits for others. */
  readonly place: KvSequence | undefined;
  /** Takes the sequence out; its place in the cache is free after the steps that are under way. */
  cancel(): void;
  /** Tells that `ready` may have changed. */
  wake(): void;
}

export interface Engine {
  /** Most tokens that come to a request after its last `ready`: those of the starts that can be under way. */
  readonly burst: number;
  /** Set where steps begin only by `wake` (src/host/host.ts): who waits for a token awaits a turn, then wakes its sequence. */
  readonly turn: Host['turn'];
  /** Queues a request; it starts when a place in the cache is free. Throws what closed the engine. */
  submit(request: Request): Sequence;
  /** Tells that the backend is gone, where someone else found out; once for each that is. */
  lose(error: BackendLostError): void;
  /** Fails what waits and runs with `reason`; settles when no step is under way. */
  close(reason: Error): Promise<void>;
}

/** What the engine computes with. */
export interface Device<T extends Tensor = Tensor> {
  readonly stepper: Stepper;
  readonly kv: KvBlocks<T>;
}

/** Gives a device of the same context in place of one that is lost. */
export type Recover<T extends Tensor> = (error: BackendLostError) => Promise<Device<T>>;

/**
 * Starts of several tokens take about so long: 50 a second still look like a stream, and two of them are what a request that
 * comes or an abort waits for; the gap between two starts, below 1 ms, is a small part of it (not tuned).
 */
const TARGET_MS = 20;

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
  /** Its out in the batch under way, or -1. */
  out: number;
}

/**
 * Runs any number of sequences over one set of weights. Each step is one forward pass: a row for every sequence that
 * decodes, then pieces of prompts as far as the step has rows. Requests enter and leave between steps, in the order they
 * came.
 *
 * A backend that repeats runs draws several tokens of a batch whose rows all decode at one start, and the next start is
 * given to it before the last is done, for as long as the batch stays as it is. What is drawn behind the end of a sequence
 * is dropped.
 *
 * @param recover Without it the sequences of a lost backend fail; with it they go on from their tokens.
 * @param turn Without it a step begins when the last is done; with it when a reader without tokens comes back from a turn.
 */
export function createEngine<T extends Tensor>(
  device: Device<T>,
  recover?: Recover<T>,
  turn?: Host['turn'],
): Engine {
  let { stepper, kv } = device;
  const waiting: Entry[] = [];
  const running: Entry[] = [];
  const pick: Pick = { id: 0, logit: 0, probability: 0 };
  let stepping = false;
  let onIdle = () => {};
  /** Of the batch under way. */
  let rows = 0;
  let outs = 0;
  /** Starts under way, and the tokens that each draws, the older first. */
  let starts = 0;
  const repeats: [number, number] = [0, 0];
  /** When the older of them began to be computed. */
  let began = 0;
  /** Tokens a start may draw now. */
  let pace = 1;
  /** Someone came, left or woke up that the batch does not know of. */
  let disturbed = false;
  let deciding = false;
  /** Ends what runs when no start is under way any more. */
  let failure: unknown;
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
    displace(entry);
    waiting.push(entry);
    return true;
  }

  function displace(entry: Entry): void {
    entry.place = undefined;
    entry.computed = 0;
    entry.out = -1;
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
    disturbed = false;
    for (let i = 0; i < running.length; i++) running[i].out = -1;
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

  /** Tokens that another start of this batch may draw; 0 where it should not go on. */
  function further(): number {
    if (stepper.maxRepeats === 1 || rows !== outs || disturbed) return 0;
    let most = pace;
    for (let i = 0; i < running.length; i++) {
      const { out, ended, request, tokens, length } = running[i];
      if (out < 0) continue;
      if (ended || !request.ready()) return 0;
      most = Math.min(most, tokens.length - length - (starts > 0 ? repeats[0] : 0));
    }
    return most;
  }

  /** Starts the batch, and once more behind it where it may go on. */
  function begin(): void {
    const most = Math.max(1, further());
    if (stepper.maxRepeats > 1) began = performance.now();
    stepper.start(rows, outs, outs > 0, most, onDone);
    repeats[0] = most;
    starts = 1;
    goOn();
  }

  function goOn(): void {
    const most = further();
    if (most === 0) return;
    try {
      stepper.again(most, onDone);
      repeats[1] = most;
      starts = 2;
    } catch (cause) {
      failure ??= cause;
    }
  }

  /** Looks whether the batch goes on, after its readers had a turn to take what came, or to leave. */
  function decide(): void {
    deciding = false;
    if (starts === 1 && failure === undefined) goOn();
  }

  /** A start is done; no promise a token. */
  function onDone(error: Error | undefined, picks: DataView): void {
    const count = repeats[0];
    repeats[0] = repeats[1];
    starts--;
    failure ??= error;
    if (failure === undefined) {
      try {
        adapt(count);
        deliver(picks, count);
      } catch (cause) {
        failure = cause;
      }
    }
    if (starts === 0) {
      if (turn === undefined) step();
      else rest();
    } else if (!deciding) {
      deciding = true;
      setTimeout(decide, 0);
    }
  }

  /** Twice the tokens a start while that stays below TARGET_MS, half of them where it does not. */
  function adapt(count: number): void {
    if (stepper.maxRepeats === 1) return;
    const now = performance.now();
    const ms = now - began;
    began = now;
    if (rows !== outs || count < pace) return;
    if (ms > TARGET_MS) pace = Math.max(1, pace >> 1);
    else if (2 * ms <= TARGET_MS) pace = Math.min(2 * pace, stepper.maxRepeats);
  }

  /** Hands out what a start drew, [count][outs]. */
  function deliver(picks: DataView, count: number): void {
    for (let repeat = 0; repeat < count; repeat++) {
      for (let i = 0; i < running.length; i++) {
        const entry = running[i];
        if (entry.out < 0 || entry.ended) continue;
        readPick(picks, (repeat * outs + entry.out) * PICK_BYTES, pick);
        if (pick.id < 0) {
          const at = `position ${entry.length - 1}`;
          end(entry, new Error(`${at}: no logit is a number; the model's weights or the prompt are broken`));
          continue;
        }
        entry.times.lastToken = performance.now();
        if (entry.generated === 0) entry.times.firstToken = entry.times.lastToken;
        entry.computed = entry.length;
        entry.tokens[entry.length++] = pick.id;
        entry.generated++;
        if (entry.request.onToken(pick) || entry.length === entry.tokens.length) end(entry);
      }
    }
  }

  /** Begins the next batch, whose end comes back to `onDone`. Nothing is under way. */
  function step(): void {
    try {
      if (failure !== undefined) throw failure;
      compose();
      if (rows > 0) {
        begin();
        return;
      }
    } catch (cause) {
      failure = undefined;
      if (isLost(cause)) {
        if (recover !== undefined && closed === undefined) {
          replace(recover(cause));
          return;
        }
        closed ??= cause;
      }
      failAll(cause);
    }
    rest();
  }

  function rest(): void {
    stepping = false;
    onIdle();
  }

  function failAll(cause: unknown): void {
    for (const entry of [...running, ...waiting]) end(entry, cause);
    admit();
  }

  /** Waits for another device; what ran begins there before all that waited, from its tokens. */
  function replace(coming: Promise<Device<T>>): void {
    for (const entry of running) displace(entry);
    waiting.unshift(...running.splice(0));
    coming.then(
      (next) => {
        ({ stepper, kv } = next);
        step();
      },
      (cause) => {
        closed ??= cause instanceof Error ? cause : new Error(String(cause));
        failure = closed;
        step();
      },
    );
  }

  const start = () => {
    if (stepping) return;
    stepping = true;
    pace = 1;
    step();
  };

  return {
    get burst() {
      return stepper.maxRepeats === 1 ? 1 : 2 * stepper.maxRepeats;
    },
    turn,
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
          disturbed = true;
          start();
        },
        wake() {
          if (entry.out < 0) disturbed = true;
          start();
        },
      };
      waiting.push(entry);
      disturbed = true;
      start();
      return entry;
    },
    lose(error) {
      failure ??= error;
      start();
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

/** By name: the plugin of a backend may have another copy of this package. */
export function isLost(error: unknown): error is BackendLostError {
  return error instanceof Error && error.name === BackendLostError.name;
}
