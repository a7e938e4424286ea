/** The targets of asconfig.json. */
export type KernelsName = 'simd' | 'relaxed_i16' | 'relaxed' | 'revec';

/** The compiled targets, base64, and where in each the limits of its memory import begin; written by assembly/build.mjs. */
export declare const kernels: Readonly<
  Record<KernelsName, { readonly base64: string; readonly memoryLimitsAt: number }>
>;
