import { readFileSync } from 'node:fs';
import { getLlama } from 'node-llama-cpp';
import { serve } from './serve.mjs';

const { version } = JSON.parse(readFileSync(new URL('node_modules/node-llama-cpp/package.json', import.meta.url)));

serve(async ({ model: modelPath, threads, contextSize }) => {
  // The binary that comes with the package, as its users have it. Without a limit here, a context has exactly its threads.
  const options = { gpu: false, maxThreads: 0, build: 'never', skipDownload: true };
  const llama = await getLlama({ ...options, logLevel: 'error', progressLogs: false });
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  const context = await model.createContext({ contextSize, threads: { ideal: threads, min: threads }, sequences: 1 });
  const sequence = context.getSequence();
  /** [ms to the first token, ms from there to the last]: raw tokens in and out, the largest logit taken. */
  async function times(ids, count) {
    await sequence.clearHistory();
    const start = performance.now();
    let first = 0;
    let n = 0;
    for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
      if (n === 0) first = performance.now();
      if (++n === count) break;
    }
    return [first - start, performance.now() - first];
  }
  return {
    label: `node-llama-cpp ${version}`,
    prompt: async (ids) => (ids.length * 1000) / (await times(ids, 1))[0],
    decode: async (ids, tokens) => (tokens * 1000) / (await times(ids, tokens + 1))[1],
  };
});
