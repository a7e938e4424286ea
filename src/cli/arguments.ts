import { parseArgs } from 'node:util';

/** What the person who typed it can put right; its message is shown as it is. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

export interface Flag {
  /** Long name without dashes. */
  readonly name: string;
  readonly short?: string;
  /** Other long names for the same. */
  readonly aliases?: readonly string[];
  /** What stands for its value in help; absent where it takes none. */
  readonly value?: string;
  /** Default 'text'. A list holds the words that are accepted. */
  readonly kind?: 'text' | 'number' | 'integer' | readonly string[];
  /** May be given more than once. */
  readonly repeatable?: boolean;
  readonly help: string;
}

export interface FlagGroup {
  readonly title: string;
  readonly flags: readonly Flag[];
}

/** The checked arguments of a verb. Asking for a flag that the verb does not declare is a mistake of ours and throws. */
export interface Arguments {
  readonly positionals: readonly string[];
  has(name: string): boolean;
  text(name: string): string | undefined;
  texts(name: string): readonly string[];
  number(name: string): number | undefined;
}

export interface Verb {
  readonly name: string;
  /** Positionals, e.g. "[model] [prompt]". */
  readonly positionals: string;
  readonly maxPositionals: number;
  /** A line for the list of commands. */
  readonly summary: string;
  /** A paragraph or two for its own help. */
  readonly about: string;
  readonly groups: readonly FlagGroup[];
  readonly examples: readonly string[];
  /** Returns the exit code. */
  run(given: Arguments): Promise<number>;
}

const KIND_NAMES = { text: 'a text', number: 'a number', integer: 'a whole number' };

/** @throws UsageError naming the flag, what was expected and what was given */
export function parseArguments(verb: Verb, argv: readonly string[]): Arguments {
  const flags = verb.groups.flatMap((group) => group.flags);
  const byName = new Map(flags.flatMap((flag) => [flag.name, ...(flag.aliases ?? [])].map((name) => [name, flag])));
  const byShort = new Map(flags.flatMap((flag) => (flag.short === undefined ? [] : [[flag.short, flag]])));
  const see = `see: ternlm ${verb.name} --help`;

  const options = Object.fromEntries(
    [...byName].map(([name, flag]) => [
      name,
      {
        type: flag.value === undefined ? ('boolean' as const) : ('string' as const),
        ...(name === flag.name && flag.short !== undefined && { short: flag.short }),
      },
    ]),
  );
  // Not strict: -n -1 and --seed -1 are values here, and the messages are ours.
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });

  const given = new Map<Flag, string[]>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const flag = byName.get(token.name) ?? byShort.get(token.name);
    if (flag === undefined) throw new UsageError(`unknown option ${token.rawName}; ${see}`);
    if (flag.value === undefined) {
      if (token.value !== undefined) {
        throw new UsageError(`${token.rawName}: takes no value, got ${JSON.stringify(token.value)}`);
      }
      given.set(flag, []);
      continue;
    }
    const isFlag = (text: string) => byName.has(text.replace(/^--/, '')) || byShort.has(text.replace(/^-/, ''));
    const swallowed = !token.inlineValue && /^-(-|\D$)/.test(token.value ?? '') && isFlag(token.value ?? '');
    if (token.value === undefined || swallowed) {
      const got = token.value === undefined ? 'nothing' : `the option ${token.value}`;
      throw new UsageError(`${token.rawName}: expected ${expected(flag)}, got ${got}; ${see}`);
    }
    check(flag, token.rawName, token.value);
    given.set(flag, flag.repeatable ? [...(given.get(flag) ?? []), token.value] : [token.value]);
  }
  if (positionals.length > verb.maxPositionals) {
    const extra = JSON.stringify(positionals[verb.maxPositionals]);
    throw new UsageError(`${verb.name}: ${extra} is one argument too many; put a text in quotes, or ${see}`);
  }

  const values = (name: string): readonly string[] | undefined => {
    const flag = byName.get(name);
    if (flag === undefined) throw new Error(`${verb.name} declares no --${name}`);
    return given.get(flag);
  };
  return {
    positionals,
    has: (name) => values(name) !== undefined,
    text: (name) => values(name)?.[0],
    texts: (name) => values(name) ?? [],
    number(name) {
      const value = values(name)?.[0];
      return value === undefined ? undefined : Number(value);
    },
  };
}

function expected({ kind = 'text' }: Flag): string {
  return typeof kind === 'string' ? KIND_NAMES[kind] : kind.join(', ').replace(/, ([^,]*)$/, ' or $1');
}

function check(flag: Flag, rawName: string, value: string): void {
  const { kind = 'text' } = flag;
  const fits =
    kind === 'text' ||
    (typeof kind !== 'string' && kind.includes(value)) ||
    (kind === 'number' && value.trim() !== '' && Number.isFinite(Number(value))) ||
    (kind === 'integer' && value.trim() !== '' && Number.isSafeInteger(Number(value)));
  if (!fits) throw new UsageError(`${rawName}: expected ${expected(flag)}, got ${JSON.stringify(value)}`);
}

const HELP_COLUMN = 30;
const HELP_WIDTH = 80;

/** Help of one verb. */
export function verbHelp(verb: Verb): string {
  const lines = [`Usage: ternlm ${verb.name} ${verb.positionals} [options]`.replace('  ', ' '), '', verb.about];
  for (const { title, flags } of verb.groups) {
    lines.push('', title);
    for (const flag of flags) {
      const short = flag.short === undefined ? '    ' : `-${flag.short}, `;
      const value = flag.value === undefined ? '' : ` ${flag.value}`;
      lines.push(...columns(`  ${short}--${flag.name}${value}`, flag.help));
    }
  }
  lines.push('', 'Examples', ...verb.examples.map((example) => `  ${example}`));
  return lines.join('\n');
}

/** `left`, then `text` wrapped in the right column. */
function columns(left: string, text: string): string[] {
  const rows = [''];
  for (const word of text.split(' ')) {
    const last = rows[rows.length - 1];
    if (last !== '' && HELP_COLUMN + last.length + 1 + word.length > HELP_WIDTH) rows.push(word);
    else rows[rows.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  const lines = rows.map((row) => ' '.repeat(HELP_COLUMN) + row);
  if (left.length + 2 > HELP_COLUMN) return [left, ...lines];
  return [left.padEnd(HELP_COLUMN) + rows[0], ...lines.slice(1)];
}
