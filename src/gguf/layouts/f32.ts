// F32: IEEE 754 binary32, little-endian, rows of ne0 values one after the other.
//
//   byte    0           4           8
//           | w[0][0]   | w[0][1]   | ...

/** Type id in the file. */
export const id = 0;
/** Row length must be a multiple of this. */
export const rowMultiple = 1;

/** Bytes of a tensor of dims (ne0 first). */
export function sizeBytes(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 4);
}

/** packed -> values, in file order. */
export function decode(packed: Uint8Array): Float32Array {
  const values = new Float32Array(packed.length / 4);
  new Uint8Array(values.buffer).set(packed);
  return values;
}

export function encode(values: Float32Array): Uint8Array {
  return new Uint8Array(values.slice().buffer);
}
