/** Index of the first byte of I2_S codes that holds a code 3 (both bits of a pair), or 2^32 - 1. */
export function checkTernary(codes: Uint8Array): number {
  const bad = codes.findIndex((byte) => [0, 2, 4, 6].some((shift) => ((byte >> shift) & 3) === 3));
  return bad < 0 ? 0xffff_ffff : bad;
}
