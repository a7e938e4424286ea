// The wasm ABI. `fillConstants` once per memory; then either `runProgram` inline, or `serve` on every thread and `start`
// and `stop` on the host.
export { fillConstants } from './lanes';
export {
  ATTENTION, BARRIER, EMBED, GLU, LINEAR, PREPARE, ROPE, SAMPLE, runProgram, serve, start, stop,
} from './program';
export { attentionScratchBytes } from './kernels/attention';
export { BF16, F16, F32, I2_S, preparedBytes } from './kernels/prepare';
export { RELU2, SILU } from './kernels/glu';
export { sample, sampleScratchBytes } from './kernels/sample';
