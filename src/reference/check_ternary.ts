/**
 * Index of the first byte of ternary codes that holds a code 3 (both bits of a pair), or 2^32 - 1. `w` are I2_S codes, or
 * TQ2_0 blocks with `tq2`, of whose 66 bytes 64 are codes.
 */
export function checkTernary(w: Uint8Array, tq2 = false): number {
  const bad = w.findIndex(
    (byte, i) => !(tq2 && i % 66 >= 64) && [0, 2, 4, 6].some((shift) => ((byte >> shift) & 3) === 3),
  );
  return bad < 0 ? 0xffff_ffff : bad;
}
