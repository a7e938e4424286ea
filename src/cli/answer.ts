import type { Completion, GenerateOptions, Model, Prompt } from '../index.ts';
import { rate } from './format.ts';
import { printable, readerGone, write } from './terminal.ts';

export interface Answer {
  readonly text: string;
  readonly tokens: number;
  readonly perSecond: number;
  /** Absent when it was interrupted, or nobody read on. */
  readonly completion: Completion | undefined;
}

/** Writes an answer to stdout (or, with `silent`, only collects it) until it ends or `signal` ends it. */
export async function answer(
  model: Model,
  prompt: Prompt,
  options: GenerateOptions,
  signal: AbortSignal,
  silent = false,
): Promise<Answer> {
  const either = AbortSignal.any([signal, readerGone]);
  const parts: string[] = [];
  let tokens = 0;
  let first = 0;
  let last = 0;
  let completion: Completion | undefined;
  const generation = model.generate(prompt, { ...options, signal: either });
  try {
    for (let next = await generation.next(); ; next = await generation.next()) {
      if (next.done) {
        completion = next.value;
        break;
      }
      last = performance.now();
      if (tokens++ === 0) first = last;
      parts.push(next.value.text);
      if (!silent) await write(process.stdout.isTTY ? printable(next.value.text) : next.value.text);
    }
  } catch (error) {
    if (!either.aborted) throw error;
  }
  const text = completion?.text ?? parts.join('');
  const perSecond =
    completion?.timings.generatedPerSecond ?? (last > first ? (1000 * (tokens - 1)) / (last - first) : 0);
  if (!silent && !text.endsWith('\n')) await write('\n');
  return { text, tokens, perSecond, completion };
}

/** One line about an answer. */
export function summary(model: Model, { tokens, perSecond, completion }: Answer): string {
  if (completion === undefined) return `interrupted after ${tokens} tokens, ${rate(perSecond)}`;
  const { timings, finishReason, seed } = completion;
  const full = timings.promptTokens + timings.generatedTokens > model.info.contextSize;
  const end = finishReason === 'stop' ? 'end of text' : full ? 'context full' : 'length reached';
  const prompt = `prompt ${timings.promptTokens} tokens, ${rate(timings.promptPerSecond)}`;
  return `${prompt}; text ${timings.generatedTokens} tokens, ${rate(perSecond)}; seed ${seed}; ${end}`;
}
