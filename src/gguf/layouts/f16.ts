// F16: IEEE 754 binary16, little-endian.
//
//   bit   15     14      10 9        0      exponent 1..30   2^(exponent - 15) * (1 + mantissa / 1024)
//         | sign | exponent | mantissa |    exponent 0       2^-24 * mantissa (zero, subnormals)
//                                           exponent 31      infinity (mantissa 0), NaN

/** Type id in the file. */
export const id = 1;
/** Row length must be a multiple of this. */
export const rowMultiple = 1;

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 2);
}

/** packed -> values, in file order; exact. */
export function decode(packed: Uint8Array): Float32Array {
  const values = new Float32Array(packed.length / 2);
  const bits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = widen(packed[2 * i] | (packed[2 * i + 1] << 8));
  return values;
}

/** Rounds to nearest, ties to even; from 65520 on infinity; NaN stays NaN. */
export function encode(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const packed = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) packed[i] = narrow(bits[i]);
  return new Uint8Array(packed.buffer);
}

/** Value of the 16 bits h. */
export function f16Value(h: number): number {
  word[0] = widen(h);
  return float[0];
}

/** The 16 bits nearest to value, which is taken as an f32. */
export function f16Bits(value: number): number {
  float[0] = value;
  return narrow(word[0]);
}

/** Bits of a binary16 -> bits of the equal binary32. */
function widen(h: number): number {
  const sign = (h & 0x8000) << 16;
  const exponent = (h >> 10) & 31;
  const mantissa = h & 0x3ff;
  if (exponent === 31) return sign | 0x7f800000 | (mantissa << 13);
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  // Subnormal: move the leading one to bit 10, where binary32 leaves it out.
  const shift = Math.clz32(mantissa) - 21;
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}

/** Bits of a binary32 -> bits of the nearest binary16. */
function narrow(x: number): number {
  const sign = (x >>> 16) & 0x8000;
  const size = x & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00 | ((size >> 13) & 0x1ff);
  if (size >= 0x477ff000) return sign | 0x7c00; // 65520: halfway from the largest f16 to 2^16
  if (size >= 0x38800000) {
    const y = size - (112 << 23); // 2^-14 and up: only the exponent's bias changes
    return sign | ((y + 0xfff + ((y >> 13) & 1)) >> 13);
  }
  const shift = 126 - (size >>> 23); // below 2^-14: units of 2^-24
  if (shift > 24) return sign;
  const mantissa = (size & 0x7fffff) | 0x800000;
  const units = mantissa >> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (units + (rest > half || (rest === half && (units & 1) === 1) ? 1 : 0));
}
