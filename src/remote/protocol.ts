// What a page and the worker that runs its model tell each other. Every question has an id that its answers bear.
import { BackendLostError } from '../backend/backend.ts';
import type { Token } from '../generate.ts';
import { GgufError } from '../gguf/error.ts';
import { HubError, type HubErrorCode } from '../hub/error.ts';
import type { Model, ModelInfo } from '../load_model.ts';

/** What a question asks for: a method of the model, or the model. */
export type Method = 'load' | 'generate' | Exclude<keyof Model, 'info' | symbol>;

export type Question =
  /** `subject` is the method's first argument. `progress`: whether onProgress is to be told. */
  | { kind: 'ask'; id: number; method: Method; subject: unknown; options: object; progress: boolean }
  /** The reader of `generate` has room for so many tokens more. */
  | { kind: 'more'; id: number; count: number }
  /** Nobody waits for the answer any more. */
  | { kind: 'end'; id: number };

/** `info` comes with what ends a question, when it has changed. */
export type Answer =
  | { kind: 'token'; id: number; token: Token }
  | { kind: 'progress'; id: number; progress: unknown }
  | { kind: 'done'; id: number; value: unknown; info: ModelInfo | undefined }
  | { kind: 'failed'; id: number; error: PlainError; info: ModelInfo | undefined };

/** Tokens that may lie unread in the page: with those that the engine keeps ready, enough for a reader that lags for a step or two (not tuned). */
export const UNREAD = 8;

/** An error as structured clone takes it: that keeps neither classes of ours nor what they add. */
export interface PlainError {
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  readonly isDom: boolean;
  /** Of a GgufError. */
  readonly offset: number | undefined;
  readonly hub: { readonly code: HubErrorCode; readonly status?: number; readonly retryAfterMs?: number } | undefined;
  readonly cause: PlainError | undefined;
}

export function plainError(error: unknown): PlainError {
  if (!(error instanceof Error)) {
    return {
      ...{ name: 'Error', message: String(error), stack: undefined },
      ...{ isDom: false, offset: undefined, hub: undefined, cause: undefined },
    };
  }
  const { name, message, stack, cause } = error;
  return {
    ...{ name, message, stack, isDom: error instanceof DOMException },
    offset: error instanceof GgufError ? error.offset : undefined,
    hub:
      error instanceof HubError
        ? { code: error.code, status: error.status, retryAfterMs: error.retryAfterMs }
        : undefined,
    cause: cause === undefined ? undefined : plainError(cause),
  };
}

const STANDARD = [RangeError, TypeError, SyntaxError, Error] as const;

/**
 * The error again, of its class.
 * @param asked made where the worker was asked: its frames come before those of the worker, which is one minified line
 */
export function errorOf(plain: PlainError, asked?: Error): Error {
  const { name, message, stack, isDom, offset, hub } = plain;
  const options = plain.cause === undefined ? undefined : { cause: errorOf(plain.cause) };
  let error: Error;
  if (isDom) error = new DOMException(message, name);
  else if (name === 'GgufError') error = new GgufError(message, offset, options);
  else if (hub !== undefined) error = new HubError(hub.code, message, { ...hub, ...options });
  else if (name === 'BackendLostError') error = new BackendLostError(message, options);
  else {
    const Known = STANDARD.find((known) => known.name === name);
    error = new (Known ?? Error)(message, options);
    if (Known === undefined) error.name = name;
  }
  const frames = asked?.stack?.slice(asked.stack.indexOf('\n') + 1);
  if (frames !== undefined && !isDom) {
    const head = `${name}: ${message}\n`;
    error.stack = `${head}${frames}\n  in the worker:\n${stack?.startsWith(head) ? stack.slice(head.length) : stack}`;
  }
  return error;
}

/** The memory of a result's arrays, which can be handed over as nobody here keeps them. */
export function buffersOf(value: unknown): ArrayBuffer[] {
  if (value instanceof Float32Array) return value.buffer instanceof ArrayBuffer ? [value.buffer] : [];
  if (value instanceof Map) return [...value.values()].flatMap(buffersOf);
  return Array.isArray(value) && value[0] instanceof Float32Array ? value.flatMap(buffersOf) : [];
}
