// V8 can fuse pairs of 128-bit operations into 256-bit ones, behind a flag that has to be on while a module is compiled.

/**
 * Older V8 either lacks the flag, and says so on stderr when it is set (11.3, Node 20), or has it without gain (12.4, Node 22:
 * from 8.7 to 8.9 GB/s of weights, where 13.6, Node 24, goes from 19 to 36). Whether there is a flag cannot be asked.
 */
const FIRST_MAJOR = 13;

/** Why the flag cannot be set here, or undefined where it may be tried. */
export function noRevectorizer(): string | undefined {
  const { v8, bun, deno } = process.versions as NodeJS.ProcessVersions & { bun?: string; deno?: string };
  if (bun !== undefined) return "Bun's engine is not V8";
  if (deno !== undefined) return "Deno lets V8's flags have no effect";
  return Number.parseInt(v8, 10) < FIRST_MAJOR ? `no gain with V8 ${v8}, from ${FIRST_MAJOR} on there is` : undefined;
}

/** Does `act` under flags: Host tells more. */
export async function withFlags<T>(flags: readonly string[], act: () => T): Promise<T> {
  const { setFlagsFromString } = await import('node:v8');
  const others = flags.filter((flag) => !process.execArgv.includes(flag));
  for (const flag of others) setFlagsFromString(flag);
  try {
    return act();
  } finally {
    for (const flag of others)
      setFlagsFromString(flag.startsWith('--no-') ? `--${flag.slice(5)}` : `--no-${flag.slice(2)}`);
  }
}
