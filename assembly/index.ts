// The wasm ABI. `enterThread` once per instance; then either `runProgram` inline, or `serve` on every thread and `start`
// and `stop` on the host.
export { dotProbe } from './dots';
export { enterThread } from './lanes';
export {
  ADD_NORM, ADVANCE, ATTENTION, BARRIER, CHECK_TERNARY, CHECK_TL, EMBED, GLU, LINEAR, NORM, PREPARE, REPACK, REPACK_TL, RESCORE, ROPE, SAMPLE,
  SCREEN, SCREEN_BUILD, SCREEN_PREPARE, TABLES, linearScratchBytes, runProgram, serve, start, stop,
} from './program';
export { attentionScratchBytes } from './kernels/attention';
export { BF16, F16, F32, I2_S, Q4_0, Q6_K, Q8_0, TL1, TL2, TQ1_0, TQ2_0, preparedBytes } from './kernels/prepare';
export { LOOKUP_ROWS } from './kernels/lookup';
export { REPACK_BYTES } from './kernels/repack_tl';
export { GELU, RELU2, SILU } from './kernels/glu';
export { HEAP, sample, sampleScratchBytes } from './kernels/sample';
export { screenBytes } from './kernels/screen';
