// What the benchmarks of a whole model share: how many bytes and multiplications a token takes, and prompts.
import { readHeader } from '../dist/gguf/header.js';
import { openSource } from '../dist/gguf/source.js';
import { demoModel, loadModel } from '../dist/index.js';

export { demoModel };

/** Sums over the tensors of a file: numbers of ternary weights, and bytes that each token reads. */
export async function modelCosts(file) {
  const source = await openSource(file);
  const { tensors } = await readHeader(source);
  await source.close();
  const head = tensors.get('output.weight') ?? tensors.get('token_embd.weight');
  const inLayers = [...tensors.values()].filter(({ name }) => name.startsWith('blk.'));
  const matrices = inLayers.filter(({ dims }) => dims.length === 2);
  const [dim, vocab] = head.dims;
  return {
    ternaryMacs: matrices.reduce((sum, { dims }) => sum + dims[0] * dims[1], 0),
    layerBytes: inLayers.reduce((sum, { bytes }) => sum + bytes, 0),
    headFileBytes: head.bytes,
    head8Bytes: vocab * dim,
    vocab,
  };
}

/**
 * Bytes of memory that one decoded token reads: the layers, the output head, keys and values of what came before.
 * @param head what the model says of its head: 'auto' reads a copy of one byte a number, 'exact' the file's own
 */
export function bytesPerToken({ layerBytes, headFileBytes, head8Bytes }, { head = 'exact', ...info }, positions) {
  const headBytes = head === 'exact' ? headFileBytes : Math.min(headFileBytes, head8Bytes);
  return layerBytes + headBytes + positions * (info.kvBytes / info.parallel / info.contextSize);
}

/** n token ids, the same ones each time, spread over the vocabulary. */
export const promptOf = (n, vocab, seed = 0) =>
  Int32Array.from({ length: n }, (_, i) => ((i + seed) * 7919 + 1) % vocab);

export const GREEDY = { temperature: 0, ignoreEos: true };

/** Opens a model for each of the options; those that this machine cannot run are named in notes instead. */
export async function openAll(file, list, notes) {
  const models = [];
  for (const options of list) {
    try {
      models.push({ ...options, model: await loadModel(file, { revectorize: true, ...options }) });
    } catch (error) {
      if (!/tier|kernels/.test(error.message)) throw error;
      notes.push(`Left out, tier ${options.tier}: ${error.message}.`);
    }
  }
  return models;
}

/** The one model a command names, or the demo model. */
export const modelArgument = ([file]) => file ?? demoModel;
