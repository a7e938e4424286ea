// The page's side: a Model whose work is done in a worker.
import { type Completion, collect, type GenerateOptions, type Token } from '../generate.ts';
import type { CompleteOptions, LoadModelOptions, Model, ModelInfo, ModelInput, Prompt } from '../load_model.ts';
import { type Answer, errorOf, type Method, type Question, UNREAD } from './protocol.ts';

/** What the other end tells: its answers, and that it is gone. */
export interface Events {
  onAnswer(answer: Answer): void;
  onDeath(error: Error): void;
}

/** A worker with `serve` in it. */
export interface Connection {
  post(question: Question, transfer: Transferable[]): void;
  /** Ends the worker, whatever it does. */
  end(): void;
}

/** Who waits for an answer. */
interface Asker {
  /** Made where it was asked: errors tell. */
  readonly here: Error;
  onToken?(token: Token): void;
  onProgress?: ((progress: never) => void) | undefined;
  onDone(value: unknown): void;
  onFailed(error: unknown): void;
}

interface CommonOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: never) => void;
}

/**
 * Loads a model in the worker that `connect` starts, and that ends with the model.
 * @throws what loadModel throws, and an Error where the worker cannot start or ends by itself
 * @throws RangeError for an option that cannot be copied to a worker
 */
export async function remoteModel(
  connect: (events: Events) => Connection,
  input: ModelInput,
  options: LoadModelOptions,
): Promise<Model> {
  const askers = new Map<number, Asker>();
  let asked = 0;
  /** Why there is nobody to ask. */
  let gone: Error | undefined;
  let info: ModelInfo | undefined;

  const connection = connect({
    onAnswer(answer) {
      if ('info' in answer) info = answer.info ?? info;
      const asker = askers.get(answer.id);
      if (asker === undefined) return; // nobody waits for it any more
      if (answer.kind === 'token') asker.onToken?.(answer.token);
      else if (answer.kind === 'progress') report(answer.id, asker, answer.progress);
      else {
        askers.delete(answer.id);
        if (answer.kind === 'done') asker.onDone(answer.value);
        else asker.onFailed(errorOf(answer.error, asker.here));
      }
    },
    onDeath: leave,
  });

  function report(id: number, asker: Asker, progress: unknown): void {
    try {
      asker.onProgress?.(progress as never);
    } catch (error) {
      end(id);
      asker.onFailed(error);
    }
  }

  function leave(why: Error): void {
    gone ??= why;
    connection.end();
    for (const asker of askers.values()) asker.onFailed(gone);
    askers.clear();
  }

  function live(): void {
    if (gone !== undefined) throw gone;
  }

  /** @returns the question's id */
  function ask(
    method: Method,
    subject: unknown,
    options: CommonOptions,
    asker: Asker,
    memory: Transferable[] = [],
  ): number {
    const id = asked++;
    const { signal: _, onProgress, ...rest } = options;
    try {
      connection.post({ kind: 'ask', id, method, subject, options: rest, progress: onProgress !== undefined }, memory);
    } catch (cause) {
      const [name = `what ${method} was given`] = Object.entries(rest).find(([, value]) => !isCloneable(value)) ?? [];
      throw new RangeError(`${name}: cannot be copied to the worker that runs the model: ${cause}`, { cause });
    }
    askers.set(id, asker);
    return id;
  }

  /** Takes a question back that was not answered yet. */
  function end(id: number): void {
    if (askers.delete(id)) connection.post({ kind: 'end', id }, []);
  }

  function answerOf(
    method: Method,
    subject: unknown,
    options: CommonOptions,
    here: Error,
    memory?: Transferable[],
  ): Promise<unknown> {
    const { signal, onProgress } = options;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const onAbort = () => {
        end(id);
        reject(signal?.reason);
      };
      const settled = () => signal?.removeEventListener('abort', onAbort);
      const asker: Asker = {
        here,
        onProgress,
        onDone(value) {
          settled();
          resolve(value);
        },
        onFailed(error) {
          settled();
          reject(error);
        },
      };
      const id = ask(method, subject, options, asker, memory);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  async function* generate(
    prompt: Prompt,
    options: GenerateOptions,
    here: Error,
  ): AsyncGenerator<Token, Completion, undefined> {
    const { signal } = options;
    live();
    signal?.throwIfAborted();
    const unread: Token[] = [];
    let notify = () => {};
    let completion: Completion | undefined;
    let failure: unknown;
    const id = ask('generate', prompt, options, {
      here,
      onToken(token) {
        unread.push(token);
        notify();
      },
      onDone(value) {
        completion = value as Completion;
        notify();
      },
      onFailed(error) {
        failure = error;
        notify();
      },
    });
    const onAbort = () => notify();
    signal?.addEventListener('abort', onAbort, { once: true });
    let taken = 0;
    try {
      while (true) {
        signal?.throwIfAborted();
        const token = unread.shift();
        if (token !== undefined) {
          if (++taken === UNREAD / 2) {
            connection.post({ kind: 'more', id, count: taken }, []);
            taken = 0;
          }
          yield token;
        } else if (completion !== undefined) return completion;
        else if (failure !== undefined) throw failure;
        else {
          await new Promise<void>((resolve) => {
            notify = resolve;
          });
        }
      }
    } finally {
      signal?.removeEventListener('abort', onAbort);
      end(id);
    }
  }

  /** A call of what has one answer. */
  const calls =
    <R>(method: Method) =>
    async (subject: unknown, callOptions: object = {}): Promise<R> => {
      live();
      return (await answerOf(method, subject, callOptions, new Error())) as R;
    };
  const complete = calls<Completion>('complete');

  const { worker: _, ...loadOptions } = options;
  const [subject, memory] = copyOf(input);
  try {
    await answerOf('load', subject, loadOptions, new Error(), memory);
  } catch (error) {
    connection.end();
    throw error;
  }

  let disposed: Promise<void> | undefined;
  const model: Model = {
    get info() {
      return info as ModelInfo;
    },
    generate(prompt, generateOptions = {}) {
      live();
      return generate(prompt, generateOptions, new Error());
    },
    // Without a listener no token needs to come one by one.
    complete: (prompt, { onToken, ...rest }: CompleteOptions = {}) =>
      onToken === undefined ? complete(prompt, rest) : collect(model.generate(prompt, rest), onToken),
    tokenize: calls('tokenize'),
    detokenize: calls('detokenize'),
    logits: calls('logits'),
    embed: calls('embed') as Model['embed'],
    perplexity: calls('perplexity'),
    activations: calls('activations'),
    dispose() {
      disposed ??= (async () => {
        if (gone !== undefined) return; // the worker died
        gone = new Error('the model was disposed');
        await answerOf('dispose', undefined, {}, gone).finally(() => leave(gone as Error));
      })();
      return disposed;
    },
    [Symbol.asyncDispose]: () => model.dispose(),
  };
  return model;
}

/** What is posted for a file, and the memory handed over: bytes are copied, as the caller keeps its own. */
function copyOf(input: ModelInput): [subject: unknown, memory: Transferable[]] {
  if (input instanceof URL) return [input.href, []];
  if (typeof input === 'string' || input instanceof Blob) return [input, []];
  // Of a view only its own part.
  const bytes = new Uint8Array(ArrayBuffer.isView(input) ? input : new Uint8Array(input));
  return [bytes, [bytes.buffer]];
}

function isCloneable(value: unknown): boolean {
  try {
    structuredClone(value);
    return true;
  } catch {
    return false;
  }
}
