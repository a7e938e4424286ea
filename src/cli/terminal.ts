import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { stripVTControlCharacters } from 'node:util';

// Text that was asked for goes to stdout, everything about it to stderr.

const { stdout, stderr } = process;

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow';
/** Select Graphic Rendition codes, on and off. */
const STYLES: Readonly<Record<Style, readonly [number, number]>> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
};

/** `text` in a style, where its stream is a terminal with colours; https://no-color.org. */
export function styled(style: Style, text: string, stream: NodeJS.WriteStream = stderr): string {
  if (stream.isTTY !== true || process.env.NO_COLOR || process.env.TERM === 'dumb') return text;
  const [on, off] = STYLES[style];
  return `\x1b[${on}m${text}\x1b[${off}m`;
}

/** Text of files and models without what would steer a terminal; tabs and line breaks stay. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '\ufffd');
}

let lineOpen = false;

/** A line on stderr. */
export function say(line = ''): void {
  showStatus('');
  stderr.write(`${line}\n`);
}

/** A line on stderr that the next one replaces; only where someone watches. '' takes it away. */
export function showStatus(line: string): void {
  if (stderr.isTTY !== true || (line === '' && !lineOpen)) return;
  const width = Math.max(20, (stderr.columns || 80) - 1);
  const plain = stripVTControlCharacters(line);
  stderr.write(`\r\x1b[K${plain.length > width ? plain.slice(0, width) : line}`);
  lineOpen = line !== '';
}

const closed = new AbortController();

/** Aborted when nobody reads stdout any more, as in `ternlm run … | head -1`. */
export const readerGone: AbortSignal = closed.signal;

stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  closed.abort();
});
stderr.on('error', () => {}); // nobody is left to tell

/** Writes to stdout, as slowly as its reader reads. */
export async function write(text: string): Promise<void> {
  if (readerGone.aborted || text === '') return;
  if (stdout.write(text)) return;
  await once(stdout, 'drain', { signal: readerGone }).catch(() => {});
}

/** All of stdin as text. */
export async function readStdin(): Promise<string> {
  process.stdin.setEncoding('utf8');
  let text = '';
  for await (const part of process.stdin) text += part;
  return text;
}

/** A file as text. @throws the system's error, with its path */
export async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw Object.assign(error as Error, { path: file }); // reading a folder fails without a path
  }
}

export interface Interrupt {
  readonly signal: AbortSignal;
  release(): void;
}

/** The exit code after Ctrl-C, as shells have it: 128 + SIGINT. */
export const INTERRUPTED = 130;

/** Turns the first Ctrl-C into an abort of `signal`; the second ends the process at once. */
export function catchInterrupt(): Interrupt {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(INTERRUPTED);
    controller.abort();
  };
  process.on('SIGINT', onSignal);
  return { signal: controller.signal, release: () => process.off('SIGINT', onSignal) };
}
