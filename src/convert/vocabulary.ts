// The tokenizer of a checkpoint -> tokenizer.* keys.
import type { TypedValue } from '../gguf/writer.ts';
import { type Folder, readFile, readJson, readText } from '../safetensors/checkpoint.ts';
import { ConvertError } from './error.ts';
import type { HfConfig } from './families.ts';
import { readSentencePieces } from './sentencepiece.ts';
import { ADDED_SCORE, addedToken, readAdded, readTokenizerJson, TOKEN, type TokenizerFile } from './tokenizer_json.ts';

export interface Vocabulary {
  readonly metadata: Map<string, TypedValue>;
  readonly notes: string[];
}

/** Gemma's tokenizer.json, the largest so far, has 33 MB. */
const MAX_TOKENIZER_BYTES = 128 << 20;
const MAX_CONFIG_BYTES = 16 << 20;
/** Score of the rows of the embedding that have no token. */
const PAD_SCORE = -10_000;

/**
 * @param vocab rows of the embedding, to which tokens are filled up
 * @param isEmbedding a text is closed with the end token, whose hidden state is the result
 * @throws ConvertError on a tokenizer that GGUF's readers do not have, or none
 */
export async function readVocabulary(
  folder: Folder,
  config: HfConfig,
  vocab: number,
  isEmbedding: boolean,
): Promise<Vocabulary> {
  const settings = (await readJson(folder, 'tokenizer_config.json', MAX_CONFIG_BYTES)) ?? {};
  const generation = (await readJson(folder, 'generation_config.json', MAX_CONFIG_BYTES)) ?? {};
  const file = await readTokenizer(folder, settings);
  const notes: string[] = [];
  const metadata = new Map<string, TypedValue>();
  const set = (key: string, value: TypedValue | undefined) => {
    if (value !== undefined) metadata.set(`tokenizer.ggml.${key}`, value);
  };
  set('model', { type: 'string', value: file.model });
  set('pre', { type: 'string', value: file.pre ?? 'default' });
  putTokens(file, vocab, set, notes, folder.name);

  const ids = new Map([...file.tokens].filter(([id]) => id < vocab).map(([id, { text }]) => [text, id]));
  const candidates = (name: string): number[] => {
    const key = `${name}_token_id`;
    const text = settings[`${name}_token`];
    // null says that there is none, whatever config.json says.
    if (text === null) return [];
    const content = typeof text === 'object' && text !== undefined ? (text as HfConfig).content : text;
    const id = typeof content === 'string' ? ids.get(content) : undefined;
    return [id, generation[key], config[key]]
      .flat()
      .filter((n): n is number => typeof n === 'number' && n >= 0 && n < vocab);
  };
  const flag = (name: string) => (typeof settings[name] === 'boolean' ? settings[name] : undefined);
  const addBos = flag('add_bos_token') ?? (file.before !== undefined || (file.model === 'llama' && !file.hasTemplate));
  const addEos = isEmbedding || (flag('add_eos_token') ?? file.behind !== undefined);
  // What is appended must be the end token: for the published embedding models tokenizer_config.json names another.
  const appended = addEos ? (file.behind ?? (isEmbedding ? ids.get('<|endoftext|>') : undefined)) : undefined;
  const [bos] = [...(file.before === undefined ? [] : [file.before]), ...candidates('bos')];
  const [eos, eot] = new Set([...(appended === undefined ? [] : [appended]), ...candidates('eos')]);
  const u32 = (value: number | undefined): TypedValue | undefined =>
    value === undefined ? undefined : { type: 'u32', value };
  set('bos_token_id', u32(bos));
  set('eos_token_id', u32(eos));
  set('eot_token_id', u32(eot));
  set('unknown_token_id', u32(candidates('unk')[0]));
  set('padding_token_id', u32(candidates('pad')[0]));
  set('add_bos_token', { type: 'bool', value: addBos && bos !== undefined });
  set('add_eos_token', { type: 'bool', value: addEos && eos !== undefined });
  if (file.model === 'llama') set('add_space_prefix', { type: 'bool', value: file.addsPrefix });
  const template = await chatTemplate(folder, settings);
  if (template !== undefined) metadata.set('tokenizer.chat_template', { type: 'string', value: template });
  return { metadata, notes };
}

/** tokenizer.json where it is over bytes; else tokenizer.model where there is one, as it has the scores. */
async function readTokenizer(folder: Folder, settings: HfConfig): Promise<TokenizerFile> {
  const json = await readJson(folder, 'tokenizer.json', MAX_TOKENIZER_BYTES);
  const file = json && readTokenizerJson(json, `${folder.name}: tokenizer.json`);
  if (file?.model === 'gpt2') return file;
  const bytes = await readFile(folder, 'tokenizer.model', MAX_TOKENIZER_BYTES);
  if (bytes === undefined) {
    if (file !== undefined) return file;
    throw new ConvertError(`${folder.name}: no tokenizer.json and no tokenizer.model`);
  }
  const pieces = readSentencePieces(bytes, `${folder.name}: tokenizer.model`);
  const tokens = new Map(
    pieces.tokens.map((text, id) => [id, { text, type: pieces.types[id], score: pieces.scores[id] }]),
  );
  const decoder = settings.added_tokens_decoder;
  const entries = typeof decoder === 'object' && decoder !== null ? Object.entries(decoder) : [];
  const added = entries.map(([id, token]) => ({ ...(token as object), id: Number(id) }));
  for (const token of readAdded(added, `${folder.name}: tokenizer_config.json`)) {
    if (token.id >= pieces.tokens.length) tokens.set(token.id, addedToken(token));
  }
  if (file !== undefined) {
    for (const [id, token] of file.tokens) if (id >= pieces.tokens.length && !tokens.has(id)) tokens.set(id, token);
  }
  const prefix = typeof settings.add_prefix_space === 'boolean' ? settings.add_prefix_space : pieces.addsPrefix;
  const { before, behind, hasTemplate = false } = file ?? {};
  return { model: 'llama', pre: undefined, tokens, merges: [], addsPrefix: prefix, before, behind, hasTemplate };
}

function putTokens(
  { model, tokens, merges }: TokenizerFile,
  vocab: number,
  set: (key: string, value: TypedValue) => void,
  notes: string[],
  where: string,
): void {
  const texts = Array.from({ length: vocab }, (_, id) => `[PAD${id}]`);
  const types = new Int32Array(vocab).fill(TOKEN.unused);
  const scores = new Float32Array(vocab).fill(PAD_SCORE);
  for (const [id, { text, type, score }] of tokens) {
    if (id >= vocab) {
      if (score !== ADDED_SCORE) {
        throw new ConvertError(`${where}: token ${id}, expected ids below ${vocab}, the embedding's rows (vocab_size)`);
      }
      notes.push(`added token '${text}' (${id}) left out: the embedding has ${vocab} rows`);
      continue;
    }
    [texts[id], types[id], scores[id]] = [text, type, score];
  }
  set('tokens', { type: 'array', of: 'string', value: texts });
  if (model === 'llama') set('scores', { type: 'array', of: 'f32', value: scores });
  set('token_type', { type: 'array', of: 'i32', value: types });
  if (model === 'gpt2') set('merges', { type: 'array', of: 'string', value: merges });
}

async function chatTemplate(folder: Folder, settings: HfConfig): Promise<string | undefined> {
  const file = await readText(folder, 'chat_template.jinja', MAX_CONFIG_BYTES);
  if (file !== undefined) return file;
  const { chat_template: template } = settings;
  if (!Array.isArray(template)) return typeof template === 'string' ? template : undefined;
  const named = template.find((entry) => entry?.name === 'default') ?? template[0];
  return typeof named?.template === 'string' ? named.template : undefined;
}
