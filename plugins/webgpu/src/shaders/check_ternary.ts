import { declare, type Kernel, THREADS, type Variant } from './declare.ts';

/**
 * What `badBits(i, word)` finds in word i of a ternary matrix: bits that are set in bytes that code no weight.
 *
 *   codes     i2_s: both bits of a pair, code 3
 *   blocks    tq2_0: the same, but for the scale in the last two of each 66 bytes; half a word at the end is a scale, left out
 *   indices   tl1, tl2: nibbles above what they may be, which is `most` before word `signs`, 8 from `pairs` on, and 0 from
 *             `padding` on; signs may be all
 */
const BAD_BITS = {
  codes: 'return word & (word >> 1u) & 0x55555555u;',
  blocks: `let low = select(0x5555u, 0u, (2u * i) % 33u == 32u);
  let high = select(0x55550000u, 0u, (2u * i) % 33u == 31u);
  return word & (word >> 1u) & (low | high);`,
  indices: `if (i >= p.signs && i < p.pairs) { return 0u; }
  let most = select(select(0u, 8u, i < p.padding), p.most, i < p.signs);
  // A nibble above it carries into bit 7 of a byte.
  let fill = (127u - most) * 0x01010101u;
  return (((word & 0x0f0f0f0fu) + fill) | (((word >> 4u) & 0x0f0f0f0fu) + fill)) & 0x80808080u;`,
} as const;

/** The first byte of `words` of w that codes no weight goes to u32 `at` of `found`, if it is below what is there. */
export function checkTernary(variant: Variant, kind: keyof typeof BAD_BITS): Kernel {
  const indices = kind === 'indices' ? ['most: u32', 'signs: u32', 'pairs: u32', 'padding: u32'] : [];
  return {
    stem: 'check_ternary',
    code: `${declare(variant, ['w: array<u32>', '*found: array<atomic<u32>>'], ['words: u32', 'at: u32', ...indices])}
fn badBits(i: u32, word: u32) -> u32 {
  ${BAD_BITS[kind]}
}
@compute @workgroup_size(${THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < p.words; i += groups.x * ${THREADS}u) {
    let bits = badBits(i, w[i]);
    if (bits == 0u) { continue; }
    atomicMin(&found[p.at], 4u * i + firstTrailingBit(bits) / 8u);
    break;
  }
}
`,
  };
}
