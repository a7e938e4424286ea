import { fileURLToPath } from 'node:url';
import { demoModel, type LoadModelOptions, loadModel, type Model } from '../index.ts';
import { bytes, duration, quantity } from './format.ts';
import { flagged } from './options.ts';
import { catchInterrupt, INTERRUPTED, printable, say, showStatus, styled } from './terminal.ts';

/** A load that is over sooner shows no bar. */
const BAR_AFTER_MS = 200;
/** Where nobody watches, a load that is over sooner says nothing, and others speak up this often. */
const LINE_AFTER_MS = 2000;
const LINE_EVERY_MS = 5000;
const MAX_BAR_WIDTH = 24;

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
  const name = printable(modelName(input));
  const started = performance.now();
  const watched = process.stderr.isTTY === true;
  let done = 0;
  let total = 0;
  let nextLine = LINE_AFTER_MS;

  function show(): void {
    const ms = performance.now() - started;
    if (ms < BAR_AFTER_MS) return;
    const speed = `${bytes((1000 * done) / ms)}/s`;
    if (watched) showStatus(total === 0 ? `loading ${name}` : bar(name, done, total, speed, ms));
    else if (ms >= nextLine) {
      const share = total === 0 ? '' : `: ${Math.floor((100 * done) / total)} % of ${bytes(total)}, ${speed}`;
      say(`loading ${name}${share}`);
      nextLine = ms + LINE_EVERY_MS;
    }
  }

  const timer = setInterval(show, 100);
  try {
    const model = await loadModel(input ?? demoModel, {
      ...options,
      onProgress({ loadedBytes, totalBytes }) {
        done = loadedBytes;
        total = totalBytes;
      },
    });
    showStatus('');
    announce(model, performance.now() - started);
    return model;
  } finally {
    clearInterval(timer);
    showStatus('');
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

/** A line as wide as the terminal at most. */
function bar(name: string, done: number, total: number, speed: string, ms: number): string {
  const left = done === 0 ? '' : `, ${Math.ceil((ms * (total - done)) / done / 1000)} s left`;
  const figures = `${bytes(done)} of ${bytes(total)}, ${speed}${left}`;
  const room = (process.stderr.columns || 80) - `loading ${name}  ${figures} `.length;
  const width = Math.max(4, Math.min(MAX_BAR_WIDTH, room));
  const filled = Math.floor((width * done) / total);
  return `loading ${name} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${figures}`;
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
