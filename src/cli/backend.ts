import type { Backend, LoadModelOptions } from '../index.ts';
import { type Arguments, type Flag, UsageError } from './arguments.ts';
import { table } from './format.ts';
import { say, styled } from './terminal.ts';

// The GPU is a plugin that need not be there; what is used of it is declared here.

/** Time of all dispatches of a stem. */
export interface ProfileRow {
  readonly stem: string;
  readonly dispatches: number;
  readonly ms: number;
}

/** What stands for the GPU that would be taken. */
export interface Gpu {
  readonly adapter: string;
  /** A renderer on the CPU, slower than kernels for it. */
  readonly software: boolean;
  /** Driver, features, limits, kernels: labels and what they stand for. */
  readonly rows: readonly (readonly [string, string])[];
  /** Whether it computes right. */
  readonly ok: boolean;
}

export interface GpuBackend extends Backend {
  readonly info: Pick<Gpu, 'adapter' | 'software'>;
  /** Empty where the device has no timestamps. */
  profile(): readonly ProfileRow[];
}

interface Plugin {
  webgpu(options: { profile?: boolean; selfTest?: boolean }): Promise<GpuBackend>;
  /** Throws where there is no adapter. */
  probe(): Promise<Gpu>;
}

/** As a variable, since it need not be there when types are checked. */
const PLUGIN: string = '@ternlm/webgpu';
const INSTALL = `npm install ${PLUGIN} webgpu`;

export const BACKEND_FLAG: Flag = {
  name: 'backend',
  value: 'NAME',
  kind: ['auto', 'wasm', 'webgpu'],
  help: `what computes: wasm, the CPU; webgpu, a GPU (${INSTALL}); auto, a real GPU where there is one, else the CPU (default: wasm)`,
};

export const PROFILE_FLAG: Flag = {
  name: 'profile',
  help: 'tell the time of each kernel in the end (--backend webgpu)',
};

/** Flags of the CPU alone. */
const CPU_FLAGS = ['threads', 'tier', 'no-revectorize'];

/** @throws UsageError where the plugin is not installed */
async function plugin(): Promise<Plugin> {
  try {
    return (await import(PLUGIN)) as Plugin;
  } catch (error) {
    // A package that it lacks itself is its own matter.
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_MODULE_NOT_FOUND' || !message.includes(`'${PLUGIN}'`)) throw error;
    throw new UsageError(`${PLUGIN} is not installed; to compute on a GPU: ${INSTALL}`);
  }
}

/** The GPU that `webgpu` would take, or why there is none. */
export async function probeGpu(): Promise<Gpu | string> {
  try {
    return await (await plugin()).probe();
  } catch (error) {
    return messageOf(error);
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** What --backend asks for: an open GPU, or undefined for the CPU. With 'auto' a note says why it is not the GPU. */
export async function openGpu(given: Arguments, profile = false): Promise<GpuBackend | undefined> {
  const name = given.text('backend') ?? 'wasm';
  if (profile && name === 'wasm') throw new UsageError('--profile: only webgpu has it, expected --backend webgpu');
  if (name === 'wasm') return undefined;
  const cpu = CPU_FLAGS.find((flag) => given.has(flag));
  if (cpu !== undefined) throw new UsageError(`--${cpu}: an option of the CPU, expected --backend wasm with it`);
  if (name === 'webgpu') return (await plugin()).webgpu({ profile });
  let why: string;
  try {
    const { webgpu } = await plugin();
    // A look first: to test a renderer in software takes seconds.
    const seen = await webgpu({ selfTest: false });
    await seen.dispose();
    if (!seen.info.software) return await webgpu({ profile });
    why = `${seen.info.adapter} is a software renderer`;
  } catch (error) {
    why = messageOf(error);
  }
  if (profile) throw new UsageError(`--profile: only webgpu has it; ${why}`);
  say(styled('yellow', `note: the CPU computes: ${why}`));
  return undefined;
}

/** Options of a GPU that was opened, or of the CPU. */
export function backendOptions(
  given: Arguments,
  gpu: GpuBackend | undefined,
  threads: number | undefined = given.number('threads'),
): Pick<LoadModelOptions, 'backend' | 'fallback' | 'threads' | 'tier' | 'revectorize'> {
  if (gpu !== undefined) return { backend: gpu, fallback: given.text('backend') === 'auto' };
  return {
    threads,
    tier: given.text('tier') as LoadModelOptions['tier'],
    revectorize: !given.has('no-revectorize'),
  };
}

/** The table of --profile, which is about the run and not what was asked for. */
export function sayProfile(gpu: GpuBackend): void {
  const rows = [...gpu.profile()].sort((a, b) => b.ms - a.ms);
  if (rows.length === 0) {
    say(styled('yellow', `note: no profile: ${gpu.info.adapter} has no timestamps, or nothing ran on it`));
    return;
  }
  const all = rows.reduce((sum, { ms }) => sum + ms, 0);
  const lines = rows.map(({ stem, dispatches, ms }) => {
    const share = all > 0 ? (100 * ms) / all : 0;
    return [
      stem,
      String(dispatches),
      ms.toFixed(2),
      ((1000 * ms) / Math.max(1, dispatches)).toFixed(1),
      share.toFixed(1),
    ];
  });
  say(table(['kernel', 'dispatches', 'ms', 'us each', '%'], lines));
}
