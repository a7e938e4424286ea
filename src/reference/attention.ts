/**
 * out [heads][headDim] = softmax(q K^T / sqrt(headDim)) V for one row. q [heads][headDim], already rotated; keys and values
 * [positions][kvHeads][headDim], all of which the row may see. Head i reads kv head floor(i * kvHeads / heads)
 * (grouped-query attention, arXiv 2305.13245). f64 throughout, rounded once.
 */
export function attention(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  heads: number,
  kvHeads: number,
  headDim: number,
): Float32Array {
  const kvDim = kvHeads * headDim;
  const positions = keys.length / kvDim;
  const out = new Float32Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    const kvAt = Math.floor((head * kvHeads) / heads) * headDim;
    const scores = new Float64Array(positions);
    for (let t = 0; t < positions; t++) {
      for (let i = 0; i < headDim; i++) scores[t] += q[head * headDim + i] * keys[t * kvDim + kvAt + i];
    }
    const weights = softmax(scores.map((score) => score / Math.sqrt(headDim)));
    for (let i = 0; i < headDim; i++) {
      let sum = 0;
      for (let t = 0; t < positions; t++) sum += weights[t] * values[t * kvDim + kvAt + i];
      out[head * headDim + i] = sum;
    }
  }
  return out;
}

/** e^(x - max) / sum of the same, f64 [n]. */
export function softmax(x: Float64Array): Float64Array {
  const max = x.reduce((a, b) => Math.max(a, b));
  const e = x.map((v) => Math.exp(v - max));
  const sum = e.reduce((a, b) => a + b);
  return e.map((v) => v / sum);
}
