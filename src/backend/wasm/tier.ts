import { bitLinear } from '../../reference/bit_linear.ts';
import { quantizeI8 } from '../../reference/quantize_i8.ts';
import { instantiate } from './abi.ts';
import { kernels } from './kernels.js';
import { createMemory } from './memory.ts';

export type Tier = 'revec' | 'relaxed_i16' | 'relaxed' | 'simd';

export interface TierChoice {
  readonly tier: Tier;
  readonly module: WebAssembly.Module;
  /** A line for each tier that was looked at, best first, e.g. "relaxed: not accepted by this engine". */
  readonly why: readonly string[];
}

/** Best first. */
const TIERS: readonly Tier[] = ['revec', 'relaxed', 'relaxed_i16', 'simd'];

const bytesOf = (tier: Tier): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(kernels[tier]), (char) => char.charCodeAt(0));

/**
 * The tier to run: the best one that this engine accepts AND whose ternary dot gives the known answer when called cold. The
 * second half matters: V8 11.3 accepts relaxed SIMD behind a flag, and its first-tier compiler then doubles one of the dots.
 *
 * @throws Error when the wanted tier, or with 'auto' every tier, is refused; the message says why.
 */
export async function chooseTier(wanted: Tier | 'auto'): Promise<TierChoice> {
  const why: string[] = [];
  if (wanted !== 'auto' && !TIERS.includes(wanted)) {
    throw new RangeError(`tier: got '${wanted}', expected auto, ${TIERS.join(' or ')}`);
  }
  for (const tier of wanted === 'auto' ? TIERS : [wanted]) {
    const bytes = bytesOf(tier);
    if (!WebAssembly.validate(bytes)) {
      why.push(`${tier}: not accepted by this engine`);
      continue;
    }
    const module = await WebAssembly.compile(bytes);
    if (!answersRight(module)) {
      why.push(`${tier}: gives a wrong answer on this engine`);
      continue;
    }
    why.push(`${tier}: accepted, known answer right`);
    return { tier, module, why };
  }
  throw new Error(`no kernels run here: ${why.join('; ')}`);
}

/** PREPARE and LINEAR of a 3 x 256 matrix in a fresh instance, against src/reference/. */
export function answersRight(module: WebAssembly.Module): boolean {
  const rows = 3;
  const cols = 256;
  const memory = createMemory();
  const fresh = instantiate(module, memory.memory, 0);
  // Every code, and activations of both signs up to the ends of int8.
  const w = Uint8Array.from({ length: (rows * cols) / 4 + 32 }, (_, i) => [0x12, 0x86, 0x49, 0xa0, 0x2a][(i * 7) % 5]);
  new DataView(w.buffer).setFloat32((rows * cols) / 4, 0.5, true);
  const x = Float32Array.from({ length: cols }, (_, i) => (((i * 37) % 255) - 127) / 3);
  const weights = memory.alloc(w.length);
  const input = memory.alloc(4 * cols);
  const prepared = memory.alloc(fresh.preparedBytes(cols, fresh.I2_S.value));
  const output = memory.alloc(4 * rows);
  const words = [
    ...[fresh.PREPARE.value, 11, 1, 0, input.at, 0, 0, cols, fresh.I2_S.value, 0, prepared.at],
    ...[fresh.LINEAR.value, 12, fresh.I2_S.value, weights.at, rows, cols, prepared.at, 1, output.at, rows, 0, 0],
    0,
  ];
  const list = memory.alloc(4 * words.length);
  memory.view(weights, 0, w.length).set(w);
  memory.view(input, 0, 4 * cols).set(new Uint8Array(x.buffer));
  memory.view(list, 0, list.bytes).set(new Uint8Array(Int32Array.from(words).buffer));
  fresh.runProgram(list.at, 0, 1);
  const got = new Float32Array(memory.view(output, 0, 4 * rows).slice().buffer);
  const expected = bitLinear(w, rows, cols, quantizeI8(x));
  return expected.every((y, i) => y === got[i]);
}
