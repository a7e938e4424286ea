import { wasmBackend } from '../../../dist/backend/wasm/backend.js';
import type { Abilities } from '../../../test/contract.js';

/** Other ternary layouts are repacked, and a head is never screened. Bits are the CPU's. */
export const ABILITIES: Abilities = {
  computes: ['i2_s', 'tq2_0'],
  screens: false,
  peer: () => wasmBackend({ threads: 1 }),
};

/** At least a case of every pipeline that differs by variant: by how sums are joined over lanes, or by the ternary dot. */
export const EACH_PIPELINE: RegExp = new RegExp(
  [
    '(attn_out|qkv) (i2_s|tq2_0) (127|640) x (384|768|2560), (1|2|5) rows?',
    'gate_up relu2 (i2_s|f16) 127 x 384',
    '(attn_out|head) (f16|q8_0|q6_k) 127 x',
    'with (input norms|a norm behind)|hidden',
    'largest sums',
    'attention f16, (20 / 5|3 / 3) x \\d+, .*(two sequences|40 rows|in no order)',
    'sample .* x 4099',
    'a layer with few',
  ].join('|'),
);
