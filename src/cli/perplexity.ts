import { UsageError, type Verb } from './arguments.ts';
import { openGpu } from './backend.ts';
import { withModel } from './load.ts';
import { HELP_FLAG, LOAD_FLAGS, loadOptions, namesModel } from './options.ts';
import { readText, say, showStatus, styled, write } from './terminal.ts';

const CHUNK = 512;

export const perplexity: Verb = {
  name: 'perplexity',
  positionals: '[model] <file>',
  maxPositionals: 2,
  summary: 'measure how well a model foretells a text',
  about: `Measures the perplexity of a text file: e to the mean of -ln p of its tokens. As
llama.cpp does, the text is cut into chunks (--ctx-size), of which the tokens of
the second half are scored; a text shorter than a chunk is scored whole. Lower
is better; only figures of the same text and chunk can be compared, and of
models with the same vocabulary.`,
  groups: [
    {
      title: 'Text',
      flags: [
        { name: 'file', short: 'f', value: 'FILE', help: 'the text (or as the last argument)' },
        { name: 'json', help: 'write one JSON object: perplexity, nll, nllError, tokens' },
        HELP_FLAG,
      ],
    },
    {
      title: LOAD_FLAGS.title,
      flags: LOAD_FLAGS.flags.map((flag) =>
        flag.name === 'ctx-size' ? { ...flag, help: `tokens of a chunk (default: ${CHUNK})` } : flag,
      ),
    },
  ],
  examples: [
    'ternlm perplexity model.gguf wiki.test.raw',
    'ternlm perplexity -m model.gguf -f text.txt -c 1024 --json',
  ],

  async run(given) {
    const rest = [...given.positionals];
    const file = given.text('file') ?? rest.pop();
    const input = given.text('model') ?? rest.shift();
    if (file === undefined || (rest.length === 0 && given.positionals.length === 1 && /\.gguf$/i.test(file))) {
      throw new UsageError('perplexity: no text; expected a file: ternlm perplexity model.gguf text.txt');
    }
    if (rest.length > 0) throw new UsageError(`perplexity: ${JSON.stringify(rest[0])} is one argument too many`);
    if (input !== undefined && !namesModel(input)) throw new UsageError(`${input}: no such file, expected a model`);
    const text = await readText(file);
    const contextSize = given.number('ctx-size') ?? CHUNK;
    return withModel(input, { ...loadOptions(given, await openGpu(given)), contextSize }, async (model, signal) => {
      const started = performance.now();
      const result = await model.perplexity(text, {
        contextSize,
        signal,
        onProgress({ tokens, total, perplexity: value }) {
          const left = Math.ceil(((performance.now() - started) * (total - tokens)) / tokens / 1000);
          showStatus(`${tokens} of ${total} tokens, perplexity ${value.toFixed(3)}, ${left} s left`);
        },
      });
      showStatus('');
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      say(styled('dim', `${result.tokens} tokens scored in ${seconds} s, chunks of ${contextSize}`));
      const error = result.perplexity * result.nllError;
      await write(
        given.has('json')
          ? `${JSON.stringify({ model: model.info.name, file, contextSize, ...result })}\n`
          : `perplexity ${result.perplexity.toFixed(4)} ± ${error.toFixed(4)}\n`,
      );
      return 0;
    });
  },
};
