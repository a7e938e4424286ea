/** The two half-width floats: f16 (1 sign, 5 exponent, 10 mantissa bits) and bf16 (the upper half of an f32). */

import { roundEven } from './quantize_i8.ts';

const bits32 = new Uint32Array(1);
const float32 = new Float32Array(bits32.buffer);

/** All 65536 halves. */
const halves = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1024 + mantissa) * 2 ** (exponent - 25);
});

/** f16 bits -> number. Exact. */
export function fromF16(bits: number): number {
  return halves[bits];
}

/** f32 -> f16 bits, to nearest, ties to even; from 65520 on infinity. */
export function toF16(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(x);
  if (magnitude >= 65520) return sign | 0x7c00;
  // A sum carried into the next exponent is still the right bit pattern.
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude)));
  return sign | ((exponent + 14) * 1024 + roundEven(magnitude * lastPlaces[exponent + 14]));
}

/** One over the unit of the last place, by exponent from -14 (subnormals too) to 15. */
const lastPlaces = Float64Array.from({ length: 30 }, (_, i) => 2 ** (24 - i));

/** bf16 bits -> number. Exact. */
export function fromBf16(bits: number): number {
  bits32[0] = bits << 16;
  return float32[0];
}

/** f32 -> bf16 bits, to nearest, ties to even. */
export function toBf16(x: number): number {
  float32[0] = x;
  if (Number.isNaN(x)) return (bits32[0] >>> 16) | 64;
  return (bits32[0] + 0x7fff + ((bits32[0] >>> 16) & 1)) >>> 16;
}
