import { declare, type Kernel, THREADS, type Variant } from './declare.ts';

/**
 * TQ1_0 as TQ2_0: `words` of `to`, each of two halves of a word: two bytes of codes or a scale (src/reference/repack.ts). The last
 * word may be half of something else, which stays.
 */
export function repackTq1(variant: Variant): Kernel {
  return {
    stem: 'repack',
    code: `${declare(variant, ['w: array<u32>', '*to: array<u32>'], ['halves: u32'])}
fn byteAt(at: u32) -> u32 { return (w[at / 4u] >> (8u * (at % 4u))) & 255u; }

/** The code of a weight, 0 … 255, of the block that begins at byte \`start\`. */
fn codeOf(start: u32, weight: u32) -> u32 {
  var byte = weight % 32u;
  var trit = weight / 32u;
  if (weight >= 240u) {
    byte = 48u + weight % 4u;
    trit = (weight - 240u) / 4u;
  } else if (weight >= 160u) {
    byte = 32u + weight % 16u;
    trit = (weight - 160u) / 16u;
  }
  // The trits before it leave the byte at the top; the first of what is left is its integer part in thirds.
  var left = byteAt(start + byte);
  for (var i = 0u; i < trit; i++) { left = (3u * left) & 255u; }
  return (3u * left) >> 8u;
}

fn half(i: u32) -> u32 {
  let start = 54u * (i / 33u);
  let pair = i % 33u;
  if (pair == 32u) { return byteAt(start + 52u) | (byteAt(start + 53u) << 8u); }
  var bits = 0u;
  for (var byte = 2u * pair; byte < 2u * pair + 2u; byte++) {
    for (var field = 0u; field < 4u; field++) {
      let code = codeOf(start, 128u * (byte / 32u) + 32u * field + byte % 32u);
      bits |= code << (8u * (byte % 2u) + 2u * field);
    }
  }
  return bits;
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < (p.halves + 1u) / 2u; i += groups.x * ${THREADS}u) {
    var high = to[i] >> 16u;
    if (2u * i + 1u < p.halves) { high = half(2u * i + 1u); }
    to[i] = half(2u * i) | (high << 16u);
  }
}
`,
  };
}
