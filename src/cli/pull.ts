import { stat } from 'node:fs/promises';
import { parseReference } from '../hub/reference.ts';
import { pullModel } from '../index.ts';
import type { FlagGroup, Verb } from './arguments.ts';
import { UsageError } from './arguments.ts';
import { progressBar } from './bar.ts';
import { bytes, duration } from './format.ts';
import { modelName } from './load.ts';
import { HELP_FLAG } from './options.ts';
import { catchInterrupt, INTERRUPTED, printable, say, styled, write } from './terminal.ts';

export const CACHE_FLAG: FlagGroup['flags'][number] = {
  name: 'cache-folder',
  value: 'DIR',
  help: "where models are kept (default: TERNLM_CACHE, else ternlm in the system's folder of caches)",
};

export const pull: Verb = {
  name: 'pull',
  positionals: '<model>',
  maxPositionals: 1,
  summary: 'download a model, or bring it up to date',
  about: `Downloads a model of the Hugging Face hub, or of any http(s) address, and keeps
it: the other commands find it under the same name, without a network. Of
several GGUF files in a repository the one for ternlm is taken, I2_S before the
others, where that can be told; :file names another, @revision a branch, tag or
commit.

A download that was broken off goes on where it ended. The file gets its name
when its length is right, and its checksum where the hub knows it. HF_TOKEN in
the environment is for private and gated models; only the hub is told it.

The path of the file goes to stdout.`,
  groups: [
    {
      title: 'Options',
      flags: [
        {
          name: 'endpoint',
          value: 'URL',
          help: 'another hub (default: HF_ENDPOINT, else https://huggingface.co)',
        },
        CACHE_FLAG,
        { name: 'json', help: 'write one JSON object: name, path, bytes, sha256, status' },
        HELP_FLAG,
      ],
    },
  ],
  examples: [
    'ternlm pull microsoft/bitnet-b1.58-2B-4T-gguf',
    'ternlm pull org/repo:model-tq2_0.gguf@v1.1',
    'ternlm pull https://example.com/model.gguf',
  ],

  async run(given) {
    const [ref] = given.positionals;
    if (ref === undefined) throw new UsageError('pull: no model; expected org/repo[:file][@revision] or an address');
    if (parseReference(ref) === undefined && (await isFile(ref))) {
      throw new UsageError(`pull: ${ref} is a file here, nothing to pull`);
    }
    const interrupt = catchInterrupt();
    const bar = progressBar(printable(modelName(ref)));
    let from: number | undefined;
    try {
      const pulled = await pullModel(ref, {
        endpoint: given.text('endpoint'),
        cacheFolder: given.text('cache-folder'),
        signal: interrupt.signal,
        onProgress(progress) {
          from ??= progress.loadedBytes;
          bar.show(progress);
        },
      });
      bar.end();
      const { name, path, status, reason } = pulled;
      const ms = bar.elapsed();
      const came = pulled.bytes - (from ?? 0);
      const how =
        status === 'downloaded' ? `${bytes(came)} in ${duration(ms)}, ${bytes((1000 * came) / ms)}/s` : status;
      say(styled('dim', `${printable(name)}: ${how}; sha256 ${pulled.sha256}`));
      if (reason !== undefined) {
        say(styled('yellow', `note: not known whether there is a newer one: ${printable(reason)}`));
      }
      await write(given.has('json') ? `${JSON.stringify(pulled)}\n` : `${path}\n`);
      return 0;
    } catch (error) {
      if (!interrupt.signal.aborted) throw error;
      bar.interrupted();
      return INTERRUPTED;
    } finally {
      bar.end();
      interrupt.release();
    }
  },
};

const isFile = (path: string) =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
