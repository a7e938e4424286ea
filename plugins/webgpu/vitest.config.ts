import { defineConfig } from 'vitest/config';
import { adapterWith, swiftshader } from './test/adapters.ts';

// Three projects: `host` needs no GPU; `gpu` takes the adapter that the machine offers, a software driver where there is no
// other (test/driver.sh); `swiftshader` has no f16 and subgroups of 4, and compiles so slowly that it runs the least that shows
// the kernels' other forms.

const adapter = adapterWith();
const second =
  process.env.VK_DRIVER_FILES === undefined && swiftshader && adapterWith(swiftshader) ? swiftshader : undefined;

if (adapter === undefined) {
  const none = 'webgpu: no adapter here, tests that need one are SKIPPED (test/driver.sh installs a software driver)';
  if (process.env.TERNLM_REQUIRE_GPU) throw new Error(`${none}, but TERNLM_REQUIRE_GPU is set`);
  console.log(none);
} else {
  console.log(`webgpu: tests run on ${adapter}${second ? ', some on SwiftShader too' : '; no SwiftShader here'}`);
}

const HOST = ['test/host/*.test.ts'];
const SECOND = ['test/swiftshader/*.test.ts'];

const shared = {
  // A first dispatch compiles, up to 15 s on a loaded machine, and a page everything that it runs.
  testTimeout: 240_000,
  hookTimeout: 240_000,
  // A software driver compiles on one thread, which is most of what it does here.
  maxWorkers: 2,
};

/** Its variables are there before the driver is loaded, as each file runs in a process of its own. */
const project = (name: string, include: string[], env: Readonly<Record<string, string>> = {}) => ({
  test: { ...shared, name, include, env, exclude: name === 'gpu' ? [...HOST, ...SECOND] : [] },
});

export default defineConfig({
  test: {
    ...shared,
    projects: [
      project('host', HOST),
      ...(adapter === undefined ? [] : [project('gpu', ['test/**/*.test.ts'])]),
      ...(second === undefined ? [] : [project('swiftshader', SECOND, second)]),
    ],
  },
});
