import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    // No test looks into the cache of whoever runs it, nor locks anything there.
    env: { TERNLM_CACHE: join(tmpdir(), `ternlm-test-cache-${process.pid}`) },
    // Node 20 has relaxed SIMD behind this flag; with it both kernel tiers are tested on every Node.
    execArgv: process.versions.node.startsWith('20.') ? ['--experimental-wasm-relaxed-simd'] : [],
  },
});
