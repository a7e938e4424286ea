import { instantiateSync } from '@assemblyscript/loader';

/** What assembly/index.ts exports. */
export interface Kernels {
  enterThread(index: number): void;
  /** One lane of the relaxed dot_add of operands beyond its range; 0 in a module without. */
  dotProbe(): number;
  preparedBytes(dim: number, weightType: number): number;
  attentionScratchBytes(headDim: number): number;
  linearScratchBytes(cols: number, batch: number): number;
  sampleScratchBytes(vocab: number): number;
  screenBytes(rows: number, cols: number): number;
  runProgram(list: number, index: number, threads: number): void;
  serve(index: number, last: number): number;
  start(list: number, threads: number): void;
  stop(): void;
  sample(logits: number, vocab: number, params: number, pick: number, scratch: number): void;
  readonly [constant: Uppercase<string>]: WebAssembly.Global;
}

/** An instance of a module over a memory, as thread `index`; every thread has its own. */
export function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, index: number): Kernels {
  const abort = (_message: number, _file: number, line: number, column: number) => {
    throw new Error(`assembly aborted at line ${line}, column ${column}`);
  };
  // The instance's own exports: those of the loader make an array of arguments a call.
  const { instance } = instantiateSync(module, { env: { memory, abort } });
  const kernels = instance.exports as unknown as Kernels;
  kernels.enterThread(index);
  return kernels;
}
