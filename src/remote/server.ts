// The worker's side: the model that a page asks for, and its answers.
import type { GenerateOptions, Token } from '../generate.ts';
import type { DownloadProgress } from '../hub/progress.ts';
import { loadModel, type Model, type ModelInfo, type ModelInput, type Prompt } from '../load_model.ts';
import type { LoadProgress } from '../model/weights.ts';
import { type Answer, buffersOf, plainError, type Question, UNREAD } from './protocol.ts';

export { estimate } from '../estimate.ts';
export { plainError };

/** A worker's own scope, or a MessagePort. */
export interface Port {
  postMessage(message: Answer, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<Question>) => void) | null;
}

type Ask = Extract<Question, { kind: 'ask' }>;

/** A question under way. */
interface Work {
  readonly ending: AbortController;
  /** Tokens that the reader has room for, and what waits for more room. */
  room: number;
  wake(): void;
}

/** Least time between two messages on loading; a small model has dozens of tensors a millisecond. */
const PROGRESS_MS = 30;

/** Loads one model for who is at the other end of `port`, and does what is asked of it. */
export function serve(port: Port): void {
  const working = new Map<number, Work>();
  let model: Model | undefined;
  let told: ModelInfo | undefined;

  function news(): ModelInfo | undefined {
    const info = model?.info;
    if (info === told) return undefined;
    told = info;
    return info;
  }

  async function load({ id, subject, options, progress }: Ask, signal: AbortSignal): Promise<void> {
    let last = 0;
    function onProgress(progress: LoadProgress | DownloadProgress): void {
      const now = performance.now();
      if (now - last < PROGRESS_MS && progress.loadedBytes < progress.totalBytes) return;
      last = now;
      port.postMessage({ kind: 'progress', id, progress }, []);
    }
    model = await loadModel(subject as ModelInput, { ...options, signal, ...(progress && { onProgress }) });
  }

  async function generate(tokens: AsyncGenerator<Token, unknown, undefined>, id: number, work: Work): Promise<unknown> {
    const { signal } = work.ending;
    while (true) {
      while (work.room === 0 && !signal.aborted) {
        await new Promise<void>((resolve) => {
          work.wake = resolve;
        });
      }
      // Of an aborted one it throws, having freed its sequence.
      const next = await tokens.next();
      if (next.done) return next.value;
      work.room--;
      port.postMessage({ kind: 'token', id, token: next.value }, []);
    }
  }

  async function perform(ask: Ask, work: Work): Promise<unknown> {
    const { id, method, subject, options, progress } = ask;
    const { signal } = work.ending;
    if (method === 'load') return load(ask, signal);
    if (model === undefined) throw new Error(`${method}: no model was loaded`);
    if (method === 'generate') {
      const tokens = model.generate(subject as Prompt, { ...(options as GenerateOptions), signal });
      return generate(tokens, id, work);
    }
    const onProgress = (progress: unknown) => port.postMessage({ kind: 'progress', id, progress }, []);
    const act = model[method] as (subject: unknown, options: object) => Promise<unknown>;
    return act(subject, { ...options, signal, ...(progress && { onProgress }) });
  }

  async function answer(ask: Ask): Promise<void> {
    const { id } = ask;
    const work: Work = { ending: new AbortController(), room: UNREAD, wake() {} };
    working.set(id, work);
    try {
      const value = await perform(ask, work);
      port.postMessage({ kind: 'done', id, value, info: news() }, buffersOf(value));
    } catch (error) {
      port.postMessage({ kind: 'failed', id, error: plainError(error), info: news() }, []);
    }
    working.delete(id);
  }

  port.onmessage = ({ data }) => {
    if (data.kind === 'ask') {
      answer(data);
      return;
    }
    // It may have ended meanwhile.
    const work = working.get(data.id);
    if (work === undefined) return;
    if (data.kind === 'more') work.room += data.count;
    else work.ending.abort();
    work.wake();
  };
}
