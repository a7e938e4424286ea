// tokenizer.json of Hugging Face tokenizers: the two kinds of BPE that GGUF's readers have.
import { ConvertError } from './error.ts';

/** llama.cpp's token types. */
export const TOKEN = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
/** Score of tokens that are found by their text, never by merging: what llama.cpp's converter gives them. */
export const ADDED_SCORE = -1000;

export interface TokenizerFile {
  /** 'gpt2': over bytes, cut by `pre`. 'llama': over characters with the bytes to fall back on, `▁` for a blank. */
  readonly model: 'gpt2' | 'llama';
  readonly pre: string | undefined;
  /** By id; ids without a token are missing. */
  readonly tokens: ReadonlyMap<number, { readonly text: string; readonly type: number; readonly score: number }>;
  readonly merges: readonly string[];
  /** Of 'llama': whether a blank is put before a text. */
  readonly addsPrefix: boolean;
  /** Ids that the template puts before and behind a text. */
  readonly before: number | undefined;
  readonly behind: number | undefined;
  /** Whether there is a template that says so. */
  readonly hasTemplate: boolean;
}

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** By the expression that cuts a text into words, the name under which llama.cpp has it. */
const PRE_TOKENIZERS: ReadonlyMap<string, string> = new Map([
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    'llama-bpe',
  ],
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    'qwen2',
  ],
]);

/** @throws ConvertError on another kind of tokenizer, with its expression where that is what is not known */
export function readTokenizerJson(json: Json, where: string): TokenizerFile {
  const { model } = json;
  if (!isObject(model) || (model.type ?? 'BPE') !== 'BPE' || !isObject(model.vocab) || !Array.isArray(model.merges)) {
    const type = isObject(model) ? JSON.stringify(model.type) : 'missing';
    throw new ConvertError(`${where}: model.type ${type}, expected BPE with vocab and merges`);
  }
  const steps = flat(json.pre_tokenizer, 'pretokenizers');
  const isByteLevel = steps.some(({ type }) => type === 'ByteLevel');
  const isPieces = model.byte_fallback === true || steps.some(({ type }) => type === 'Metaspace');
  if (!isByteLevel && !isPieces) {
    throw new ConvertError(`${where}: neither over bytes (ByteLevel) nor with bytes to fall back on (byte_fallback)`);
  }
  const merges = model.merges.map((merge, i) => readMerge(merge, i, where));
  const scores = isByteLevel ? undefined : scoresOf(merges);
  const unknown = model.unk_token;
  const tokens = new Map<number, { text: string; type: number; score: number }>();
  for (const [text, id] of Object.entries(model.vocab)) {
    const isByte = !isByteLevel && /^<0x[0-9A-F]{2}>$/.test(text);
    const type = isByte ? TOKEN.byte : !isByteLevel && text === unknown ? TOKEN.unknown : TOKEN.normal;
    const score =
      scores === undefined || isByte ? 0 : (scores.get(text) ?? ([...text].length === 1 ? 0 : -merges.length));
    put(tokens, id, { text, type, score }, where);
  }
  for (const added of readAdded(json.added_tokens, where)) {
    const isUnknown = !isByteLevel && added.content === unknown;
    tokens.set(added.id, { ...addedToken(added), ...(isUnknown && { type: TOKEN.unknown }) });
  }
  const template = flat(json.post_processor, 'processors').find(({ type }) => type === 'TemplateProcessing');
  const [before, behind] = templateEnds(template);
  return {
    model: isByteLevel ? 'gpt2' : 'llama',
    pre: isByteLevel ? preOf(steps, where) : undefined,
    tokens,
    merges: isByteLevel ? merges : [],
    addsPrefix: addsPrefix(steps, flat(json.normalizer, 'normalizers')),
    before,
    behind,
    hasTemplate: template !== undefined,
  };
}

/** An object with a type, or the list of them that a Sequence holds. */
function flat(value: unknown, list: string): Json[] {
  if (!isObject(value)) return [];
  const inner = value[list];
  return value.type === 'Sequence' && Array.isArray(inner) ? inner.filter(isObject) : [value];
}

function put<T>(tokens: Map<number, T>, id: unknown, token: T, where: string): void {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= 1 << 24) {
    throw new ConvertError(`${where}: token id ${JSON.stringify(id)}, expected a whole number`);
  }
  if (tokens.has(id)) throw new ConvertError(`${where}: two tokens with the id ${id}`);
  tokens.set(id, token);
}

function readMerge(merge: unknown, index: number, where: string): string {
  const parts = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge.map(String) : [];
  if (parts.length === 2 && parts.every((part) => part !== '' && !part.includes(' '))) return parts.join(' ');
  throw new ConvertError(`${where}: merge ${index}: ${JSON.stringify(merge)}, expected two tokens`);
}

/** Score of each token that a merge makes: the earlier, the higher, as readers of scores merge the highest first. */
function scoresOf(merges: readonly string[]): Map<string, number> {
  const scores = new Map<string, number>();
  for (const [rank, merge] of merges.entries()) {
    const token = merge.replace(' ', '');
    if (!scores.has(token)) scores.set(token, 0 - rank);
  }
  return scores;
}

export function readAdded(value: unknown, where: string): AddedToken[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw new ConvertError(`${where}: added_tokens: expected a list`);
  return value.map((token, i) => {
    const { id, content, special } = isObject(token) ? token : {};
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 1 << 24 && typeof content === 'string') {
      return { id, content, special: special === true };
    }
    throw new ConvertError(`${where}: added token ${i}: expected an id and its content`);
  });
}

/** Control, or found by its text, which has plain blanks. Some files do not mark what is plainly a control token. */
export function addedToken({ content, special }: AddedToken): { text: string; type: number; score: number } {
  const looksSpecial =
    /^<\|.*\|>$/s.test(content) || /^<unused.*>$/s.test(content) || ['<pad>', '<mask>'].includes(content);
  if (special || looksSpecial) return { text: content, type: TOKEN.control, score: ADDED_SCORE };
  return { text: content.replaceAll('▁', ' '), type: TOKEN.userDefined, score: ADDED_SCORE };
}

function preOf(steps: readonly Json[], where: string): string {
  const splits = steps.filter(({ type }) => type !== 'ByteLevel');
  if (splits.length === 0 && steps[0].use_regex !== false) return 'gpt-2';
  const [{ type, pattern, behavior, invert } = {} as Json] = splits;
  const regex = isObject(pattern) ? (pattern.Regex ?? pattern.String) : undefined;
  const pre = PRE_TOKENIZERS.get(String(regex));
  if (splits.length === 1 && type === 'Split' && behavior === 'Isolated' && invert !== true && pre !== undefined)
    return pre;
  const got =
    splits.length === 1 && regex !== undefined ? `expression ${JSON.stringify(regex)}` : JSON.stringify(splits);
  throw new ConvertError(
    `${where}: pre_tokenizer: ${got}, expected the one of ${[...PRE_TOKENIZERS.values()].join(', ')} or gpt-2`,
  );
}

function addsPrefix(steps: readonly Json[], normalizers: readonly Json[]): boolean {
  const metaspace = steps.find(({ type }) => type === 'Metaspace');
  if (metaspace === undefined) return normalizers.some(({ type }) => type === 'Prepend');
  const { prepend_scheme: scheme } = metaspace;
  return scheme === undefined ? metaspace.add_prefix_space !== false : scheme !== 'never';
}

/** First and last id of the template for a single text, where those are special tokens. */
function templateEnds(template: Json | undefined): [number | undefined, number | undefined] {
  const single = template?.single;
  const special = template?.special_tokens;
  if (!Array.isArray(single) || !isObject(special)) return [undefined, undefined];
  const idOf = (step: unknown): number | undefined => {
    const name = isObject(step) && isObject(step.SpecialToken) ? step.SpecialToken.id : undefined;
    const entry = special[String(name)];
    const [id] = isObject(entry) && Array.isArray(entry.ids) ? entry.ids : [];
    return typeof id === 'number' ? id : undefined;
  };
  return [idOf(single[0]), idOf(single.at(-1))];
}
