// Asks llama.cpp about the vocabularies of make_sentencepiece.py, by node-llama-cpp: see README.md for versions and the command.
//
// usage: node make_llama_cpp.mjs FOLDER, where make_sentencepiece.py wrote its GGUF files and node-llama-cpp is installed
//
// llama_cpp.json   per file: which texts get other ids than from SentencePiece, and texts with special tokens
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const folder = resolve(process.argv[2]);
const { getLlama } = await import(createRequire(join(folder, 'x.js')).resolve('node-llama-cpp'));
const read = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), 'utf8'));
const SPECIAL = [
  '<s>the river</s>',
  'the <s> river</s>x',
  '<bos>the river<eos>',
  'the<unk>river <unk>',
  '<mask>the<b> river</b>\n\n the',
  'the <mask> river',
  ' <s> ',
  '<s><s></s>',
  '<0x41><s><0x0A>',
  '<s>▁the▁ river',
  '  <bos>  the  <eos>  ',
];

const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'disabled' });
const out = {};
for (const name of ['llama', 'gemma', 'gemma_raw']) {
  const model = await llama.loadModel({ modelPath: join(folder, `${name}.gguf`), vocabOnly: true });
  const encode = (text, special) => [...model._model.tokenize(text, special)];
  const { texts, ids } = read(`${name.split('_')[0]}.json`);
  const differs = [...read('corpus.json'), ...texts].flatMap((text, i) => {
    const got = encode(text, false);
    return got.join() === ids[i].join() ? [] : [[i, got]];
  });
  out[name] = { differs, special: SPECIAL.map((text) => [text, encode(text, true)]) };
  console.log(name, ids.length, 'texts,', differs.length, 'differ');
}
writeFileSync(new URL('llama_cpp.json', import.meta.url), `${JSON.stringify(out)}\n`);
process.exit(0);
