import { type CachedModel, listModels, removeModel } from '../index.ts';
import { UsageError, type Verb } from './arguments.ts';
import { bytes, table } from './format.ts';
import { HELP_FLAG } from './options.ts';
import { CACHE_FLAG } from './pull.ts';
import { printable, say, styled, write } from './terminal.ts';

export const ls: Verb = {
  name: 'ls',
  positionals: '',
  maxPositionals: 0,
  summary: 'list the models that were downloaded',
  about: `Lists the models that are kept, and downloads that were broken off: ternlm pull
goes on with those, and ternlm rm removes either.`,
  groups: [
    {
      title: 'Options',
      flags: [
        CACHE_FLAG,
        { name: 'json', help: 'write a JSON array: name, url, complete, bytes, totalBytes, sha256, pulledAt, path' },
        HELP_FLAG,
      ],
    },
  ],
  examples: ['ternlm ls', 'ternlm ls --json'],

  async run(given) {
    const models = await listModels({ cacheFolder: given.text('cache-folder') });
    if (given.has('json')) await write(`${JSON.stringify(models, undefined, 2)}\n`);
    else if (models.length === 0) say('no models yet; ternlm pull org/repo downloads one');
    else await write(`${printable(table(['name', 'size', 'pulled', 'state', 'from'], models.map(row)))}\n`);
    return 0;
  },
};

function row({ name, url, complete, bytes: size, totalBytes, pulledAt }: CachedModel): string[] {
  const share = totalBytes === undefined || totalBytes === 0 ? '' : `, ${Math.floor((100 * size) / totalBytes)} %`;
  const when = pulledAt?.slice(0, 16).replace('T', ' ') ?? '-';
  const host = URL.canParse(url) ? new URL(url).host : '-';
  return [name, bytes(size), when, complete ? 'complete' : `partial${share}`, host];
}

export const rm: Verb = {
  name: 'rm',
  positionals: '<model …>',
  maxPositionals: 1000,
  summary: 'remove models that were downloaded',
  about: `Removes models that are kept, and what is left of downloads that were broken
off, by the names of ternlm ls; org/repo stands for all files of it.`,
  groups: [{ title: 'Options', flags: [CACHE_FLAG, HELP_FLAG] }],
  examples: ['ternlm rm microsoft/bitnet-b1.58-2B-4T-gguf', 'ternlm rm org/repo:model.gguf@v1'],

  async run(given) {
    if (given.positionals.length === 0) throw new UsageError('rm: no model; expected names of: ternlm ls');
    let code = 0;
    for (const name of given.positionals) {
      const removed = await removeModel(name, { cacheFolder: given.text('cache-folder') });
      for (const model of removed) say(`removed ${printable(model.name)}: ${bytes(model.bytes)}`);
      if (removed.length > 0) continue;
      say(`${styled('red', 'ternlm:')} ${printable(name)}: no such model here; see: ternlm ls`);
      code = 1;
    }
    return code;
  },
};
