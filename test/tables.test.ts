import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readHeader } from '../dist/gguf/header.js';
import * as f16 from '../dist/gguf/layouts/f16.js';
import * as q6k from '../dist/gguf/layouts/q6_k.js';
import * as q80 from '../dist/gguf/layouts/q8_0.js';
import { openSource } from '../dist/gguf/source.js';
import { loadModel } from '../dist/index.js';
import { readConfig } from '../dist/model/config.js';
import { createKvCache } from '../dist/model/kv_cache.js';
import { createStepper } from '../dist/model/step.js';
import { loadWeights } from '../dist/model/weights.js';
import { referenceBackend } from '../dist/reference/backend.js';
import { agree } from './agree.js';
import { rewrite } from './rewrite.js';

// Whole models with their embedding and output head in blocks.

const TOKENS = [509, 1, 5, 9, 33, 64, 100, 200, 300, 400, 2, 7, 511, 17, 81, 250];
const VOCAB = 512;
const DIM = 256;
/**
 * Ternary matrices, norms and decoded rows are equal bit by bit on both sides, as test/contract.ts shows; what differs are the
 * sums in f32 of attention and head: here by up to 3.4e-6, of logits up to 13. One int8 rounding that this tips over costs up
 * to 0.4 (test/parity.test.ts): within this bound, none did.
 */
const BOUND = 1e-4;

const ENCODE = { Q8_0: q80.encode, Q6_K: q6k.encode };
type Blocks = keyof typeof ENCODE;

const golden = (name: string) => new Uint8Array(readFileSync(new URL(`./golden/models/${name}`, import.meta.url)));

/** One table for both ends. */
function tied(type: Blocks): Promise<Uint8Array> {
  return rewrite(golden('tiny-bitnet-b1.58-i2_s.gguf'), (tensor) => {
    if (tensor.name !== 'token_embd.weight') return [tensor];
    return [{ ...tensor, type, packed: ENCODE[type](f16.decode(tensor.packed)) }];
  });
}

/** A head of its own: the rows of the embedding in reverse order. */
function untied(embedding: Blocks, output: Blocks): Promise<Uint8Array> {
  return rewrite(golden('tiny-bitnet-i2_s.gguf'), (tensor) => {
    if (tensor.name !== 'token_embd.weight') return [tensor];
    const values = f16.decode(tensor.packed);
    const rows = Array.from({ length: VOCAB }, (_, i) => values.subarray(i * DIM, (i + 1) * DIM));
    const reversed = Float32Array.from(rows.reverse().flatMap((row) => [...row]));
    return [
      { ...tensor, type: embedding, packed: ENCODE[embedding](values) },
      { ...tensor, name: 'output.weight', type: output, packed: ENCODE[output](reversed) },
    ];
  });
}

/** Logits [tokens][vocab] of the executable specification. */
async function referenceLogits(file: Uint8Array): Promise<Float32Array> {
  const source = await openSource(file);
  const header = await readHeader(source);
  const config = readConfig(header, 'reference');
  const backend = referenceBackend();
  const weights = await loadWeights(backend, source, header, config);
  const n = TOKENS.length;
  const kv = createKvCache(backend, config, 'f32', n, 1);
  kv.open()?.reserve(n);
  const step = createStepper(backend, config, weights, kv, { maxRows: n, maxOuts: n, paramsStride: 64 });
  step.tokens.set(TOKENS);
  for (let i = 0; i < n; i++) [step.pos[i], step.index[i]] = [i, i];
  await step.run(n, n, false);
  const logits = new Float32Array(n * VOCAB);
  for (let i = 0; i < n; i++) await step.readOut(i, logits.subarray(i * VOCAB, (i + 1) * VOCAB));
  return logits;
}

const argmaxes = (logits: Float32Array): number[] =>
  TOKENS.map((_, i) => {
    const row = logits.subarray(i * VOCAB, (i + 1) * VOCAB);
    return row.indexOf(row.reduce((a, b) => Math.max(a, b)));
  });

describe.each([
  ['Q8_0', () => tied('Q8_0')],
  ['Q6_K', () => tied('Q6_K')],
  ['embedding Q8_0, head Q6_K', () => untied('Q8_0', 'Q6_K')],
  ['embedding Q6_K, head Q8_0', () => untied('Q6_K', 'Q8_0')],
])('%s', (_name, make) => {
  it('has the logits of the reference, however rows are batched, and one greedy text everywhere', async () => {
    const file = await make();
    const expected = await referenceLogits(file);
    const texts: (readonly number[])[] = [];
    for (const tier of ['simd', 'relaxed'] as const) {
      for (const threads of [1, 2]) {
        const model = await loadModel(file, { tier, threads });
        const actual = await model.logits(TOKENS, { kv: 'f32' });
        const bound = new Float64Array(actual.length).fill(BOUND);
        agree({ op: `logits, ${tier}, ${threads} threads`, seed: 0, expected, actual, bound });
        expect(argmaxes(actual)).toEqual(argmaxes(expected));
        expect(await model.logits(TOKENS, { kv: 'f32', batch: 3 })).toEqual(actual);
        texts.push((await model.complete(TOKENS.slice(0, 5), { temperature: 0, maxTokens: 30 })).tokens);
        expect(texts.at(-1), `${tier}, ${threads} threads`).toEqual(texts[0]);
        await model.dispose();
      }
    }
    expect(texts[0].length).toBeGreaterThan(0);
  });
});

it.each([
  ['Q8_0', 34, 0],
  ['Q6_K', 210, 208],
] as const)('a broken scale in %s is refused with tensor, block and byte', async (type, bytes, scaleAt) => {
  const file = await tied(type);
  const info = (await readHeader(await openSource(file))).tensors.get('token_embd.weight');
  if (info === undefined) throw new Error('no such tensor');
  for (const block of [0, 5, info.bytes / bytes - 1]) {
    const at = info.at + block * bytes + scaleAt;
    const broken = file.slice();
    broken.set([0x00, 0xfc], at);
    const loading = expect(loadModel(broken, { threads: 1 })).rejects;
    await loading.toThrow(
      `tensor 'token_embd.weight': block ${block}: scale -Infinity, expected a finite number (${type})`,
    );
    await expect(loadModel(broken, { threads: 1 })).rejects.toMatchObject({ offset: at });
  }
});
