/** The targets of asconfig.json. */
export type KernelsName = 'simd' | 'relaxed_i16' | 'relaxed' | 'revec';

/** The compiled targets, base64; written by assembly/build.mjs. */
export declare const kernels: Readonly<Record<KernelsName, string>>;
