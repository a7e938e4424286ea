import { setFlagsFromString } from 'node:v8';

/**
 * Imported for this effect: the baseline compiler of V8 11.3 (Node 20) doubles the relaxed dot_add, so that there the modules
 * that have it can only be tested on the optimising compiler.
 */
if (process.versions.v8.startsWith('11.')) setFlagsFromString('--no-liftoff');
