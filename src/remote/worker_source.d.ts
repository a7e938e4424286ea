/** worker.ts and all that it needs, one module of text; written by src/remote/build.mjs. */
export declare const workerSource: string;
