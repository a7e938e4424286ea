// node test/golden/demo/make.mjs: writes tokens.json with the executable specification, and with none of the kernels.
import { readFileSync, writeFileSync } from 'node:fs';
import { demoModel, loadModel } from '../../../dist/index.js';
import { referenceBackend } from '../../../dist/reference/backend.js';

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'));
const model = await loadModel(demoModel, { backend: referenceBackend(), kv: 'f32', parallel: 1, contextSize: 128 });
const tokens = async (options) => (await model.complete('Once upon a time', { ...options, maxTokens: 100 })).tokens;
const golden = {
  origin: `ternlm ${version}, src/reference (plain TypeScript), keys and values in F32, ${new Date().toISOString().slice(0, 10)}`,
  prompt: 'Once upon a time',
  greedy: await tokens({ temperature: 0 }),
  sampled: await tokens({ seed: 7 }),
};
await model.dispose();
writeFileSync(new URL('tokens.json', import.meta.url), `${JSON.stringify(golden)}\n`);
