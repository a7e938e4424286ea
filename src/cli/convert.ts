import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type ConvertOptions, checkOptions, convert as convertModel } from '../convert/convert.ts';
import type { ConvertProgress, Sink, Written } from '../convert/output.ts';
import { openSource } from '../gguf/source.ts';
import { PRESETS } from '../gguf/tiles.ts';
import { openModel } from '../hub/open.ts';
import type { Folder } from '../safetensors/checkpoint.ts';
import { type Arguments, UsageError, type Verb } from './arguments.ts';
import { bytes, duration } from './format.ts';
import { HELP_FLAG } from './options.ts';
import { measure, readSample, type Sample, type Seen, sayMatrices, sayPerplexity, see } from './sample.ts';
import { catchInterrupt, INTERRUPTED, printable, say, showStatus, styled } from './terminal.ts';

const TYPES = ['i2_s', 'tl1', 'tl2', 'tq1_0', 'tq2_0', 'f16'];
const EMBEDDINGS = ['f16', 'q8_0', 'q6_k'];
/** As shells have it: 128 + SIGTERM. */
const TERMINATED = 143;

export const convert: Verb = {
  name: 'convert',
  positionals: '<in> <out.gguf>',
  maxPositionals: 2,
  summary: 'make a GGUF file of ternary matrices',
  about: `Makes a GGUF file of ternary matrices from another GGUF file, or from the folder
of a Hugging Face checkpoint (config.json, safetensors, tokenizer). Weights that
are not ternary are refused, unless the model was trained to have them rounded
or --quantize asks for it. The file appears under its name when it is complete.

With --calibrate the model runs over a sample text first, some 20 kB of the kind
it will see. Rounding and pruning then change as little as they can of what its
matrices give, and its perplexity on the sample is told, before and after. That
text flatters: measure on another one with ternlm perplexity.`,
  groups: [
    {
      title: 'Options',
      flags: [
        {
          name: 'type',
          value: 'TYPE',
          kind: TYPES,
          help: 'matrices: i2_s, tl1, tl2 (bitnet.cpp), tq1_0, tq2_0 (llama.cpp) or f16; ternlm reads all (default: i2_s)',
        },
        {
          name: 'embedding',
          value: 'TYPE',
          kind: EMBEDDINGS,
          help: 'embedding and output head: f16, q8_0 or q6_k (default: as in a GGUF file, else f16)',
        },
        {
          name: 'layout',
          value: 'PRESET',
          kind: Object.keys(PRESETS),
          help: `tiles of TL1 and TL2: ${Object.keys(PRESETS).join(', ')} (default: by shape)`,
        },
        { name: 'quantize', help: 'round weights that are not ternary: scale mean |w|, w to the nearest of -1, 0, 1' },
        {
          name: 'block-size',
          value: 'N',
          kind: 'integer',
          help: 'with --quantize to tq1_0 or tq2_0: weights that share a scale, a multiple of 256 (default: a tensor)',
        },
        {
          name: 'calibrate',
          value: 'FILE',
          help: 'with --quantize or --prune: a sample text, by which errors are weighed with what each weight sees',
        },
        {
          name: 'prune',
          value: 'RATIO',
          kind: 'number',
          help: 'make the weights of least effect 0 until this share of each matrix is, 0 to 1; the file gets no smaller',
        },
        { name: 'structured', help: 'with --prune: this share of the neurons of the feed-forward layers instead' },
        { name: 'force', help: 'replace the file if there is one' },
        HELP_FLAG,
      ],
    },
  ],
  examples: [
    'ternlm convert model.gguf model-tq2_0.gguf --type tq2_0',
    'ternlm convert checkpoint/ model.gguf --embedding q6_k',
    'ternlm convert llama/ llama.gguf --quantize --type tq2_0 --block-size 256',
    'ternlm convert llama/ llama.gguf --quantize --calibrate sample.txt',
  ],

  async run(given) {
    const [from, to] = given.positionals;
    if (to === undefined) throw new UsageError('convert: expected a model and the file to make of it');
    for (const path of [from, to]) if (path === '-') throw new UsageError('convert: - is no file here');
    const options = optionsOf(given);
    await checkOutput(to, from, given.has('force'));
    const calibration = given.text('calibrate');
    const sample = calibration === undefined ? undefined : await readSample(calibration);
    const interrupt = catchInterrupt();
    const terminate = new AbortController();
    const onTerminate = () => terminate.abort();
    process.on('SIGTERM', onTerminate);
    const signal = AbortSignal.any([interrupt.signal, terminate.signal]);
    let input: Input | undefined;
    try {
      input = await inputOf(from, signal);
      await write(input, from, to, { ...options, signal }, sample);
      return 0;
    } catch (error) {
      if (interrupt.signal.aborted) return INTERRUPTED;
      if (terminate.signal.aborted) return TERMINATED;
      throw error;
    } finally {
      await input?.close?.();
      interrupt.release();
      process.off('SIGTERM', onTerminate);
    }
  },
};

type Input = Parameters<typeof convertModel>[0] & { close?(): Promise<void> };

async function inputOf(path: string, signal: AbortSignal): Promise<Input> {
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() === true;
  return isFolder ? folderOf(path, signal) : openModel(path, { signal });
}

/** A directory, of which only the files that are asked for by name are opened. */
function folderOf(path: string, signal: AbortSignal): Folder {
  return {
    name: basename(resolve(path)),
    async open(file) {
      try {
        return await openSource(join(path, file), { signal });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw error;
      }
    },
  };
}

async function checkOutput(to: string, from: string, force: boolean): Promise<void> {
  const there = await stat(to).catch(() => undefined);
  if (there === undefined) {
    const folder = await stat(dirname(to)).catch(() => undefined);
    if (folder?.isDirectory() !== true) throw new UsageError(`${dirname(to)}: no such folder`);
    return;
  }
  const input = await stat(from).catch(() => undefined);
  if (input !== undefined && there.ino === input.ino && there.dev === input.dev) {
    throw new UsageError(`${to}: the input itself, expected another file`);
  }
  if (!there.isFile()) throw new UsageError(`${to}: not a regular file`);
  if (!force) throw new UsageError(`${to}: exists already; --force replaces it`);
}

/** Writes beside the place and moves there when all is well; else nothing is left. */
async function write(
  input: Input,
  from: string,
  to: string,
  options: ConvertOptions & { readonly signal: AbortSignal },
  sample: Sample | undefined,
): Promise<void> {
  const { signal, prune } = options;
  const before = sample && (await seeInput(input, from, to, options, sample));
  await withTemporary(to, async (temporary) => {
    const started = performance.now();
    const { importance } = before ?? {};
    const written = await writeFile(input, temporary, basename(to), { ...options, importance });
    const ms = performance.now() - started;
    const after = sample && before?.perplexity && (await measure(temporary, basename(to), sample, signal));
    signal.throwIfAborted();
    await rename(temporary, to);
    say(`${printable(to)}: ${bytes(written.bytes)} in ${duration(ms)}, ${bytes((1000 * written.readBytes) / ms)}/s`);
    const notes = [...written.notes];
    if (written.matrices.length > 0) sayMatrices(written.matrices);
    else if (sample) notes.push('nothing to calibrate: the matrices are ternary, or were trained to be rounded');
    if (sample && before?.perplexity && after && written.matrices.length > 0)
      sayPerplexity(sample, before.perplexity, after, to);
    else if (prune)
      notes.push('by how much the model got worse was not measured (--calibrate FILE, ternlm perplexity)');
    for (const note of notes) say(styled('yellow', `note: ${printable(note)}`));
  });
}

/** Runs the model as it is over the sample: a GGUF file itself, of a checkpoint a file of all its weights beside the place. */
async function seeInput(
  input: Input,
  from: string,
  to: string,
  { quantize, type, layout, signal }: ConvertOptions & { readonly signal: AbortSignal },
  sample: Sample,
): Promise<Seen> {
  if (!('open' in input)) return see(from, `${input.name} (${bytes(input.size)})`, sample, { layout, signal });
  return withTemporary(to, async (temporary) => {
    // What is not to be rounded is ternary already, or to be F16 in the end.
    const form = quantize ? 'F16' : type;
    const { bytes: size } = await writeFile(input, temporary, `${input.name} as ${form}`, { type: form, signal });
    return see(temporary, `${input.name} as ${form} (${bytes(size)})`, sample, { signal });
  });
}

/** Gives a name beside the place; what is there in the end goes away, on a second Ctrl-C too, which ends the process at once. */
async function withTemporary<R>(to: string, work: (path: string) => Promise<R>): Promise<R> {
  const path = join(dirname(to), `.${basename(to)}.${randomBytes(4).toString('hex')}.part`);
  const remove = () => rmSync(path, { force: true });
  process.on('exit', remove);
  try {
    return await work(path);
  } finally {
    showStatus('');
    remove();
    process.off('exit', remove);
  }
}

async function writeFile(
  input: Input,
  path: string,
  name: string,
  options: ConvertOptions,
): Promise<Written & { readonly readBytes: number }> {
  const file = await open(path, 'wx');
  try {
    const progress = showProgress(name, performance.now());
    const written = await convertModel(input, sinkOf(file), { ...options, onProgress: progress.onProgress });
    await file.sync();
    return { ...written, readBytes: progress.readBytes() };
  } finally {
    await file.close();
  }
}

function optionsOf(given: Arguments): ConvertOptions {
  const upper = (name: string) => given.text(name)?.toUpperCase();
  const ratio = given.number('prune');
  if (given.has('structured') && ratio === undefined) throw new UsageError('--structured: expected --prune with it');
  if (given.has('calibrate') && !given.has('quantize') && ratio === undefined) {
    throw new UsageError('--calibrate: expected --quantize or --prune with it, which it weighs');
  }
  const options: ConvertOptions = {
    type: (upper('type') ?? 'I2_S') as ConvertOptions['type'],
    embedding: upper('embedding') as ConvertOptions['embedding'],
    layout: given.text('layout'),
    quantize: given.has('quantize'),
    blockSize: given.number('block-size'),
    prune: ratio === undefined ? undefined : { ratio, structured: given.has('structured') },
  };
  checkOptions(options); // before a model is run for it
  return options;
}

function sinkOf(file: FileHandle): Sink {
  return {
    async write(at, data) {
      for (let done = 0; done < data.length; ) {
        done += (await file.write(data, done, data.length - done, at + done)).bytesWritten;
      }
    },
  };
}

interface Shown {
  onProgress(progress: ConvertProgress): void;
  readBytes(): number;
}

function showProgress(name: string, started: number): Shown {
  let last: ConvertProgress | undefined;
  const show = () => {
    if (last === undefined || last.doneBytes === 0) return;
    const { doneBytes, totalBytes, tensor } = last;
    const ms = performance.now() - started;
    const left = Math.ceil((ms * (totalBytes - doneBytes)) / doneBytes / 1000);
    const figures = `${bytes(doneBytes)} of ${bytes(totalBytes)}, ${bytes((1000 * doneBytes) / ms)}/s, ${left} s left`;
    showStatus(`writing ${printable(name)}: ${figures}, ${printable(tensor)}`);
  };
  // The work between two reads is synchronous: a timer alone would come late.
  let shown = started;
  return {
    onProgress(progress) {
      last = progress;
      if (performance.now() - shown < 100) return;
      shown = performance.now();
      show();
    },
    readBytes: () => last?.doneBytes ?? 0,
  };
}
