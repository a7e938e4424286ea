/**
 * act(g) * u [n], g and u f32 [n] (gated linear units, arXiv 2002.05202). 'relu2' is relu(g)^2 (arXiv 2109.08668), 'silu'
 * is g / (1 + e^-g). The activation is rounded to f32 before the product.
 */
export function glu(activation: 'relu2' | 'silu', g: Float32Array, u: Float32Array): Float32Array {
  const act = activation === 'relu2' ? (v: number) => Math.max(v, 0) ** 2 : (v: number) => v / (1 + Math.exp(-v));
  return g.map((v, i) => Math.fround(act(v)) * u[i]);
}
