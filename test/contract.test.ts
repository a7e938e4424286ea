import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { contract } from './contract.js';
import './dot_add.js';

for (const [kernels, threads] of [
  ['simd', 1],
  ['simd', 2],
  ['relaxed', 1],
  ['relaxed', 2],
  // These differ from `relaxed` in a dot, threads do not come into it.
  ['relaxed_i16', 1],
  ['revec', 1],
] as const) {
  contract(`wasm ${kernels}, ${threads} threads`, () => wasmBackend({ kernels, threads }));
}
