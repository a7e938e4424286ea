import { type Answer, answer, summary } from './answer.ts';
import { type Arguments, UsageError, type Verb } from './arguments.ts';
import { openGpu, PROFILE_FLAG, sayProfile } from './backend.ts';
import { withModel } from './load.ts';
import {
  generateOptions,
  HELP_FLAG,
  LENGTH_FLAGS,
  LOAD_FLAGS,
  loadOptions,
  namesModel,
  SAMPLING_FLAGS,
} from './options.ts';
import { INTERRUPTED, printable, readerGone, readStdin, readText, say, styled, write } from './terminal.ts';

/** What `ternlm run` tells when it is given nothing at all. */
const DEMO_PROMPT = 'Once upon a time';

export const run: Verb = {
  name: 'run',
  positionals: '[model] [prompt]',
  maxPositionals: 2,
  summary: 'continue a text',
  about: `Continues a text. A single argument is the model if it is a file, ends in .gguf,
or is an address or org/repo of the hub; otherwise it is the prompt, for the
demo model. Without a prompt it is read from stdin; with nothing at all the demo
model begins with "Once upon a time".

Only the text goes to stdout; figures and errors go to stderr. On a terminal the
prompt is shown before its continuation; elsewhere the continuation stands alone
(see --echo). Ctrl-C ends the text, with exit code 130.`,
  groups: [
    {
      title: 'Text',
      flags: [
        { name: 'prompt', short: 'p', value: 'TEXT', help: 'text to continue' },
        { name: 'file', short: 'f', value: 'FILE', help: 'read the prompt from a file' },
        ...LENGTH_FLAGS,
        { name: 'special', help: 'read special tokens such as <|eot_id|> in the prompt as tokens, not as text' },
        { name: 'ignore-eos', help: 'write on where the model would end' },
        { name: 'echo', help: 'write the prompt first (default: on a terminal)' },
        { name: 'no-echo', help: 'write only what follows the prompt' },
        { name: 'json', help: 'write one JSON object: text, tokens, seed, timings' },
        PROFILE_FLAG,
        HELP_FLAG,
      ],
    },
    LOAD_FLAGS,
    SAMPLING_FLAGS,
  ],
  examples: [
    'ternlm run "Once upon a time"',
    'ternlm run model.gguf "The capital of France is" -n 20 --temp 0',
    'cat letter.txt | ternlm run -m model.gguf > continued.txt',
    'ternlm run "The fox" -n 40 --seed 7 --json',
  ],

  async run(given) {
    const { input, prompt } = await inputsOf(given);
    const options = {
      ...generateOptions(given),
      parseSpecial: given.has('special'),
      ignoreEos: given.has('ignore-eos'),
    };
    const gpu = await openGpu(given, given.has('profile'));
    return withModel(input, loadOptions(given, gpu), async (model, signal) => {
      const json = given.has('json');
      const echo = given.has('echo') || (process.stdout.isTTY === true && !given.has('no-echo'));
      if (process.stdout.isTTY && !json) say();
      if (echo && !json) await write(process.stdout.isTTY ? styled('bold', printable(prompt), process.stdout) : prompt);
      const result = await answer(model, prompt, options, signal, json);
      if (readerGone.aborted) return 0;
      if (process.stdout.isTTY && !json) say();
      say(styled('dim', summary(model, result)));
      if (result.completion === undefined) return INTERRUPTED;
      if (json) await write(`${JSON.stringify(record(model.info.name, prompt, result))}\n`);
      if (gpu !== undefined && given.has('profile')) sayProfile(gpu);
      return 0;
    });
  },
};

function record(model: string, prompt: string, { completion }: Answer): object {
  return { model, prompt, ...completion };
}

async function inputsOf(given: Arguments): Promise<{ input: string | undefined; prompt: string }> {
  const positionals = [...given.positionals];
  const named = given.text('model');
  const flagPrompt = given.text('prompt');
  const file = given.text('file');
  if (flagPrompt !== undefined && file !== undefined)
    throw new UsageError('two prompts given, -p and -f; expected one');
  const takesPrompt = flagPrompt === undefined && file === undefined;
  let input = named;
  if (named === undefined && positionals.length > 0 && (positionals.length === 2 || namesModel(positionals[0]))) {
    input = positionals.shift();
  }
  if (positionals.length > (takesPrompt ? 1 : 0)) {
    const extra = JSON.stringify(positionals[positionals.length - 1]);
    const why = named !== undefined ? 'the model is given with -m' : 'the prompt is given with -p or -f';
    throw new UsageError(`run: ${extra} is one argument too many, since ${why}`);
  }

  const typed = flagPrompt ?? positionals[0];
  if (typed !== undefined) return { input, prompt: typed };
  if (file !== undefined) return { input, prompt: withoutLineEnd(await readText(file)) };
  const piped = process.stdin.isTTY === true ? '' : withoutLineEnd(await readStdin());
  if (piped !== '') return { input, prompt: piped };
  if (input === undefined) return { input, prompt: DEMO_PROMPT };
  throw new UsageError(
    'run: no prompt; give it in quotes, with -p or -f, or on stdin; to talk with the model: ternlm chat',
  );
}

/** A file ends with a line break that is no part of the prompt. */
const withoutLineEnd = (text: string) => text.replace(/\r?\n$/, '');
