import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type ConvertOptions, convert as convertModel } from '../convert/convert.ts';
import type { ConvertProgress, Sink } from '../convert/output.ts';
import { openSource } from '../gguf/source.ts';
import { PRESETS } from '../gguf/tiles.ts';
import type { Folder } from '../safetensors/checkpoint.ts';
import { type Arguments, UsageError, type Verb } from './arguments.ts';
import { bytes, duration } from './format.ts';
import { HELP_FLAG } from './options.ts';
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
or --quantize asks for it. The file appears under its name when it is complete.`,
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
        { name: 'force', help: 'replace the file if there is one' },
        HELP_FLAG,
      ],
    },
  ],
  examples: [
    'ternlm convert model.gguf model-tq2_0.gguf --type tq2_0',
    'ternlm convert checkpoint/ model.gguf --embedding q6_k',
    'ternlm convert llama/ llama.gguf --quantize --type tq2_0 --block-size 256',
  ],

  async run(given) {
    const [from, to] = given.positionals;
    if (to === undefined) throw new UsageError('convert: expected a model and the file to make of it');
    for (const path of [from, to]) if (path === '-') throw new UsageError('convert: - is no file here');
    await checkOutput(to, from, given.has('force'));
    const interrupt = catchInterrupt();
    const terminate = new AbortController();
    const onTerminate = () => terminate.abort();
    process.on('SIGTERM', onTerminate);
    const signal = AbortSignal.any([interrupt.signal, terminate.signal]);
    let input: Input | undefined;
    try {
      input = await inputOf(from, signal);
      await write(input, to, given, signal);
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
  const isFolder = !/^https?:/i.test(path) && (await stat(path)).isDirectory();
  return isFolder ? folderOf(path, signal) : openSource(path, { signal });
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
  if (there === undefined) return;
  const input = await stat(from).catch(() => undefined);
  if (input !== undefined && there.ino === input.ino && there.dev === input.dev) {
    throw new UsageError(`${to}: the input itself, expected another file`);
  }
  if (!there.isFile()) throw new UsageError(`${to}: not a regular file`);
  if (!force) throw new UsageError(`${to}: exists already; --force replaces it`);
}

/** Writes beside the place and moves there when all is well; else nothing is left. */
async function write(input: Input, to: string, given: Arguments, signal: AbortSignal): Promise<void> {
  const temporary = join(dirname(to), `.${basename(to)}.${randomBytes(4).toString('hex')}.part`);
  const started = performance.now();
  const progress = showProgress(basename(to), started);
  const file = await open(temporary, 'wx');
  const onExit = () => rmSync(temporary, { force: true }); // a second Ctrl-C ends the process at once
  process.on('exit', onExit);
  try {
    const options = { ...optionsOf(given), onProgress: progress.onProgress, signal };
    const { bytes: size, notes } = await convertModel(input, sinkOf(file), options);
    await file.sync();
    await file.close();
    signal.throwIfAborted();
    await rename(temporary, to);
    showStatus('');
    const ms = performance.now() - started;
    say(`${printable(to)}: ${bytes(size)} in ${duration(ms)}, ${bytes((1000 * progress.readBytes()) / ms)}/s`);
    for (const note of notes) say(styled('yellow', `note: ${printable(note)}`));
  } catch (error) {
    showStatus('');
    await file.close().catch(() => {});
    onExit();
    throw error;
  } finally {
    process.off('exit', onExit);
  }
}

function optionsOf(given: Arguments): ConvertOptions {
  const upper = (name: string) => given.text(name)?.toUpperCase();
  return {
    type: (upper('type') ?? 'I2_S') as ConvertOptions['type'],
    embedding: upper('embedding') as ConvertOptions['embedding'],
    layout: given.text('layout'),
    quantize: given.has('quantize'),
    blockSize: given.number('block-size'),
  };
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
