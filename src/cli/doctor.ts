import { arch, availableParallelism, cpus, freemem, loadavg, platform, totalmem } from 'node:os';
import { type WasmBackend, wasmBackend } from '../backend/wasm/backend.ts';
import { demoModel, loadModel } from '../index.ts';
import type { Verb } from './arguments.ts';
import { type Gpu, probeGpu } from './backend.ts';
import { bytes, duration, pairs, rate } from './format.ts';
import { HELP_FLAG } from './options.ts';
import { printable, styled, write } from './terminal.ts';
import { version } from './version.ts';

/** Smallest modules that use a feature; they validate where the engine has it. */
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
const RELAXED_SIMD = [
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0],
  ...[10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11],
];
const SELF_CHECK = { prompt: 'Once upon a time', maxTokens: 24 };

interface Report {
  version: string;
  runtime: string;
  platform: string;
  processor: string;
  cores: number;
  memoryBytes: number;
  freeMemoryBytes: number;
  loadAverage: readonly number[];
  simd: boolean;
  relaxedSimd: boolean;
  sharedMemory: boolean;
  /** Absent when no kernels run here. */
  tier?: string;
  dot?: string;
  threads?: number;
  /** Layouts that are repacked when loaded, and to what. */
  repacks?: WasmBackend['repacks'];
  why: readonly string[];
  /** The GPU, or why there is none. */
  gpu: Gpu | { none: string };
  selfCheck: { ok: boolean; result: string };
  advice: string[];
}

export const doctor: Verb = {
  name: 'doctor',
  positionals: '',
  maxPositionals: 0,
  summary: 'check that ternlm works on this machine',
  about: `Tells what ternlm finds on this machine: runtime, WebAssembly features, the
kernels it chooses and why, threads and memory; and the GPU, where its plugin is
installed (@ternlm/webgpu). Then the demo model writes a few tokens on one
thread and on all, which must agree. The exit code is 1 when something does not
work.`,
  groups: [{ title: 'Options', flags: [{ name: 'json', help: 'write one JSON object' }, HELP_FLAG] }],
  examples: ['ternlm doctor', 'ternlm doctor --json'],

  async run(given) {
    const report = await examine();
    await write(`${given.has('json') ? JSON.stringify(report, undefined, 2) : text(report)}\n`);
    return works(report) ? 0 : 1;
  },
};

/** A GPU that is not there is no fault. */
const works = ({ selfCheck, gpu }: Report) => selfCheck.ok && ('none' in gpu || gpu.ok);

async function examine(): Promise<Report> {
  const gpu = await probeGpu();
  const report: Report = {
    version,
    runtime: runtime(),
    platform: `${platform()} ${arch()}`,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    freeMemoryBytes: freemem(),
    loadAverage: loadavg(),
    simd: WebAssembly.validate(Uint8Array.from(SIMD)),
    relaxedSimd: WebAssembly.validate(Uint8Array.from(RELAXED_SIMD)),
    sharedMemory: hasSharedMemory(),
    why: [],
    gpu: typeof gpu === 'string' ? { none: gpu } : gpu,
    selfCheck: { ok: false, result: 'not run' },
    advice: [],
  };
  try {
    const backend = await wasmBackend({ revectorize: true });
    const { tier, dot, threads, why, repacks } = backend;
    Object.assign(report, { tier, dot, threads, why, repacks });
    await backend.dispose();
    report.selfCheck = await selfCheck(backend.threads);
  } catch (error) {
    report.selfCheck = { ok: false, result: error instanceof Error ? error.message : String(error) };
  }
  report.advice.push(...advice(report));
  return report;
}

function runtime(): string {
  const { bun, deno, node, v8 } = process.versions as NodeJS.ProcessVersions & { bun?: string; deno?: string };
  if (bun !== undefined) return `Bun ${bun}`;
  if (deno !== undefined) return `Deno ${deno} (V8 ${v8})`;
  return `Node.js ${node} (V8 ${v8})`;
}

function hasSharedMemory(): boolean {
  try {
    return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

/** The same tokens on one thread and on all; and how fast. */
async function selfCheck(threads: number): Promise<Report['selfCheck']> {
  const started = performance.now();
  const written: string[] = [];
  let speed = 0;
  for (const count of new Set([1, threads])) {
    const model = await loadModel(demoModel, { threads: count, parallel: 1, revectorize: true });
    const { prompt, maxTokens } = SELF_CHECK;
    const { tokens, timings } = await model
      .complete(prompt, { maxTokens, temperature: 0 })
      .finally(() => model.dispose());
    written.push(tokens.join(' '));
    speed = timings.generatedPerSecond;
  }
  if (new Set(written).size > 1) {
    return {
      ok: false,
      result: `one thread wrote tokens ${written[0]}, ${threads} threads ${written[1]}; expected the same`,
    };
  }
  const agree = written.length > 1 ? `the same on 1 and ${threads} threads` : 'on 1 thread';
  return { ok: true, result: `demo model wrote ${agree}, ${rate(speed)}, in ${duration(performance.now() - started)}` };
}

function advice({ simd, relaxedSimd, sharedMemory, selfCheck, threads, cores, loadAverage, tier }: Report): string[] {
  const lines: string[] = [];
  if (!simd)
    lines.push('This engine has no WebAssembly SIMD, and ternlm needs it: use Node.js 20 or newer, Deno or Bun.');
  else if (!sharedMemory) lines.push('This engine has no shared WebAssembly memory, and ternlm needs it.');
  else if (!selfCheck.ok)
    lines.push('Something is wrong here; please report it with the output of ternlm doctor --json.');
  if (simd && !relaxedSimd) lines.push('Relaxed SIMD makes ternlm faster: use Node.js 22 or newer, or Deno or Bun.');
  if (relaxedSimd && tier === 'simd')
    lines.push('Relaxed SIMD is there but not used; the lines under "kernels" say why.');
  if (threads !== undefined && threads < cores)
    lines.push(`${cores} cores are there; -t ${cores} may be faster than ${threads} threads.`);
  if (loadAverage[0] > cores) lines.push('The machine is busy with other work; ternlm is slower meanwhile.');
  return lines;
}

function repacked(repacks: Report['repacks'] = {}): string {
  const pairs = Object.entries(repacks).filter(([, to]) => to !== undefined);
  if (pairs.length === 0) return 'nothing';
  const named = pairs.map(([from, to]) => `${from} to ${to}`.toUpperCase().replace(' TO ', ' to '));
  return `${named.join(', ')} at loading: quicker with these kernels (--repack none: not)`;
}

function gpuRows(gpu: Report['gpu']): [string, string][] {
  if ('none' in gpu) return [['GPU', `none: ${printable(gpu.none)}`]];
  const kind = gpu.software ? ', a software renderer: --backend auto takes the CPU' : '';
  const rows = gpu.rows.map(([label, value]): [string, string] => [
    '',
    printable(label === '' ? value : `${label}: ${value}`),
  ]);
  return [['GPU', `${printable(gpu.adapter)}${kind}`], ...rows];
}

function text(report: Report): string {
  const yes = (has: boolean) => (has ? 'yes' : 'no');
  const [first, ...others] = report.why;
  const rows: [string, string][] = [
    ['ternlm', report.version],
    ['runtime', `${report.runtime}, ${report.platform}`],
    ['processor', `${report.processor}, ${report.cores} ${report.cores === 1 ? 'core' : 'cores'}`],
    ['load average', report.loadAverage.map((x) => x.toFixed(2)).join(' ')],
    ['memory', `${bytes(report.memoryBytes)}, ${bytes(report.freeMemoryBytes)} free`],
    ['SIMD', yes(report.simd)],
    ['relaxed SIMD', yes(report.relaxedSimd)],
    ['shared memory', yes(report.sharedMemory)],
    ['kernels', report.tier === undefined ? 'none' : `${report.tier}, ternary dot ${report.dot}`],
    ...[first, ...others].filter((line) => line !== undefined).map((line): [string, string] => ['', line]),
    ['repacked', repacked(report.repacks)],
    ['threads', report.threads === undefined ? 'none' : `${report.threads} (-t sets another number)`],
    ...gpuRows(report.gpu),
    ['self-check', `${report.selfCheck.ok ? 'passed' : 'FAILED'}: ${report.selfCheck.result}`],
  ];
  const ok = works(report);
  const broken = report.selfCheck.ok ? 'the GPU computes wrong numbers' : 'ternlm does not work here';
  return [
    pairs(rows),
    '',
    styled(ok ? 'green' : 'red', ok ? 'ternlm works here.' : `${broken}.`, process.stdout),
    ...report.advice,
  ].join('\n');
}
