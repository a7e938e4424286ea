// A program of a runtime, as a process.
import { spawn } from 'node:child_process';

/** How long what has given its result may take to end. */
export const EXIT_MS = 10_000;

/**
 * Runs a program to its end, or to the limit. It is killed where it prints what begins a line with '{' and then does not end.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd: string, env?: Record<string, string>, limitMs?: number }} options
 * @returns {Promise<{ stdout: string, stderr: string, exits: string }>} `exits` is 'ok' where it ended by itself with 0, or says
 *   what it did
 */
export function run(command, args, { cwd, env = {}, limitMs = 60_000 }) {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr, killed] = ['', '', undefined];
  const kill = (ms) =>
    setTimeout(() => {
      killed = `still running ${ms / 1000} s after its ${ms === limitMs ? 'start' : 'result'}`;
      child.kill('SIGKILL');
    }, ms);
  const timers = [kill(limitMs)];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    if (timers.length === 1 && /^\{.*\n/m.test(stdout + text)) timers.push(kill(EXIT_MS));
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      for (const timer of timers) clearTimeout(timer);
      const exits = killed ?? (code === 0 ? 'ok' : `ended with ${code ?? signal}`);
      resolve({ stdout, stderr: stderr.trim(), exits });
    });
  });
}

/** As run, and fails where the program does. */
export async function runOk(command, args, options) {
  const { stdout, stderr, exits } = await run(command, args, options);
  if (exits !== 'ok') throw new Error(`${[command, ...args].join(' ')}: ${exits}\n${stderr}\n${stdout}`.trim());
  return { stdout, stderr };
}

/** How long a server may take to say where it is. */
const START_MS = 30_000;

/**
 * Starts a server, which says on stdout or stderr where it is.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd: string, where: RegExp }} options
 * @returns {Promise<{ found: string, pid: number, said(): string, close(): Promise<number | null> }>} what the first group of
 *   `where` matched; `close` gives what it ended with
 */
export async function startServer(command, args, { cwd, where }) {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise((resolve) => child.on('close', resolve));
  // Nothing outlives this process, whatever a row waits for.
  const end = () => child.kill('SIGKILL');
  process.once('exit', end);
  ended.then(() => process.off('exit', end));
  const timer = setTimeout(() => child.kill(), START_MS);
  let said = '';
  const found = await new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        said += text;
        const match = where.exec(said);
        if (match !== null) resolve(match[1]);
      });
    }
    child.on('error', reject);
    ended.then((code) => reject(new Error(`${command} ${args.join(' ')} ended with ${code}, having said: ${said}`)));
  });
  clearTimeout(timer);
  return {
    found,
    pid: child.pid,
    said: () => said,
    async close() {
      child.kill();
      // One that does not listen ends without a code.
      const timer = setTimeout(end, EXIT_MS);
      const code = await ended;
      clearTimeout(timer);
      return code;
    },
  };
}
