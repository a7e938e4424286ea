/**
 * TQ1_0 bytes as TQ2_0 (bit_linear_tq.ts), `blocks` of them: the same weights and scales.
 *
 *   block     54 bytes for 256 weights: 48 and 4 of trits = weight + 1, then the scale, f16
 *   byte      five trits as ceil(n * 256 / 243), n being the number they are in base 3, the first the highest
 *   byte p    of the first 32: weights p + 32 n for trit n; of the next 16: 160 + p + 16 n; of the last 4: 240 + p + 4 n, n < 4
 */
export function repackTq1(from: Uint8Array, blocks: number): Uint8Array {
  const to = new Uint8Array(66 * blocks);
  for (let block = 0; block < blocks; block++) {
    const bytes = from.subarray(54 * block, 54 * block + 54);
    const codes = to.subarray(66 * block, 66 * block + 66);
    const put = (weight: number, byte: number, trit: number): void => {
      // The trits before it leave the byte at the top; the first of what is left is its integer part in thirds.
      const code = (((byte * 3 ** trit) % 256) * 3) >> 8;
      codes[32 * (weight >> 7) + (weight & 31)] |= code << (2 * ((weight >> 5) & 3));
    };
    for (let trit = 0; trit < 5; trit++) {
      for (let p = 0; p < 32; p++) put(p + 32 * trit, bytes[p], trit);
      for (let p = 0; p < 16; p++) put(160 + p + 16 * trit, bytes[32 + p], trit);
      if (trit < 4) for (let p = 0; p < 4; p++) put(240 + p + 4 * trit, bytes[48 + p], trit);
    }
    codes.set(bytes.subarray(52), 64);
  }
  return to;
}
