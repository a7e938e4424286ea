import { statSync } from 'node:fs';
import { type GenerateOptions, resolveOptions } from '../generate.ts';
import { PRESETS } from '../gguf/tiles.ts';
import { parseReference } from '../hub/reference.ts';
import type { LoadModelOptions } from '../index.ts';
import { type Arguments, type FlagGroup, UsageError } from './arguments.ts';
import { BACKEND_FLAG, backendOptions, type GpuBackend } from './backend.ts';

// Flags that several verbs share. Names and defaults are llama.cpp's.

export const MODEL_FLAG: FlagGroup['flags'][number] = {
  name: 'model',
  short: 'm',
  value: 'MODEL',
  help: 'GGUF file, its http(s) address, or org/repo[:file][@revision] of the hub (default: the demo model)',
};

export const LOAD_FLAGS: FlagGroup = {
  title: 'Model',
  flags: [
    MODEL_FLAG,
    BACKEND_FLAG,
    {
      name: 'ctx-size',
      short: 'c',
      value: 'N',
      kind: 'integer',
      help: 'tokens that prompt and answer can have (default: as trained, at most 4096)',
    },
    {
      name: 'threads',
      short: 't',
      value: 'N',
      kind: 'integer',
      help: 'CPU threads (default: as many as there are physical cores, at most 16)',
    },
    {
      name: 'tier',
      value: 'TIER',
      kind: ['auto', 'simd', 'relaxed', 'revec'],
      help: 'WebAssembly kernels: auto, simd, relaxed or revec (default: the fastest that work here)',
    },
    {
      name: 'no-revectorize',
      help: "do not try V8's experimental flag for 256-bit kernels (revec)",
    },
    {
      name: 'head',
      value: 'HOW',
      kind: ['auto', 'exact'],
      help: 'output head: auto screens it with a 7-bit copy, exact reads all of it; same tokens (default: auto)',
    },
    {
      name: 'repack',
      value: 'HOW',
      kind: ['auto', 'none'],
      help: 'weights in TL1, TL2 or TQ1_0: auto puts them in order for quicker layouts, none takes less memory (default: auto)',
    },
    {
      name: 'layout',
      value: 'PRESET',
      kind: Object.keys(PRESETS),
      help: 'whose tiles TL1 and TL2 weights are in, e.g. Llama3-8B (default: what the file says, or the shapes)',
    },
    { name: 'kv', value: 'TYPE', kind: ['f16', 'f32'], help: 'keys and values of the attention (default: f16)' },
  ],
};

export const SAMPLING_FLAGS: FlagGroup = {
  title: 'Sampling',
  flags: [
    { name: 'seed', short: 's', value: 'N', kind: 'integer', help: 'same seed, same text (default: -1, random)' },
    {
      name: 'temp',
      aliases: ['temperature'],
      value: 'X',
      kind: 'number',
      help: 'higher is wilder; 0 always takes the likeliest token (default: 0.8)',
    },
    { name: 'top-k', value: 'N', kind: 'integer', help: 'keep the N likeliest tokens; 0 keeps all (default: 40)' },
    { name: 'top-p', value: 'X', kind: 'number', help: 'keep tokens up to this share in all (default: 0.95)' },
    {
      name: 'min-p',
      value: 'X',
      kind: 'number',
      help: "keep tokens from this share of the best one's (default: 0.05)",
    },
    { name: 'repeat-penalty', value: 'X', kind: 'number', help: 'against repetition; 1 is none (default: 1)' },
    {
      name: 'repeat-last-n',
      value: 'N',
      kind: 'integer',
      help: 'tokens that the penalties see; -1 is all of them (default: 64)',
    },
    { name: 'presence-penalty', value: 'X', kind: 'number', help: 'against tokens that occurred (default: 0)' },
    { name: 'frequency-penalty', value: 'X', kind: 'number', help: 'the same for each time they did (default: 0)' },
  ],
};

export const LENGTH_FLAGS: FlagGroup['flags'] = [
  {
    name: 'n-predict',
    short: 'n',
    aliases: ['max-tokens'],
    value: 'N',
    kind: 'integer',
    help: 'most tokens to write; -1 writes on to the end of the context (default: -1)',
  },
  {
    name: 'stop',
    value: 'TEXT',
    repeatable: true,
    help: 'end before this text; \\n is a line break; can be given several times',
  },
];

export const HELP_FLAG: FlagGroup['flags'][number] = { name: 'help', short: 'h', help: 'show this' };

/** Whether a positional names a model: an existing file, an address, a reference, or a name that ends in .gguf. */
export function namesModel(text: string): boolean {
  if (/^https?:\/\//i.test(text) || /\.gguf$/i.test(text) || parseReference(text) !== undefined) return true;
  return statSync(text, { throwIfNoEntry: false })?.isFile() === true;
}

/** The model of a verb whose only positional it is. */
export function modelOf(given: Arguments): string | undefined {
  const [positional] = given.positionals;
  const flag = given.text('model');
  if (positional !== undefined && flag !== undefined) {
    throw new UsageError(
      `two models given, ${JSON.stringify(positional)} and -m ${JSON.stringify(flag)}; expected one`,
    );
  }
  return flag ?? positional;
}

/** @param gpu of `openGpu` */
export function loadOptions(given: Arguments, gpu: GpuBackend | undefined, threads?: number): LoadModelOptions {
  return {
    ...backendOptions(given, gpu, threads),
    contextSize: given.number('ctx-size'),
    head: given.text('head') as LoadModelOptions['head'],
    repack: given.text('repack') as LoadModelOptions['repack'],
    layout: given.text('layout'),
    kv: given.text('kv') as LoadModelOptions['kv'],
    parallel: 1,
  };
}

/** @throws RangeError naming the option of the library; `flagged` turns it into the flag */
export function generateOptions(given: Arguments): GenerateOptions {
  const most = given.number('n-predict');
  if (most !== undefined && most !== -1 && most < 1) {
    throw new UsageError(`--n-predict: expected a whole number from 1 up, or -1, got ${most}`);
  }
  const options: GenerateOptions = {
    maxTokens: most === -1 ? undefined : most,
    stop: given.texts('stop').map(unescaped),
    seed: given.number('seed'),
    temperature: given.number('temp'),
    topK: given.number('top-k'),
    topP: given.number('top-p'),
    minP: given.number('min-p'),
    repeatPenalty: given.number('repeat-penalty'),
    repeatLastN: given.number('repeat-last-n'),
    presencePenalty: given.number('presence-penalty'),
    frequencyPenalty: given.number('frequency-penalty'),
  };
  resolveOptions(options, Number.MAX_SAFE_INTEGER, new Set()); // a mistake shows before a large model is loaded
  return options;
}

const unescaped = (text: string) =>
  text.replace(/\\([nt\\])/g, (_, letter) => ({ n: '\n', t: '\t', '\\': '\\' })[letter as 'n' | 't' | '\\']);

const FLAG_OF: Readonly<Record<string, string>> = {
  dimensions: '--dimensions',
  pooling: '--pooling',
  contextSize: '--ctx-size',
  maxTokens: '--n-predict',
  temperature: '--temp',
  topK: '--top-k',
  topP: '--top-p',
  minP: '--min-p',
  repeatPenalty: '--repeat-penalty',
  repeatLastN: '--repeat-last-n',
  presencePenalty: '--presence-penalty',
  frequencyPenalty: '--frequency-penalty',
  seed: '--seed',
  stop: '--stop',
  threads: '--threads',
  blockSize: '--block-size',
  prune: '--prune',
};

/** A message of the library with its options called by their flags. */
export function flagged(message: string): string {
  return message
    .replace(/^(\w+)(?=: )/, (name) => FLAG_OF[name] ?? name)
    .replace(/\bcontextSize\b/g, FLAG_OF.contextSize)
    .replace(/\b(head|kv|repack) '(\w+)'/g, '--$1 $2')
    .replace(/\bparallel (?=\d)/g, '--parallel ')
    .replace(/^no kernels run here.*/, '$&; see: ternlm doctor');
}
