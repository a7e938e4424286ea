/** Ternary language models anywhere JavaScript runs. */
export { estimate, loadModel } from '#load';
export { type Backend, BackendLostError } from './backend/backend.ts';
export type { ActivationsOptions } from './calibrate.ts';
export type { ChatMessage } from './chat.ts';
export type { EstimateOptions, MemoryEstimate } from './estimate.ts';
export type { EmbedOptions, Perplexity, PerplexityOptions } from './evaluate.ts';
export type { Completion, FinishReason, GenerateOptions, Timings, Token } from './generate.ts';
export { GgufError } from './gguf/error.ts';
export type { TilesOption, TileTable } from './gguf/tiles.ts';
export { HubError, type HubErrorCode } from './hub/error.ts';
export type { DownloadProgress } from './hub/progress.ts';
export {
  type CachedModel,
  type HubOptions,
  listModels,
  type PulledModel,
  type PullOptions,
  pullModel,
  removeModel,
} from './hub/pull.ts';
export type {
  CompleteOptions,
  LoadModelOptions,
  LogitsOptions,
  Model,
  ModelInfo,
  ModelInput,
  Prompt,
} from './load_model.ts';
export type { Advice } from './model/advice.ts';
export type { LoadProgress, WeightStorage } from './model/weights.ts';
export type { SamplerOptions } from './sampler.ts';

/**
 * The small model that comes with the package: tales in English, 2 MB. In workerd, whose modules have no address, this opens
 * nothing: import 'ternlm/demo/tales.gguf' there.
 */
export const demoModel: URL =
  import.meta.url === undefined
    ? new URL('file:///ternlm/demo/tales.gguf')
    : new URL('../demo/tales.gguf', import.meta.url);
