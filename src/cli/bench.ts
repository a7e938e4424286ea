import { cpus, loadavg } from 'node:os';
import type { Model } from '../index.ts';
import { type Arguments, UsageError, type Verb } from './arguments.ts';
import { openGpu, PROFILE_FLAG, sayProfile } from './backend.ts';
import { load, modelPath, newsOf } from './load.ts';
import { HELP_FLAG, LOAD_FLAGS, loadOptions, modelOf } from './options.ts';
import { catchInterrupt, INTERRUPTED, printable, say, showStatus, styled, write } from './terminal.ts';

/** How long each test runs before it is measured: the engine compiles what is hot in that time. */
const WARM_UP_MS = 500;
/** Most tokens of a warm-up run, so that a large model does not spend minutes on it. */
const WARM_UP_TOKENS = 64;

const whole = (name: string, short: string, help: string) =>
  ({ name, short, value: 'N', kind: 'integer', help }) as const;

export const bench: Verb = {
  name: 'bench',
  positionals: '[model]',
  maxPositionals: 1,
  summary: 'measure tokens a second',
  about: `Measures the speed of reading a prompt (pp) and of writing text (tg), as
llama-bench does: mean and standard deviation of tokens a second over the
repetitions, after a warm-up. The table goes to stdout, the machine and its load
to stderr.`,
  groups: [
    {
      title: 'Tests',
      flags: [
        whole('n-prompt', 'p', 'tokens of the prompt; 0 leaves the test out (default: 512)'),
        whole('n-gen', 'n', 'tokens to write; 0 leaves the test out (default: 128)'),
        whole('repetitions', 'r', 'runs of each test (default: 5)'),
        {
          name: 'output',
          short: 'o',
          value: 'FORMAT',
          kind: ['md', 'csv', 'json'],
          help: 'md, csv or json (default: md)',
        },
        { name: 'no-warmup', help: 'measure from the first run on' },
        PROFILE_FLAG,
        HELP_FLAG,
      ],
    },
    {
      title: LOAD_FLAGS.title,
      flags: LOAD_FLAGS.flags.map((flag) =>
        flag.name === 'threads'
          ? { ...flag, value: 'N,…', kind: 'text', help: 'CPU threads; a list measures each, e.g. 1,2,4' }
          : flag,
      ),
    },
  ],
  examples: ['ternlm bench model.gguf', 'ternlm bench model.gguf -t 1,2,4 -r 3', 'ternlm bench -p 256 -n 64 -o json'],

  async run(given) {
    const input = modelOf(given);
    const repetitions = least(given, 'repetitions', 1, 5);
    const sizes = { prompt: least(given, 'n-prompt', 0, 512), gen: least(given, 'n-gen', 0, 128) };
    const threads = threadsOf(given);
    const format = given.text('output') ?? 'md';
    if (sizes.prompt === 0 && sizes.gen === 0) throw new UsageError('bench: -p 0 and -n 0 leave no test');
    const interrupt = catchInterrupt();
    const { signal } = interrupt;
    try {
      sayMachine();
      const results: Result[] = [];
      for (const count of threads) {
        const gpu = await openGpu(given, given.has('profile'));
        const model = await load(input, { ...loadOptions(given, gpu, count), signal });
        const sayNews = newsOf(model);
        try {
          for (const test of testsOf(model, sizes)) {
            if (!given.has('no-warmup')) await warmUp(test, signal);
            const samples: number[] = [];
            for (let i = 0; i < repetitions; i++) {
              showStatus(`${test.name}: run ${i + 1} of ${repetitions}`);
              samples.push(await test.run(test.tokens, signal));
            }
            showStatus('');
            const result = resultOf(modelPath(input), model, test, samples);
            if (format === 'md' && results.length === 0) await write(`${MD_HEAD}\n`);
            if (format === 'md') await write(`${mdRow(result)}\n`);
            results.push(result);
          }
          if (gpu !== undefined && given.has('profile')) sayProfile(gpu);
        } finally {
          sayNews();
          await model.dispose();
        }
      }
      if (format === 'json') await write(`${JSON.stringify(results, undefined, 2)}\n`);
      if (format === 'csv') await write(`${csv(results)}\n`);
      return 0;
    } catch (error) {
      if (signal.aborted) return INTERRUPTED;
      throw error;
    } finally {
      interrupt.release();
    }
  },
};

function least(given: Arguments, name: string, bound: number, fallback: number): number {
  const value = given.number(name) ?? fallback;
  if (value < bound) throw new UsageError(`--${name}: expected a whole number from ${bound} up, got ${value}`);
  return value;
}

function threadsOf(given: Arguments): readonly (number | undefined)[] {
  const list = given.text('threads');
  if (list === undefined) return [undefined];
  return list.split(',').map((part) => {
    if (/^[1-9]\d*$/.test(part)) return Number(part);
    throw new UsageError(
      `--threads: expected whole numbers from 1 up with commas between, got ${JSON.stringify(list)}`,
    );
  });
}

function sayMachine(): void {
  const cores = cpus();
  const load = loadavg();
  say(`${cores[0]?.model.trim() ?? 'unknown processor'}, ${cores.length} cores; Node.js ${process.versions.node}`);
  const busy = load[0] > cores.length / 4;
  const line = `load average ${load.map((x) => x.toFixed(2)).join(' ')}`;
  say(busy ? styled('yellow', `${line}: the machine is busy, figures will be low and scattered`) : line);
}

interface Test {
  readonly name: string;
  readonly kind: 'pp' | 'tg';
  readonly tokens: number;
  /** Tokens a second of one run over n tokens. */
  run(n: number, signal: AbortSignal): Promise<number>;
}

function testsOf(model: Model, sizes: { prompt: number; gen: number }): Test[] {
  const { contextSize, vocab } = model.info;
  const clipped = (flag: string, n: number) => {
    if (n > contextSize) say(styled('yellow', `note: ${flag} ${n} is more than the context; measuring ${contextSize}`));
    return Math.min(n, contextSize);
  };
  const pp = clipped('-p', sizes.prompt);
  const tg = clipped('-n', sizes.gen);
  const tests: Test[] = [];
  if (pp > 0) {
    tests.push({
      name: `pp${pp}`,
      kind: 'pp',
      tokens: pp,
      async run(n, signal) {
        // Any tokens do; the same ones each time.
        const prompt = Array.from({ length: n }, (_, i) => (i * 7919 + 1) % vocab);
        const { timings } = await model.complete(prompt, { maxTokens: 1, temperature: 0, signal });
        return timings.promptPerSecond;
      },
    });
  }
  if (tg > 0) {
    tests.push({
      name: `tg${tg}`,
      kind: 'tg',
      tokens: tg,
      async run(n, signal) {
        // The first token comes with the prompt; n steps follow it.
        const options = { maxTokens: n + 1, temperature: 0, ignoreEos: true, signal };
        const { timings } = await model.complete([1 % vocab], options);
        return timings.generatedPerSecond;
      },
    });
  }
  return tests;
}

async function warmUp(test: Test, signal: AbortSignal): Promise<void> {
  const until = performance.now() + WARM_UP_MS;
  showStatus(`${test.name}: warm-up`);
  do await test.run(Math.min(test.tokens, WARM_UP_TOKENS), signal);
  while (performance.now() < until);
}

/** Names as in llama-bench's JSON. */
interface Result {
  model_filename: string;
  model_type: string;
  architecture: string;
  model_size: number;
  model_n_params: number;
  backend: string;
  /** Empty, and no threads, of a GPU. */
  tier: string;
  n_threads: number;
  type_kv: string;
  n_prompt: number;
  n_gen: number;
  test_time: string;
  avg_ts: number;
  stddev_ts: number;
  samples_ts: readonly number[];
}

function resultOf(file: string, { info }: Model, test: Test, samples: readonly number[]): Result {
  const mean = samples.reduce((a, b) => a + b, 0) / samples.length;
  const squares = samples.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return {
    model_filename: file,
    model_type: info.name,
    architecture: info.architecture,
    model_size: info.fileBytes,
    model_n_params: info.parameters,
    backend: info.tier === undefined ? info.backend : `wasm ${info.tier}`,
    tier: info.tier ?? '',
    n_threads: info.threads ?? 0,
    type_kv: info.kv,
    n_prompt: test.kind === 'pp' ? test.tokens : 0,
    n_gen: test.kind === 'tg' ? test.tokens : 0,
    test_time: new Date().toISOString(),
    avg_ts: mean,
    stddev_ts: samples.length > 1 ? Math.sqrt(squares / (samples.length - 1)) : 0,
    samples_ts: samples,
  };
}

const COLUMNS = [24, 10, 8, 14, 7, 8, 20];
const cells = (row: readonly string[]) =>
  `| ${row.map((cell, i) => (i === 0 || i === 3 ? cell.padEnd(COLUMNS[i]) : cell.padStart(COLUMNS[i]))).join(' | ')} |`;
const MD_HEAD = [
  cells(['model', 'size', 'params', 'backend', 'threads', 'test', 't/s']),
  `|${COLUMNS.map((width, i) => (i === 0 || i === 3 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`,
].join('\n');

function mdRow(r: Result): string {
  const size =
    r.model_size < 2 ** 30
      ? `${(r.model_size / 2 ** 20).toFixed(2)} MiB`
      : `${(r.model_size / 2 ** 30).toFixed(2)} GiB`;
  const params =
    r.model_n_params < 1e9 ? `${(r.model_n_params / 1e6).toFixed(2)} M` : `${(r.model_n_params / 1e9).toFixed(2)} B`;
  const test = r.n_prompt > 0 ? `pp${r.n_prompt}` : `tg${r.n_gen}`;
  const speed = `${r.avg_ts.toFixed(2)} ± ${r.stddev_ts.toFixed(2)}`;
  const threads = r.n_threads === 0 ? '-' : String(r.n_threads);
  return cells([printable(r.model_type), size, params, r.backend, threads, test, speed]);
}

function csv(results: readonly Result[]): string {
  const { samples_ts: _, ...first } = results[0];
  const names = Object.keys(first) as (keyof typeof first)[];
  const quoted = (value: string | number) => `"${String(value).replaceAll('"', '""')}"`;
  return [names.join(','), ...results.map((r) => names.map((name) => quoted(r[name])).join(','))].join('\n');
}
