/** The targets of asconfig.json. */
export type KernelsName = 'simd' | 'relaxed_i16' | 'relaxed' | 'revec';

/** A compiled target, and where in it the limits of its memory import begin. */
export interface InlinedModule {
  readonly base64: string;
  readonly memoryLimitsAt: number;
}

// Written by assembly/build.mjs.
export declare const simd: InlinedModule;
export declare const relaxed_i16: InlinedModule;
export declare const relaxed: InlinedModule;
export declare const revec: InlinedModule;
