import type { TypedValue } from '../gguf/writer.ts';
import type { InputTensor } from './input.ts';

/** What a file will hold, before it is decided how. */
export interface Plan {
  /** In the order of the file. */
  readonly metadata: Map<string, TypedValue>;
  readonly tensors: readonly InputTensor[];
  /** What a person should know. */
  readonly notes: readonly string[];
  close(): Promise<void>;
}
