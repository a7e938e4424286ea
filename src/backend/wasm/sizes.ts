import { host } from '#host';
import type { Backend, WeightType } from '../backend.ts';
import type { Kernels } from './abi.ts';
import { LIMIT_BYTES } from './memory.ts';
import type { Tier } from './tier.ts';

/** What of the backend hangs on its kernels and threads alone: known before it is opened. */
export interface WasmSizing
  extends Pick<Backend, 'computes' | 'repacks' | 'limitBytes' | 'maxRepeats' | 'scratchBytes' | 'screenBytes'> {
  readonly threads: number;
  /** Bytes that the system could give when this was asked, where it tells. */
  readonly availableBytes: number | undefined;
  /** Of a row of `cols` prepared for a matrix of this type. */
  rowBytes(cols: number, type: WeightType): number;
  /** Of each thread of a screened head: a heap, and a row of the head. */
  rescoreBytes(cols: number): number;
}

/** Forms of one batch that an op prepares: those of q, k and v, where each has a norm of its own. */
const MAX_PREPARED = 3;

/** Tensors and what stands in them begin at multiples of 64 bytes. */
export const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;

/**
 * One row of 2560 x 6912, one thread, GMAC/s of i2_s and tl2 (tl1 is slower than both from memory): `simd` 24 and 27 in cache,
 * 15.6 and 17.4 from memory, where tl2 has a sixth less to read; `relaxed` 56 and 32, 23 and 19 (Xeon with other work on it, Node
 * 20 and 24, November 2026). Batches are quicker from codes on every tier; on `simd` they give way, as most that a model
 * computes is one row.
 */
function repacksOf(tier: Tier): Backend['repacks'] {
  const all = { tl1: 'i2_s', tl2: 'i2_s', tq1_0: 'tq2_0' } as const;
  return tier === 'simd' ? { ...all, tl2: undefined } : all;
}

export function weightCodes(kernels: Kernels): Record<WeightType, number> {
  return {
    i2_s: kernels.I2_S.value,
    tq1_0: kernels.TQ1_0.value,
    tq2_0: kernels.TQ2_0.value,
    f16: kernels.F16.value,
    bf16: kernels.BF16.value,
    f32: kernels.F32.value,
    q8_0: kernels.Q8_0.value,
    q6_k: kernels.Q6_K.value,
    tl1: kernels.TL1.value,
    tl2: kernels.TL2.value,
    q4_0: kernels.Q4_0.value,
  };
}

export function sizingOf(kernels: Kernels, tier: Tier, threads: number): WasmSizing {
  const codes = weightCodes(kernels);
  const rowBytes = (cols: number, type: WeightType) => kernels.preparedBytes(cols, codes[type]);
  const rescoreBytes = (cols: number) => kernels.HEAP.value * 8 + align(cols * 4);
  return {
    computes: ['i2_s', 'tl1', 'tl2', 'tq1_0', 'tq2_0'],
    repacks: repacksOf(tier),
    maxRepeats: 1,
    limitBytes: LIMIT_BYTES,
    threads,
    availableBytes: host.availableBytes?.(),
    rowBytes,
    rescoreBytes,
    scratchBytes(rows, cols, headDim, vocab) {
      const widest = Math.max(...(['i2_s', 'f32'] as const).map((type) => rowBytes(cols, type)));
      const lookups = Math.min(rows, kernels.LOOKUP_ROWS.value - 1);
      const matmul =
        2 * align(rows * cols * 4) +
        MAX_PREPARED * align(Math.max(rows * widest, lookups * rowBytes(cols, 'tl1'))) +
        threads * Math.max(rescoreBytes(cols), kernels.linearScratchBytes(cols, rows));
      const thread = align(Math.max(kernels.attentionScratchBytes(headDim), kernels.sampleScratchBytes(vocab)));
      return Math.max(matmul, threads * thread);
    },
    // Of more than the address space the kernels' 32 bits wrap around; that fits nowhere.
    screenBytes: (rows, cols) =>
      rows * (cols + 44) < LIMIT_BYTES ? kernels.screenBytes(rows, cols) >>> 0 : rows * cols,
  };
}
