// node test/plain/run.mjs [--only REGEX] FILE.test.ts ...
// The same tests without vitest, for a machine where nothing can be installed: Node 24, the package `webgpu` and the
// built packages are enough. Node strips the types; 'vitest' means vitest.ts beside this file. Fails where there is no
// adapter.
import { registerHooks } from 'node:module';
import { resolve } from 'node:path';
import { run } from 'node:test';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({ options: { only: { type: 'string' } }, allowPositionals: true });

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'vitest') return next(new URL('vitest.ts', import.meta.url).href, context);
    try {
      return next(specifier, context);
    } catch (error) {
      // TypeScript's imports name what would be compiled.
      if (error.code !== 'ERR_MODULE_NOT_FOUND' || !/^\..*\.js$/.test(specifier)) throw error;
      return next(specifier.replace(/js$/, 'ts'), context);
    }
  },
});

/** Of a failure's message; what two long lists differ in is no help. */
const LINES = 30;

const only = values.only === undefined ? {} : { testNamePatterns: new RegExp(values.only) };
const files = positionals.map((file) => resolve(file));
const started = performance.now();
let failed = files.length === 0;
for await (const { type, data } of run({ files, isolation: 'none', ...only })) {
  if (type === 'test:fail') {
    failed = true;
    const { failureType, cause, message } = data.details.error;
    // Of a suite that cannot begin its own failure says enough.
    if (failureType === 'subtestsFailed' || failureType === 'cancelledByParent') continue;
    const lines = (cause?.message ?? message).split('\n');
    console.log(
      ['', `FAILED ${data.name}`, ...lines.slice(0, LINES), ...(lines.length > LINES ? ['…'] : [])].join('\n'),
    );
  } else if (type === 'test:summary' && data.file === undefined) {
    const { passed, skipped, tests } = data.counts;
    failed ||= passed === 0 || !data.success;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`${passed} passed, ${tests - passed - skipped} failed, ${skipped} skipped in ${seconds} s`);
  }
}
process.exit(failed ? 1 : 0);
