// Loading a model: time, rate, and the memory that is resident at most, also after a few tokens.
//
// usage: npm run bench -- load MODEL [--threads N]
//
// Run it twice: the first run may read from the disk, the second from the page cache.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { loadModel } from '../dist/index.js';
import { machine } from './machine.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { threads: { type: 'string' } } });
const [file] = positionals;
if (file === undefined) {
  process.stderr.write('usage: npm run bench -- load MODEL [--threads N]\n');
  process.exit(1);
}
/** Peak resident memory in MB; Linux tells it. */
const peak = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1.024e-3;

const before = peak();
const start = performance.now();
const model = await loadModel(file, { threads: values.threads === undefined ? undefined : Number(values.threads) });
const ms = performance.now() - start;
const loaded = peak();
const { tokens } = await model.complete('Once upon a time', { maxTokens: 16, temperature: 0, ignoreEos: true });
const { fileBytes, contextSize, kvBytes, parallel } = model.info;
const kv = (kvBytes / parallel / contextSize) * (tokens.length + model.tokenize('Once upon a time').length);
console.log(machine());
console.log('| file, MB | ms | GB/s | peak before, MB | loaded, MB | after 16 tokens, MB | beyond file and KV, MB |');
console.log('|--:|--:|--:|--:|--:|--:|--:|');
const after = peak();
const cells = [fileBytes / 1e6, ms, fileBytes / ms / 1e6, before, loaded, after, after - (fileBytes + kv) / 1e6];
console.log(`| ${cells.map((x) => x.toFixed(x < 10 ? 1 : 0)).join(' | ')} |`);
await model.dispose();
