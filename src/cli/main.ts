#!/usr/bin/env node
import { parseArguments, UsageError, type Verb, verbHelp } from './arguments.ts';
import { bench } from './bench.ts';
import { chat } from './chat.ts';
import { convert } from './convert.ts';
import { demo } from './demo.ts';
import { doctor } from './doctor.ts';
import { embed } from './embed.ts';
import { inspect } from './inspect.ts';
import { ls, rm } from './models.ts';
import { flagged } from './options.ts';
import { perplexity } from './perplexity.ts';
import { pull } from './pull.ts';
import { run } from './run.ts';
import { printable, say, styled, write } from './terminal.ts';
import { version } from './version.ts';

const VERBS: readonly Verb[] = [run, chat, pull, ls, rm, embed, inspect, convert, perplexity, bench, demo, doctor];

function help(): string {
  const left = VERBS.map((verb) => `${verb.name} ${verb.positionals}`);
  const width = Math.max(...left.map(({ length }) => length)) + 2;
  const verbs = VERBS.map((verb, i) => `  ${left[i].padEnd(width)}${verb.summary}`);
  return `ternlm ${version}: ternary language models (BitNet b1.58) on WebAssembly

Usage: ternlm <command> [options]

Commands
${verbs.join('\n')}

A model is a GGUF file, its http(s) address, or org/repo of the Hugging Face
hub, which is downloaded once and kept. Without one, the small demo model that
comes with ternlm is used: it writes tales.

Examples
  ternlm run "Once upon a time"
  ternlm run model.gguf "The capital of France is" -n 20
  ternlm chat microsoft/bitnet-b1.58-2B-4T-gguf
  ternlm bench model.gguf

ternlm <command> --help tells its options, ternlm --version the version.`;
}

async function main(argv: readonly string[]): Promise<number> {
  const [first, ...rest] = argv;
  if (first === '--version' || first === '-v') {
    await write(`ternlm ${version}\n`);
    return 0;
  }
  const wantsHelp = first === undefined || first === '--help' || first === '-h' || first === 'help';
  const name = wantsHelp ? rest[0] : first;
  if (name === undefined) {
    await write(`${help()}\n`);
    return 0;
  }
  const verb = VERBS.find((v) => v.name === name);
  if (verb === undefined) {
    const known = VERBS.map((v) => v.name).join(', ');
    const what = name.startsWith('-') ? `${name} before a command` : `unknown command ${JSON.stringify(name)}`;
    throw new UsageError(`${what}, expected ${known}; see: ternlm --help`);
  }
  if (wantsHelp || rest.slice(0, rest.includes('--') ? rest.indexOf('--') : rest.length).some(isHelp)) {
    await write(`${verbHelp(verb)}\n`);
    return 0;
  }
  return verb.run(parseArguments(verb, rest));
}

const isHelp = (argument: string) => argument === '--help' || argument === '-h';

/** One line: what, where, what was expected. */
function oneLine(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, path } = error as NodeJS.ErrnoException;
  const reason = { ENOENT: 'no such file', EACCES: 'no permission to read it', EISDIR: 'a directory, expected a file' }[
    code ?? ''
  ];
  const message = reason !== undefined && path !== undefined ? `${path}: ${reason}` : flagged(error.message);
  return message.replace(/\s*\n\s*/g, ' ');
}

let code = 1;
try {
  code = await main(process.argv.slice(2));
} catch (error) {
  say(`${styled('red', 'ternlm:')} ${printable(oneLine(error))}`);
  if (process.env.DEBUG === 'ternlm' && error instanceof Error) say(error.stack);
}
// A GPU's driver may keep threads that wait for nothing: the end is said, once all is written.
await Promise.all(
  [process.stdout, process.stderr].map((stream) => new Promise((written) => stream.write('', written))),
);
process.exit(code);
