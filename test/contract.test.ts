import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { contract } from './contract.js';

for (const tier of ['simd', 'relaxed_i16', 'relaxed', 'revec'] as const) {
  for (const threads of [1, 2]) {
    contract(`wasm ${tier}, ${threads} threads`, () => wasmBackend({ tier, threads }));
  }
}
