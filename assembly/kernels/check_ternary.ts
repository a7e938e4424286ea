/** Bytes [begin, end) of I2_S codes at w: the first of them that holds a code 3, or -1 if none does. Both multiples of 32. */
export function checkTernary(w: usize, begin: u32, end: u32): u32 {
  const low = i8x16.splat(0x55);
  for (let i = begin; i < end; i += 32) {
    const a = v128.load(w + <usize>i), b = v128.load(w + <usize>i, 16);
    // Both bits of a code: a shift within 16 bits brings each high bit to its low bit, and what crosses bytes is masked off.
    const both = v128.or(v128.and(a, i16x8.shr_u(a, 1)), v128.and(b, i16x8.shr_u(b, 1)));
    if (!v128.any_true(v128.and(both, low))) continue;
    for (let j = i; ; j++) {
      const byte = <u32>load<u8>(w + <usize>j);
      if (byte & (byte >> 1) & 0x55) return j;
    }
  }
  return -1;
}
