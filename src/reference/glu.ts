import type { Activation } from '../backend/backend.ts';

/**
 * act(g) * u [n], g and u f32 [n] (gated linear units, arXiv 2002.05202). 'relu2' is relu(g)^2 (arXiv 2109.08668), 'silu'
 * g / (1 + e^-g), 'gelu' g / 2 * (1 + tanh(y)), y = sqrt(2 / pi) * (g + 0.044715 g^3) (arXiv 1606.08415), which is
 * g / (1 + e^-2y) without its cancellation. The activation is rounded to f32 before the product.
 */
export function glu(activation: Activation, g: Float32Array, u: Float32Array): Float32Array {
  return g.map((v, i) => Math.fround(ACTIVATIONS[activation](v)) * u[i]);
}

const ACTIVATIONS: Readonly<Record<Activation, (g: number) => number>> = {
  relu2: (g) => Math.max(g, 0) ** 2,
  silu: (g) => g / (1 + Math.exp(-g)),
  gelu: (g) => g / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3))),
};
