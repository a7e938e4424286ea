import { instantiateSync } from '@assemblyscript/loader';

/** What assembly/index.ts exports. */
export interface Kernels {
  fillConstants(): void;
  preparedBytes(dim: number, weightType: number): number;
  attentionScratchBytes(headDim: number): number;
  sampleScratchBytes(vocab: number): number;
  runProgram(list: number, index: number, threads: number): void;
  serve(index: number, last: number): number;
  start(list: number, threads: number): void;
  stop(): void;
  sample(logits: number, vocab: number, params: number, pick: number, scratch: number): void;
  readonly [constant: Uppercase<string>]: WebAssembly.Global;
}

/** An instance of a tier's module over a memory; every thread has its own. */
export function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): Kernels {
  const abort = (_message: number, _file: number, line: number, column: number) => {
    throw new Error(`assembly aborted at line ${line}, column ${column}`);
  };
  return instantiateSync(module, { env: { memory, abort } }).exports as unknown as Kernels;
}
