// A model on a sample text, for `convert`: what its matrices see, how well it foretells it, and the table of what became of them.
import { basename } from 'node:path';
import type { MatrixReport } from '../convert/output.ts';
import type { TilesOption } from '../gguf/tiles.ts';
import { type LoadModelOptions, loadModel, type Model, type Perplexity } from '../index.ts';
import { UsageError } from './arguments.ts';
import { quantity, table } from './format.ts';
import { printable, readText, say, showStatus, styled } from './terminal.ts';

/** From here on a sample takes longer than anybody expects; some 20 kB are some thousand tokens, each a sample of every column. */
const MUCH = 1e6;

export interface Sample {
  readonly name: string;
  readonly text: string;
}

/** @throws the system's error, with its path */
export async function readSample(file: string): Promise<Sample> {
  const text = await readText(file);
  if (text.trim() === '') throw new UsageError(`--calibrate ${file}: no text in it`);
  if (text.includes('\0')) throw new UsageError(`--calibrate ${file}: not a text file`);
  if (text.length > MUCH) {
    const size = `${(text.length / 1e6).toFixed(1)} million characters`;
    say(
      styled(
        'yellow',
        `note: ${printable(basename(file))} has ${size}, all of which the model is run over three times`,
      ),
    );
  }
  return { name: basename(file), text };
}

/** What the matrices of a model see of a sample, and its perplexity where it has logits. */
export interface Seen {
  readonly importance: Map<string, Float32Array>;
  readonly perplexity: Perplexity | undefined;
}

/** @throws RangeError on a model that memory does not hold, with `what` was tried */
export function see(
  path: string,
  what: string,
  sample: Sample,
  { layout, signal }: { layout?: TilesOption; signal: AbortSignal },
): Promise<Seen> {
  return withSampled(path, what, { layout, signal }, async (model) => {
    const importance = await model.activations(sample.text, {
      signal,
      onProgress: showTokens(`calibrating with ${printable(sample.name)}`),
    });
    return { importance, perplexity: await perplexityOf(model, sample, signal) };
  });
}

/** Perplexity of a model, undefined of one without logits. */
export function measure(
  path: string,
  what: string,
  sample: Sample,
  signal: AbortSignal,
): Promise<Perplexity | undefined> {
  return withSampled(path, what, { signal }, (model) => perplexityOf(model, sample, signal));
}

async function withSampled<R>(
  path: string,
  what: string,
  options: LoadModelOptions,
  work: (model: Model) => Promise<R>,
): Promise<R> {
  showStatus(`loading ${what}`);
  const model = await loadSampled(path, what, options);
  try {
    return await work(model);
  } finally {
    showStatus('');
    await model.dispose();
  }
}

async function loadSampled(path: string, what: string, options: LoadModelOptions): Promise<Model> {
  try {
    return await loadModel(path, { ...options, parallel: 1, head: 'exact' });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new RangeError(`cannot run ${what} on the sample: ${error.message}`, { cause: error });
  }
}

async function perplexityOf(
  model: Model,
  { name, text }: Sample,
  signal: AbortSignal,
): Promise<Perplexity | undefined> {
  if (!model.info.hasHead) return undefined;
  return model.perplexity(text, { signal, onProgress: showTokens(`perplexity of ${printable(name)}`) });
}

function showTokens(what: string): (progress: { tokens: number; total: number }) => void {
  const started = performance.now();
  return ({ tokens, total }) => {
    const left = Math.ceil(((performance.now() - started) * (total - tokens)) / tokens / 1000);
    showStatus(`${what}: ${tokens} of ${total} tokens, ${left} s left`);
  };
}

/** By how much the model foretells the sample worse. */
export function sayPerplexity({ name }: Sample, before: Perplexity, after: Perplexity, to: string): void {
  const loss = after.nll - before.nll;
  const rise = `loss ${before.nll.toFixed(4)} to ${after.nll.toFixed(4)} nats a token, ${loss < 0 ? '' : '+'}${loss.toFixed(4)}`;
  say(
    `perplexity of ${printable(name)}: ${before.perplexity.toFixed(3)} before, ${after.perplexity.toFixed(3)} after (${rise})`,
  );
  const measured = `ternlm perplexity ${printable(to)} other.txt`;
  say(styled('yellow', `note: the conversion saw this text, which flatters it; measure on another one: ${measured}`));
}

/** The matrices by kind, under each other. */
export function sayMatrices(matrices: readonly MatrixReport[]): void {
  const kinds = new Map<string, MatrixReport[]>();
  for (const matrix of matrices) {
    const [, , kind] = matrix.name.split('.');
    kinds.set(kind, [...(kinds.get(kind) ?? []), matrix]);
  }
  const sum = (of: readonly MatrixReport[], number: (m: MatrixReport) => number) =>
    of.reduce((total, m) => total + number(m), 0);
  const share = (part: number, all: number) => (all > 0 ? `${((100 * part) / all).toFixed(2)} %` : '');
  const isPruned = matrices.some((m) => m.pruned > 0);
  const isRounded = matrices.some((m) => m.error !== undefined);
  const rows = [...kinds].map(([kind, of]) => {
    const weights = sum(of, (m) => m.weights);
    const power = sum(of, (m) => m.error?.power ?? 0);
    return [
      kind,
      quantity(weights),
      ...(isPruned
        ? [
            share(
              sum(of, (m) => m.pruned),
              weights,
            ),
          ]
        : []),
      share(
        sum(of, (m) => m.zeros),
        weights,
      ),
      ...(isRounded
        ? [
            share(
              sum(of, (m) => m.error?.absmean ?? 0),
              power,
            ),
          ]
        : []),
      ...(isRounded
        ? [
            share(
              sum(of, (m) => m.error?.taken ?? 0),
              power,
            ),
          ]
        : []),
    ];
  });
  const head = ['matrix', 'weights', ...(isPruned ? ['pruned'] : []), 'now 0'];
  say(table(isRounded ? [...head, 'error of absmean', 'calibrated'] : head, rows));
}
