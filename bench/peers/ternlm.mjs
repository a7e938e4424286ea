import { loadModel } from '../../dist/index.js';
import { GREEDY } from '../model.mjs';
import { serve } from './serve.mjs';

serve(async ({ model: file, threads, contextSize, tier, head }) => {
  const model = await loadModel(file, { threads, contextSize, parallel: 1, tier, head, revectorize: true });
  const timings = async (ids, maxTokens) => (await model.complete(ids, { ...GREEDY, maxTokens })).timings;
  return {
    label: `ternlm, ${model.info.tier}, Node ${process.versions.node}`,
    prompt: async (ids) => (await timings(ids, 1)).promptPerSecond,
    decode: async (ids, tokens) => (await timings(ids, tokens + 1)).generatedPerSecond,
  };
});
