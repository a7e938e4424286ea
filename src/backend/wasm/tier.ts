import { host } from '#host';
import type { KernelsName } from '../../host/kernels.js';
import type { Backend, Tensor } from '../backend.ts';
import { instantiate } from './abi.ts';
import { createMemory } from './memory.ts';
import { type Answer, answers, batchTimer, difference } from './self_test.ts';

/**
 * revec     relaxed SIMD in the shape that V8's revectoriser makes 256-bit operations of
 * relaxed   relaxed SIMD
 * simd      baseline SIMD
 */
export type Tier = 'revec' | 'relaxed' | 'simd';

/** The ternary dot: baseline `i32x4.dot_i16x8_s`, relaxed into i16, or relaxed and added to i32. */
export type Dot = 'i16x8' | 'relaxed i16' | 'relaxed add';

export interface TierChoice {
  readonly tier: Tier;
  readonly dot: Dot;
  readonly module: WebAssembly.Module;
  /** Whether the module is for memory that threads share; else for private memory. */
  readonly shared: boolean;
  /** A line for each tier that was looked at, best first, e.g. "relaxed: not accepted by this engine". */
  readonly why: readonly string[];
}

/** A backend of one thread over a candidate. */
type Open = (candidate: TierChoice) => Promise<Backend<Tensor>>;

/** Best first. */
const TIERS: readonly Tier[] = ['revec', 'relaxed', 'simd'];

const KERNELS: Readonly<Record<KernelsName, { readonly tier: Tier; readonly dot: Dot }>> = {
  revec: { tier: 'revec', dot: 'relaxed add' },
  relaxed: { tier: 'relaxed', dot: 'relaxed add' },
  relaxed_i16: { tier: 'relaxed', dot: 'relaxed i16' },
  simd: { tier: 'simd', dot: 'i16x8' },
};

/** `revec` is taken unasked where it computes a batch this many times as fast as `relaxed`: less could be noise. */
const WORTH = 1.2;
/** Of some 1 ms each. */
const ROUNDS = 5;

/** For a module compiled under them, the code that is tested is the code that runs: no baseline compiler, nothing left for later. */
const REVECTORIZE: readonly string[] = [
  '--experimental-wasm-revectorize',
  '--no-liftoff',
  '--no-wasm-lazy-compilation',
];
/** What is called runs on the optimising compiler from its first call on. */
const OPTIMISE: readonly string[] = ['--no-liftoff'];

/** Compiled once in a process. */
const modules = new Map<string, Promise<WebAssembly.Module>>();

function compiled(
  name: KernelsName,
  shared: boolean,
  compile: (bytes: Uint8Array<ArrayBuffer>) => Promise<WebAssembly.Module> = (bytes) => WebAssembly.compile(bytes),
): Promise<WebAssembly.Module> {
  const key = `${name} ${shared}`;
  let module = modules.get(key);
  if (module === undefined) {
    const found = host.kernels(name, shared);
    module = found instanceof WebAssembly.Module ? Promise.resolve(found) : compile(found);
    modules.set(key, module);
  }
  return module;
}

/** The module of that name, not tested. */
export async function kernelsNamed(name: KernelsName, shared: boolean): Promise<TierChoice> {
  return { ...KERNELS[name], shared, module: await compiled(name, shared), why: [`${name}: asked for by name`] };
}

const choices = new Map<string, Promise<TierChoice>>();

/**
 * The tier to run: the best one that this engine accepts AND whose ops all give the known answers. The second half matters: V8
 * 11.3 accepts relaxed SIMD behind a flag, and its first-tier compiler then doubles one of the dots. Chosen once in a process.
 *
 * @throws Error when the wanted tier, or with 'auto' every tier, is refused; the message says why.
 */
export function chooseTier(
  wanted: Tier | 'auto',
  revectorize: boolean,
  shared: boolean,
  open: Open,
): Promise<TierChoice> {
  if (wanted !== 'auto' && !TIERS.includes(wanted)) {
    return Promise.reject(new RangeError(`tier: got '${wanted}', expected auto, revec, relaxed or simd`));
  }
  const key = `${wanted} ${revectorize} ${shared}`;
  const choice = choices.get(key) ?? choose(wanted, revectorize, shared, open);
  choices.set(key, choice);
  choice.catch(() => choices.delete(key)); // may have been for want of memory
  return choice;
}

async function choose(wanted: Tier | 'auto', revectorize: boolean, shared: boolean, open: Open): Promise<TierChoice> {
  const why: string[] = [];
  const tiers = wanted !== 'auto' ? [wanted] : TIERS.filter((tier) => tier !== 'revec' || revectorize);
  for (const tier of tiers) {
    let name: KernelsName = tier;
    let module: WebAssembly.Module;
    let note = '';
    try {
      if (tier === 'revec') {
        const hindrance = revectorize ? await compileRevec(shared) : 'not asked for';
        if (hindrance !== undefined && wanted === 'auto') {
          why.push(`revec: ${hindrance}`);
          continue;
        }
        if (hindrance !== undefined) note = `, in 128 bits: ${hindrance}`;
      }
      if (tier === 'relaxed') [name, note] = relaxedKernels(await compiled('relaxed', shared), shared);
      module = await compiled(name, shared);
    } catch (error) {
      if (isForbidden(error)) throw new Error(FORBIDDEN, { cause: error });
      const detail = error instanceof WebAssembly.CompileError ? '' : `: ${String(error)}`;
      why.push(`${tier}: not accepted by this engine${detail}`);
      continue;
    }
    const candidate: TierChoice = { ...KERNELS[name], module, shared, why };
    const wrong = await wrongAnswer(candidate, open);
    if (wrong !== undefined) {
      why.push(`${tier}: wrong on this engine: ${wrong}`);
      continue;
    }
    if (tier === 'revec' && wanted === 'auto') {
      const gain = await gainOf(candidate, open);
      if (gain < WORTH) {
        why.push(`revec: right, but not faster here (${gain.toFixed(1)}x): the engine does not fuse pairs`);
        continue;
      }
      note = `; ${gain.toFixed(1)}x as fast as relaxed on a batch`;
    }
    why.push(`${tier}: accepted, known answers right${note}`);
    return candidate;
  }
  throw new Error(`no kernels run here: ${why.join('; ')}`);
}

const FORBIDDEN =
  "no kernels run here: a Content-Security-Policy forbids WebAssembly, expected script-src 'wasm-unsafe-eval' in it";

/** Browsers tell of a policy in the message alone, each in its own words. */
const isForbidden = (error: unknown) =>
  error instanceof Error && /unsafe-eval|Content.Security.Policy|\bCSP\b/i.test(error.message);

/** Compiles `revec` in 256 bits, or says why not. */
async function compileRevec(shared: boolean): Promise<string | undefined> {
  const hindrance = host.noRevectorizer();
  if (hindrance !== undefined) return hindrance;
  await compiled('revec', shared, (bytes) => host.withFlags(REVECTORIZE, () => new WebAssembly.Module(bytes)));
  return undefined;
}

/** Which module is `relaxed` on this engine, and why; told by any module that has the dot_add. */
function relaxedKernels(module: WebAssembly.Module, shared: boolean): [KernelsName, string] {
  const answer = instantiate(module, createMemory(shared).memory, 0).dotProbe();
  if (answer === 129_540) return ['relaxed', '; the dot is vpdpbusd, so dot_add'];
  if (answer === -508) return ['relaxed', '; the dot is of signed bytes, so dot_add'];
  if (answer === 65_534) return ['relaxed_i16', '; the dot_add is pmaddubsw and more, so the i16 dot'];
  return ['relaxed_i16', `; the dot_add is unknown (127 x 255 gives ${answer}), so the i16 dot`];
}

let baselineAnswers: Promise<Answer[]> | undefined;

/**
 * What an op answers wrongly, or undefined. `simd` is held to the reference; the others to `simd`, bit for bit, as no target
 * rounds otherwise, and so that most starts need not load the reference.
 */
export async function wrongAnswer(candidate: TierChoice, open: Open): Promise<string | undefined> {
  try {
    const got = await answersOf(candidate, open);
    if (candidate.tier === 'simd') {
      const { referenceBackend } = await import('../../reference/backend.ts');
      return difference(got, await answers(referenceBackend()), false);
    }
    baselineAnswers ??= kernelsNamed('simd', candidate.shared).then((simd) => answersOf(simd, open));
    return difference(got, await baselineAnswers, true);
  } catch (error) {
    baselineAnswers = undefined;
    return String(error);
  }
}

async function answersOf(candidate: TierChoice, open: Open): Promise<Answer[]> {
  const backend = await open(candidate);
  try {
    return await answers(backend);
  } finally {
    await backend.dispose();
  }
}

/** How many times as fast as `relaxed` it computes a batch. */
async function gainOf(revec: TierChoice, open: Open): Promise<number> {
  const { module, shared } = revec;
  const [name] = relaxedKernels(module, shared);
  const backends = [await open(await kernelsNamed(name, shared)), await open(revec)];
  try {
    const timers = backends.map(batchTimer);
    const least = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    // A run on one thread is over when the call returns.
    await host.withFlags(OPTIMISE, timers[0]);
    // In turn, as other load comes and goes.
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, time] of timers.entries()) least[i] = Math.min(least[i], await time());
    }
    return least[0] / least[1];
  } finally {
    for (const backend of backends) await backend.dispose();
  }
}
