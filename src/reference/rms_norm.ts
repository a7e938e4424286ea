/**
 * y [dim] = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467), in ggml's arithmetic: squares
 * rounded to f32 and summed in f64; mean, root and its inverse rounded to f32; x * scale rounded before the weight.
 */
export function rmsNorm(x: Float32Array, weight: Float32Array, eps: number): Float32Array {
  const f32 = Math.fround;
  let sum = 0;
  for (const v of x) sum += f32(v * v);
  const mean = f32(sum / x.length);
  const scale = f32(1 / f32(Math.sqrt(f32(mean + f32(eps)))));
  return x.map((v, i) => f32(v * scale) * weight[i]);
}
