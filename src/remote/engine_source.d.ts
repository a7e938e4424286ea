/**
 * server.ts and all that it needs as the text of a script that ends in `var engine = …;` with its exports: what follows may be
 * `engine.serve(self)` in a worker. Written by build.mjs.
 */
export declare const engineSource: string;
