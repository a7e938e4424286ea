import { type Backend, type Matrix, type Norm, promised, type Tensor } from '../../../dist/backend/backend.js';
import { type Config, layerMatrices } from '../../../dist/model/config.js';
import type { LayerWeights } from '../../../dist/model/forward.js';
import { createKvCache } from '../../../dist/model/kv_cache.js';
import { createStepper, type Stepper } from '../../../dist/model/step.js';
import type { LoadedWeights } from '../../../dist/model/weights.js';
import { paramsBytes } from '../../../dist/sampler.js';
import { webgpu } from '../dist/index.js';
import { counting } from './counting_device.js';

/** BitNet-b1.58-2B-4T. */
export const SHAPE_2B: Config = {
  ...{ architecture: 'bitnet-b1.58', name: '2B-4T', vocab: 128_256, dim: 2560, layers: 30, ffnDim: 6912 },
  ...{ heads: 20, kvHeads: 5, headDim: 128, ropeDim: 128, ropeBase: 500_000, ropeFactor: 1, ropeStyle: 'neox' },
  ...{
    contextLength: 4096,
    eps: 1e-5,
    activation: 'relu2',
    hasSubNorm: true,
    hasInputNorms: false,
    hasHeadNorms: false,
  },
  ...{ hasPostNorms: false, embeddingScale: 1, headTensor: 'token_embd.weight', pooling: 'mean', warnings: [] },
};

/** The demo model. */
export const SHAPE_DEMO: Config = {
  ...{ ...SHAPE_2B, name: 'demo', vocab: 2048, dim: 256, layers: 6, ffnDim: 768 },
  ...{ heads: 4, kvHeads: 2, headDim: 64, ropeDim: 64, contextLength: 512 },
};

/** What is encoded, and read, for a start of `repeats` tokens of each of `rows` sequences; nothing is left on the device. */
export async function encoded(device: GPUDevice, shape: Config, rows: number, repeats: number) {
  const counts = counting(device);
  const backend = await webgpu({ device, selfTest: false });
  const stepper = stepperOf(backend, shape, 4);
  for (let row = 0; row < rows; row++) stepper.index[row] = row;
  const start = () => promised((done) => stepper.start(rows, rows, true, repeats, (error) => done(error)));
  await start(); // records
  counts.reset();
  await start();
  const { dispatches, submits, readBytes } = counts;
  await backend.dispose();
  if (counts.buffers !== 0) throw new Error(`${counts.buffers} buffers are left, of ${counts.bytes} bytes`);
  return { dispatches, submits, readBytes };
}

/** A model of that shape in memory that holds nothing, in I2_S with a tied F16 head, for `outs` sequences. */
function stepperOf<T extends Tensor>(backend: Backend<T>, c: Config, outs: number): Stepper {
  const { alloc } = backend;
  const norm = (n: number): Norm<T> => ({ weight: alloc(4 * n), eps: c.eps });
  const ternary = (name: string): Matrix<T> => {
    const [rows, cols] = layerMatrices(c)[name];
    return { type: 'i2_s', rows, cols, tensor: alloc((rows * cols) / 4 + 32) };
  };
  const none = { qkvNorms: undefined, headNorms: undefined, postAttnNorm: undefined };
  const layers = Array.from(
    { length: c.layers },
    (): LayerWeights<T> => ({
      ...{ ...none, gateUpNorms: undefined, postFfnNorm: undefined },
      ...{ attnNorm: norm(c.dim), woNorm: norm(c.heads * c.headDim), ffnNorm: norm(c.dim), downNorm: norm(c.ffnDim) },
      ...{ wq: ternary('attn_q'), wk: ternary('attn_k'), wv: ternary('attn_v'), wo: ternary('attn_output') },
      ...{ gate: ternary('ffn_gate'), up: ternary('ffn_up'), down: ternary('ffn_down') },
    }),
  );
  const tensor = alloc(2 * c.vocab * c.dim);
  const weights: LoadedWeights<T> = {
    ...{
      layers,
      outputNorm: norm(c.dim),
      head: { type: 'f16', rows: c.vocab, cols: c.dim, tensor },
      screen: undefined,
    },
    ...{ embeddingType: 'f16', embedding: { tensor, rowBytes: 2 * c.dim, readRow: undefined }, ropeFreqs: undefined },
    ...{ storage: { file: 'I2_S', memory: 'i2_s', tiles: undefined }, warnings: [], free() {} },
  };
  const kv = createKvCache(backend, c, 'f16', c.contextLength, outs);
  const limits = { maxRows: 64, maxOuts: outs, paramsStride: paramsBytes(c.contextLength + 1) };
  return createStepper(backend, c, weights, kv, limits);
}
