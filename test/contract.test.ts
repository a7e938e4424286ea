import { wasmBackend } from '../dist/backend/wasm/backend.js';
import { contract } from './contract.js';
import './dot_add.js';

for (const options of [
  { kernels: 'simd', threads: 1 },
  { kernels: 'simd', threads: 2 },
  { kernels: 'relaxed', threads: 1 },
  { kernels: 'relaxed', threads: 2 },
  // These differ from `relaxed` in a dot; threads do not come into it.
  { kernels: 'relaxed_i16', threads: 1 },
  // Compiled in 256 bits where V8 can.
  { tier: 'revec', threads: 1 },
] as const) {
  contract(`wasm ${'tier' in options ? options.tier : options.kernels}, ${options.threads} threads`, () =>
    wasmBackend(options),
  );
}
