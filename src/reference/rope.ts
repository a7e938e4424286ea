/**
 * x [heads][headDim] with the first ropeDim elements of each head rotated (Su et al. 2021, arXiv 2104.09864). `angles`
 * [ropeDim / 2][cos, sin] is the table's row of one position. 'neox' rotates the pairs (i, i + ropeDim / 2), 'norm' the
 * pairs (2i, 2i + 1); the rest stays. Products and sums are each rounded to f32.
 */
export function rope(
  x: Float32Array,
  headDim: number,
  ropeDim: number,
  style: 'neox' | 'norm',
  angles: Float32Array,
): Float32Array {
  const f32 = Math.fround;
  const y = x.slice();
  for (let head = 0; head < x.length; head += headDim) {
    for (let i = 0; i < ropeDim / 2; i++) {
      const a = head + (style === 'neox' ? i : 2 * i);
      const b = style === 'neox' ? a + ropeDim / 2 : a + 1;
      const [cos, sin] = [angles[2 * i], angles[2 * i + 1]];
      y[a] = f32(x[a] * cos) - f32(x[b] * sin);
      y[b] = f32(x[a] * sin) + f32(x[b] * cos);
    }
  }
  return y;
}
