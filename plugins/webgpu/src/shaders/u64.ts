/**
 * Unsigned integers of 64 bits as vec2<u32>, low word first; sums and products are modulo 2^64.
 *
 *   product(a, b)      of two u32, all of it
 *   timesLow(a, b)     a * b
 *   timesHigh(a, b)    floor(a * b / 2^64)
 *   right(a, n)        a shifted by any n: 0 from 64 on
 *   left(a, n)
 *   normalShift(a)     by how much to the left the highest bit of a, not 0, is bit 63
 */
export const U64 = /* wgsl */ `
fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}
fn less(a: vec2<u32>, b: vec2<u32>) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }

fn product(a: u32, b: u32) -> vec2<u32> {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let side = (a & 0xffffu) * (b >> 16u);
  let middle = (a >> 16u) * (b & 0xffffu) + (side & 0xffffu) + (low >> 16u);
  return vec2<u32>((middle << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (side >> 16u) + (middle >> 16u));
}
fn timesLow(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return product(a.x, b.x) + vec2<u32>(0u, a.x * b.y + a.y * b.x);
}
fn timesHigh(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let middle = plus(product(a.x, b.y), vec2<u32>(product(a.x, b.x).y, 0u));
  let other = plus(product(a.y, b.x), vec2<u32>(middle.x, 0u));
  return plus(product(a.y, b.y), plus(vec2<u32>(middle.y, 0u), vec2<u32>(other.y, 0u)));
}

fn right(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n < 32u) { return vec2<u32>((a.x >> n) | (a.y << (32u - n)), a.y >> n); }
  return vec2<u32>(select(0u, a.y >> (n & 31u), n < 64u), 0u);
}
fn left(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n < 32u) { return vec2<u32>(a.x << n, (a.y << n) | (a.x >> (32u - n))); }
  return vec2<u32>(0u, select(0u, a.x << (n & 31u), n < 64u));
}
fn normalShift(a: vec2<u32>) -> u32 { return select(countLeadingZeros(a.y), 32u + countLeadingZeros(a.x), a.y == 0u); }
`;

/** A constant: floor(x) of an x below 2^64. */
export function u64(x: number): string {
  const bits = BigInt(Math.floor(x));
  return `vec2<u32>(${bits & 0xffffffffn}u, ${bits >> 32n}u)`;
}
