import { UsageError, type Verb } from './arguments.ts';
import { openGpu } from './backend.ts';
import { withModel } from './load.ts';
import { HELP_FLAG, LOAD_FLAGS, loadOptions, namesModel } from './options.ts';
import { printable, readStdin, readText, say, styled, write } from './terminal.ts';

/** Arguments that a shell hands over are few; more texts come from a file or stdin. */
const MAX_TEXTS = 1000;

export const embed: Verb = {
  name: 'embed',
  positionals: '[model] [text …]',
  maxPositionals: MAX_TEXTS + 1,
  summary: 'turn texts into vectors',
  about: `Writes a vector of length 1 for each text, a JSON array a line: texts that mean
the same have a large product. Meant for embedding models (BitNet-embedding-0.6B
and -270M); another model gives the hidden state of its last token. Without
texts the lines of stdin are taken, one text a line.`,
  groups: [
    {
      title: 'Texts',
      flags: [
        { name: 'file', short: 'f', value: 'FILE', help: 'take the lines of a file, one text a line' },
        {
          name: 'dimensions',
          value: 'N',
          kind: 'integer',
          help: 'keep the first N numbers of a vector (default: all)',
        },
        {
          name: 'pooling',
          value: 'HOW',
          kind: ['last', 'mean', 'first'],
          help: "token whose state is taken, or mean (default: what the file says, else 'last')",
        },
        { name: 'similarity', help: 'write how alike the texts are, as a table, instead of vectors' },
        HELP_FLAG,
      ],
    },
    LOAD_FLAGS,
  ],
  examples: [
    'ternlm embed embedding.gguf "a small cat" "a kitten" --similarity',
    'ternlm embed embedding.gguf -f lines.txt --dimensions 256 > vectors.jsonl',
  ],

  async run(given) {
    const rest = [...given.positionals];
    const input = given.text('model') ?? (rest.length > 0 && namesModel(rest[0]) ? rest.shift() : undefined);
    const file = given.text('file');
    if (file !== undefined && rest.length > 0) throw new UsageError('embed: texts and --file given, expected one');
    const texts = rest.length > 0 ? rest : linesOf(file === undefined ? await readStdin() : await readText(file));
    if (texts.length === 0) throw new UsageError('embed: no text; give texts in quotes, with --file, or on stdin');
    return withModel(input, loadOptions(given, await openGpu(given)), async (model, signal) => {
      const started = performance.now();
      const vectors = await model.embed(texts, {
        dimensions: given.number('dimensions'),
        pooling: given.text('pooling') as 'last' | 'mean' | 'first' | undefined,
        signal,
      });
      const ms = performance.now() - started;
      say(
        styled(
          'dim',
          `${texts.length} ${texts.length === 1 ? 'text' : 'texts'}, ${vectors[0].length} numbers each, ${(ms / 1000).toFixed(2)} s`,
        ),
      );
      if (given.has('similarity')) await write(similarities(texts, vectors));
      else for (const vector of vectors) await write(`[${[...vector].join(',')}]\n`);
      return 0;
    });
  },
};

const linesOf = (text: string) => text.split(/\r?\n/).filter((line) => line !== '');

/** A row of products for each text. */
function similarities(texts: readonly string[], vectors: readonly Float32Array[]): string {
  const product = (a: Float32Array, b: Float32Array) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const rows = vectors.map((a, i) => {
    const cells = vectors.map((b) => product(a, b).toFixed(3).padStart(7)).join('');
    return `${cells}  ${printable(texts[i]).replace(/\s+/g, ' ').slice(0, 60)}\n`;
  });
  return rows.join('');
}
