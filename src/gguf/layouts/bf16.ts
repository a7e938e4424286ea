// BF16: the upper half of an IEEE 754 binary32, little-endian.
//
//   bit   15    14       7 6        0
//         | sign | exponent | mantissa |

/** Type id in the file. */
export const id = 30;
/** Row length must be a multiple of this. */
export const rowMultiple = 1;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 2);
}

/** packed -> values, in file order; exact. */
export function decode(packed: Uint8Array): Float32Array {
  const values = new Float32Array(packed.length / 2);
  const bits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = ((packed[2 * i + 1] << 8) | packed[2 * i]) << 16;
  return values;
}

/** Rounds to nearest, ties to even; NaN stays NaN. */
export function encode(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const packed = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i];
    const nan = (x & 0x7fffffff) > 0x7f800000;
    packed[i] = nan ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(packed.buffer);
}
