import type { DenseType, WeightType } from 'ternlm/backend';

/** Weights and bytes of a block; a row is whole blocks. The layouts are drawn in the core's src/gguf/layouts/. */
const BLOCKS: Readonly<Record<DenseType, readonly [weights: number, bytes: number]>> = {
  f32: [1, 4],
  f16: [1, 2],
  bf16: [1, 2],
  q8_0: [32, 34],
  q6_k: [256, 210],
  q4_0: [32, 18],
};

export function isDense(type: WeightType): type is DenseType {
  return type in BLOCKS;
}

/** Bytes of a row of `cols` weights. */
export function rowBytes(type: DenseType, cols: number): number {
  const [weights, bytes] = BLOCKS[type];
  return (cols / weights) * bytes;
}

/** What `load(i)` of `decodeRow` gives: vectors where eight weights of a row begin at one, else words. */
export function loaded(type: DenseType): 'vec4<u32>' | 'u32' {
  return BLOCKS[type][0] === 1 ? 'vec4<u32>' : 'u32';
}

/** What blocks hold, which begin at any even byte. */
const BYTES = /* wgsl */ `
fn halfAt(at: u32) -> u32 { return (load(at >> 2u) >> (8u * (at & 2u))) & 0xffffu; }
fn eightBytes(at: u32) -> vec2<u32> {
  let i = at >> 2u;
  let words = vec2<u32>(load(i), load(i + 1u));
  if ((at & 2u) == 0u) { return words; }
  return (words >> vec2<u32>(16u)) | (vec2<u32>(words.y, load(i + 2u)) << vec2<u32>(16u));
}
fn bytes(w: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)); }
fn scaled(codes: vec2<u32>, zero: f32, scale: f32) -> Eight {
  return Eight((bytes(codes.x) - zero) * scale, (bytes(codes.y) - zero) * scale);
}
`;

const EIGHT: Readonly<Record<DenseType, string>> = {
  f32: 'return Eight(bitcast<vec4<f32>>(load(row / 16u + 2u * i)), bitcast<vec4<f32>>(load(row / 16u + 2u * i + 1u)));',
  f16: `let w = load(row / 16u + i);
  return Eight(
    vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
    vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)),
  );`,
  bf16: `let w = load(row / 16u + i);
  let even = bitcast<vec4<f32>>(w << vec4<u32>(16u));
  let odd = bitcast<vec4<f32>>(w & vec4<u32>(0xffff0000u));
  return Eight(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));`,
  q8_0: `let at = row + 34u * (i >> 2u);
  return scaled(eightBytes(at + 2u + 8u * (i & 3u)) ^ vec2<u32>(0x80808080u), 128.0, fromF16(halfAt(at)));`,
  q4_0: `let at = row + 18u * (i >> 2u);
  let codes = eightBytes(at + 2u + 8u * (i & 1u)) >> vec2<u32>(2u * (i & 2u));
  return scaled(codes & vec2<u32>(0x0f0f0f0fu), 8.0, fromF16(halfAt(at)));`,
  q6_k: `let at = row + 210u * (i >> 5u);
  let half = (i >> 4u) & 1u;
  let quarter = (i >> 2u) & 3u;
  let l = 8u * (i & 3u);
  let low = eightBytes(at + 64u * half + 32u * (quarter & 1u) + l) >> vec2<u32>(2u * (quarter & 2u));
  let high = eightBytes(at + 128u + 32u * half + l) >> vec2<u32>(2u * quarter);
  let codes = (low & vec2<u32>(0x0f0f0f0fu)) | ((high & vec2<u32>(0x03030303u)) << vec2<u32>(4u));
  let scaleAt = at + 192u + ((i & 31u) >> 1u);
  let scale = bitcast<i32>(load(scaleAt >> 2u) << (24u - 8u * (scaleAt & 3u))) >> 24u;
  return scaled(codes, 32.0, fromF16(halfAt(at + 208u)) * f32(scale));`,
};

/**
 * `eight(row, i)`: weights 8 i … 8 i + 7 of the row that begins at byte `row`, exactly, as src/reference/decode_row.ts gives
 * them: all products of scales and codes fit the 24 bits of an f32. Wants HALVES, and `load(i)`, the i-th of `loaded(type)`.
 */
export function decodeRow(type: DenseType): string {
  return `
struct Eight { a: vec4<f32>, b: vec4<f32> }
${loaded(type) === 'u32' ? BYTES : ''}
fn eight(row: u32, i: u32) -> Eight {
  ${EIGHT[type]}
}
`;
}
