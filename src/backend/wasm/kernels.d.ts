/** The compiled tiers of assembly/, base64; written by assembly/build.mjs. */
export declare const kernels: Readonly<Record<'simd' | 'relaxed_i16' | 'relaxed' | 'revec', string>>;
