import { fileURLToPath } from 'node:url';
import { demoModel, type LoadModelOptions, loadModel, type Model } from '../index.ts';
import { progressBar } from './bar.ts';
import { bytes, duration, quantity } from './format.ts';
import { flagged } from './options.ts';
import { catchInterrupt, INTERRUPTED, printable, say, styled } from './terminal.ts';

/** For messages: the last part of a path or address. */
export function modelName(input: string | undefined): string {
  return input === undefined ? 'the demo model' : (/([^\\/]+)[\\/]*$/.exec(input.replace(/[?#].*/, ''))?.[1] ?? input);
}

/** The path or address as it was given. */
export function modelPath(input: string | undefined): string {
  return input ?? fileURLToPath(demoModel);
}

/** Loads a model, or the one that comes with the package, with a progress bar where there is time to see one. */
export async function load(input: string | undefined, options: LoadModelOptions): Promise<Model> {
  const bar = progressBar(printable(modelName(input)));
  try {
    const model = await loadModel(input ?? demoModel, { ...options, onProgress: bar.show });
    bar.end();
    announce(model, bar.elapsed());
    return model;
  } catch (error) {
    if (options.signal?.aborted) bar.interrupted();
    throw error;
  } finally {
    bar.end();
  }
}

/** What `work` makes of a loaded model, which is disposed of in the end; the exit code of an interrupt where there was one. */
export async function withModel(
  input: string | undefined,
  options: LoadModelOptions,
  work: (model: Model, signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const interrupt = catchInterrupt();
  try {
    const model = await load(input, { ...options, signal: interrupt.signal });
    const sayNews = newsOf(model);
    try {
      return await work(model, interrupt.signal);
    } finally {
      sayNews();
      await model.dispose();
    }
  } catch (error) {
    if (interrupt.signal.aborted) return INTERRUPTED;
    throw error;
  } finally {
    interrupt.release();
  }
}

function announce({ info }: Model, ms: number): void {
  const size = `${quantity(info.parameters)} parameters, context ${info.contextSize}`;
  const memory = `${bytes(info.memoryBytes)} of memory, loaded in ${duration(ms)}`;
  const { file, memory: type, tiles } = info.weights;
  const weights = `${file}${type === file.toLowerCase() ? '' : ` as ${type.toUpperCase()}`}`;
  const layout = tiles === undefined ? weights : `${weights}, tiles: ${tiles}`;
  say(styled('dim', `${printable(info.name)}: ${size}; ${info.backend}; ${layout}; ${memory}`));
  sayWarnings(info.warnings);
}

/** What tells the warnings again where they are others: the CPU took over. */
export function newsOf(model: Model): () => void {
  let told = model.info.warnings;
  return () => {
    if (model.info.warnings === told) return;
    told = model.info.warnings;
    sayWarnings(told);
  };
}

function sayWarnings(warnings: readonly string[]): void {
  for (const warning of warnings) say(styled('yellow', `note: ${printable(flagged(warning))}`));
}
