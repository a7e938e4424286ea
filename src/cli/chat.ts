import { createInterface } from 'node:readline';
import type { ChatMessage } from '../index.ts';
import { answer, summary } from './answer.ts';
import type { Verb } from './arguments.ts';
import { openGpu } from './backend.ts';
import { load, newsOf } from './load.ts';
import {
  generateOptions,
  HELP_FLAG,
  LENGTH_FLAGS,
  LOAD_FLAGS,
  loadOptions,
  modelOf,
  SAMPLING_FLAGS,
} from './options.ts';
import { catchInterrupt, INTERRUPTED, readerGone, say, styled } from './terminal.ts';

const HELP = `  /reset     forget the conversation
  /exit      leave, as Ctrl-D does
  /?         show this
  """        begin and end a message of several lines
  Ctrl-C     stop the answer`;

export const chat: Verb = {
  name: 'chat',
  positionals: '[model]',
  maxPositionals: 1,
  summary: 'talk with a model',
  about: `Talks with a model. Each line is a message; the conversation so far goes with
it. With piped stdin, each line is answered in turn and only the answers go to
stdout.

${HELP}`,
  groups: [
    {
      title: 'Conversation',
      flags: [
        { name: 'system', value: 'TEXT', help: 'what the model is told before the conversation' },
        ...LENGTH_FLAGS,
        HELP_FLAG,
      ],
    },
    LOAD_FLAGS,
    SAMPLING_FLAGS,
  ],
  examples: [
    'ternlm chat model.gguf',
    'ternlm chat model.gguf --system "Answer in one sentence."',
    'echo "Why is the sky blue?" | ternlm chat model.gguf',
  ],

  async run(given) {
    const options = generateOptions(given);
    const system = given.text('system');
    const beginning: readonly ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }];
    const loading = catchInterrupt();
    const { signal } = loading;
    const loadWith = loadOptions(given, await openGpu(given));
    const model = await load(modelOf(given), { ...loadWith, signal }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
    loading.release();
    if (model === undefined) return INTERRUPTED;

    const sayNews = newsOf(model);
    const interactive = process.stdin.isTTY === true;
    const input = lines(interactive);
    let messages = [...beginning];
    if (interactive) say(styled('dim', 'A line is a message; /? helps, /exit or Ctrl-D leaves.\n'));
    try {
      for (let line = await input.next(); line !== undefined; line = await input.next()) {
        const command = line.trim().toLowerCase();
        if (command === '') continue;
        if (['/exit', '/quit', '/bye'].includes(command)) break;
        if (['/?', '/help'].includes(command)) {
          say(HELP);
          continue;
        }
        if (['/reset', '/clear'].includes(command)) {
          messages = [...beginning];
          say('the conversation begins anew');
          continue;
        }
        if (/^\/\w+$/.test(command)) {
          say(`unknown command ${command}, expected /reset, /exit or /?`);
          continue;
        }
        const asked: ChatMessage[] = [...messages, { role: 'user', content: line }];
        const during = input.whileAnswering();
        try {
          const result = await answer(model, asked, options, during.signal);
          if (readerGone.aborted) break;
          sayNews();
          say(styled('dim', `${summary(model, result)}${interactive ? '\n' : ''}`));
          // What was said is kept, also of an answer that was stopped.
          messages = [...asked, { role: 'assistant', content: result.text }];
          if (!interactive && during.signal.aborted) return INTERRUPTED;
        } catch (error) {
          if (!interactive || !(error instanceof RangeError)) throw error;
          say(`${styled('red', 'ternlm:')} ${error.message}; /reset begins anew, -c sets a larger context`);
        } finally {
          during.release();
        }
      }
      return input.left() === 'interrupt' ? INTERRUPTED : 0;
    } finally {
      input.close();
      await model.dispose();
    }
  },
};

/** The lines that a person types, or those of a pipe. */
function lines(interactive: boolean) {
  const reader = createInterface({
    input: process.stdin,
    output: interactive ? process.stderr : undefined,
    terminal: interactive,
    prompt: styled('bold', '> '),
  });
  const waiting: string[] = [];
  let ended = false;
  let left: 'end' | 'interrupt' = 'end';
  let wake = () => {};
  /** Ends the answer under way. */
  let stop: (() => void) | undefined;
  let warned = false;
  let open: string[] | undefined; // of a message in """

  reader.on('line', (line) => {
    warned = false;
    if (open === undefined && line.trimStart().startsWith('"""')) {
      open = [];
      line = line.trimStart().slice(3);
    }
    if (open === undefined) waiting.push(line);
    else if (line.trimEnd().endsWith('"""')) {
      waiting.push([...open, line.trimEnd().slice(0, -3)].join('\n').trim());
      open = undefined;
    } else {
      open.push(line);
      if (interactive) reader.setPrompt(styled('bold', '. '));
      if (interactive) reader.prompt();
      return;
    }
    reader.setPrompt(styled('bold', '> '));
    wake();
  });
  reader.on('close', () => {
    ended = true;
    if (interactive) say();
    stop?.();
    wake();
  });
  reader.on('SIGINT', () => {
    if (stop !== undefined) return stop();
    if (warned) {
      left = 'interrupt';
      return reader.close();
    }
    warned = true;
    open = undefined;
    reader.setPrompt(styled('bold', '> '));
    say(styled('dim', '\n/exit or Ctrl-D leaves, and so does Ctrl-C again'));
    reader.write(null, { ctrl: true, name: 'u' });
    reader.prompt();
  });

  return {
    /** The next message, or undefined when there are no more. */
    async next(): Promise<string | undefined> {
      if (waiting.length === 0 && !ended && interactive) reader.prompt();
      while (waiting.length === 0 && !ended) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return waiting.shift();
    },
    /** Until released, Ctrl-C aborts the signal. */
    whileAnswering() {
      if (!interactive) return catchInterrupt();
      const controller = new AbortController();
      stop = () => controller.abort();
      return {
        signal: controller.signal,
        release() {
          stop = undefined;
        },
      };
    },
    left: () => left,
    close: () => reader.close(),
  };
}
