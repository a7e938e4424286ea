/**
 * Arithmetic that gives the same bits on every device. WGSL promises neither exact quotients and roots nor that a product and
 * a sum are rounded apart, so that bits would differ from driver to driver; what a reference spells out rounding by
 * rounding is computed with these. Only + - * of f32 are taken to be rounded to nearest even.
 *
 *   rounded(x)             x, as a number that no compiler can fuse or reorder with what comes next: it is xored with the
 *                          first word of the uniform block, which is 0; rounded4 of four
 *   divide(a, b)           a / b rounded to nearest even; normal numbers or a = 0
 *   divideSum(s, b)        the same of (s.x + s.y) / b, where |s.y| is at most half a last place of s.x
 *   squareRoot(x)          rounded to nearest even; normal, above 0
 *   addTo(s, v)            s + v of a sum in two floats, some 45 bits
 *   join(s, t)             s + t
 *   settled(s)             s with its second part as small as divideSum wants it
 */
export const EXACT = /* wgsl */ `
fn rounded(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ p.zero); }
fn rounded4(v: vec4<f32>) -> vec4<f32> { return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(p.zero)); }

fn divideSum(s: vec2<f32>, b: f32) -> f32 {
  let bits = bitcast<vec2<u32>>(vec2<f32>(s.x, b));
  if ((bits.x & 0x7fffffffu) == 0u) { return 0.0; }
  let m = (bits & vec2<u32>(0x7fffffu)) | vec2<u32>(0x800000u);
  let e = vec2<i32>((bits >> vec2<u32>(23u)) & vec2<u32>(255u));
  let shift = select(24u, 23u, m.x >= m.y);
  // The quotient's 24 bits, off by some last places; the remainder is small, so 32 bits of it are all of it.
  var q = u32(f32(m.x) / f32(m.y) * f32(1u << shift));
  var rest = bitcast<i32>((m.x << shift) - q * m.y);
  // The second part, in units of the remainder; what is below one of them only breaks ties.
  let low = select(s.y, -s.y, bits.x >> 31u == 1u) * f32(1u << shift) * powerOf2(150 - e.x);
  rest += i32(floor(low));
  let divisor = i32(m.y);
  let off = i32(floor(f32(rest) / f32(m.y)));
  q = bitcast<u32>(bitcast<i32>(q) + off);
  rest -= off * divisor;
  if (rest < 0) { q -= 1u; rest += divisor; }
  if (rest >= divisor) { q += 1u; rest -= divisor; }
  let tie = 2 * rest == divisor && (low > floor(low) || (q & 1u) == 1u);
  if (2 * rest > divisor || tie) { q += 1u; }
  let exponent = e.x - e.y + 150 - i32(shift);
  if (exponent < 1) { return 0.0; }
  let magnitude = (bitcast<u32>(exponent) << 23u) + (q - 0x800000u);
  return bitcast<f32>(((bits.x ^ bits.y) & 0x80000000u) | min(magnitude, 0x7f800000u));
}
fn divide(a: f32, b: f32) -> f32 { return divideSum(vec2<f32>(a, 0.0), b); }

/** 2^e, in two factors where one is out of range. */
fn powerOf2(e: i32) -> f32 {
  let first = clamp(e, -126, 127);
  return bitcast<f32>(bitcast<u32>(first + 127) << 23u) * bitcast<f32>(bitcast<u32>(clamp(e - first, -126, 127) + 127) << 23u);
}

fn squareRoot(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let m = (bits & 0x7fffffu) | 0x800000u;
  let e = i32(bits >> 23u) - 127;
  let odd = (e & 1) == 1;
  // s^2 is next to m 2^23 or m 2^24; the remainder fits in 32 bits again.
  let goal = m << select(23u, 24u, odd);
  var s = u32(select(sqrt(2.0 * f32(m)) * 2048.0, sqrt(f32(m)) * 4096.0, odd));
  s = bitcast<u32>(bitcast<i32>(s) + i32(floor(f32(bitcast<i32>(goal - s * s)) / f32(2u * s))));
  var rest = bitcast<i32>(goal - s * s);
  if (rest < 0) { s -= 1u; rest = bitcast<i32>(goal - s * s); }
  if (rest > i32(2u * s)) { s += 1u; rest = bitcast<i32>(goal - s * s); }
  if (rest > i32(s)) { s += 1u; }
  return bitcast<f32>((bitcast<u32>((e >> 1u) + 127) << 23u) + (s - 0x800000u));
}

fn addTo(s: vec2<f32>, v: f32) -> vec2<f32> {
  let sum = rounded(s.x + v);
  let part = rounded(sum - s.x);
  return vec2<f32>(sum, s.y + (rounded(s.x - rounded(sum - part)) + rounded(v - part)));
}
fn join(s: vec2<f32>, t: vec2<f32>) -> vec2<f32> {
  let sum = addTo(s, t.x);
  return vec2<f32>(sum.x, sum.y + t.y);
}
fn settled(s: vec2<f32>) -> vec2<f32> {
  let sum = rounded(s.x + s.y);
  return vec2<f32>(sum, s.y - rounded(sum - s.x));
}
`;

/**
 *   f16Bits(x)    x as the bits of the nearest half float, ties to even
 *   fromF16(h)    and back, exactly
 */
export const HALVES = /* wgsl */ `
fn f16Bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x47800000u) { return sign | 0x7c00u; }
  if (magnitude < 0x33000000u) { return sign; }
  let e = magnitude >> 23u;
  // Of a normal half 13 bits go, of a subnormal one more for each exponent below 2^-14.
  let drop = select(13u, 126u - e, e < 113u);
  let m = select(magnitude - 0x38000000u, (magnitude & 0x7fffffu) | 0x800000u, e < 113u);
  let half = 1u << (drop - 1u);
  let rest = m & ((1u << drop) - 1u);
  let up = rest > half || (rest == half && ((m >> drop) & 1u) == 1u);
  return sign | ((m >> drop) + select(0u, 1u, up));
}
fn fromF16(h: u32) -> f32 {
  let e = (h >> 10u) & 31u;
  let m = h & 0x3ffu;
  let sign = (h & 0x8000u) << 16u;
  if (e == 0u) { return bitcast<f32>(sign | bitcast<u32>(f32(m) * bitcast<f32>(0x33800000u))); }
  return bitcast<f32>(sign | select((e + 112u) << 23u, 0x7f800000u, e == 31u) | (m << 13u));
}
`;
