/**
 * Messages to prompt. The prompt is what the file's own chat template says; contents are data: a control token that is
 * written in one, such as `<|eot_id|>`, stays text.
 */
import { type CompiledTemplate, compileTemplate, defaultLimits, type TemplateLimits } from './chat_template.ts';
import type { Tokenizer } from './tokenizer/tokenizer.ts';

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatOptions {
  /** End the prompt where an answer of the assistant begins; default true. */
  readonly addGenerationPrompt?: boolean;
}

export interface Chat {
  /** Where the template is from: the file, the model family (BitNet b1.58 2B-4T), or the plain fallback. */
  readonly origin: 'file' | 'bitnet' | 'plain';
  /**
   * The prompt in pieces for `tokenizer.encode(pieces, { parseSpecial: true })`: put together they are the prompt's
   * text, and a joint stands wherever a content would otherwise make a control token.
   * @throws TypeError for messages that are not messages
   * @throws Error from the template: it does not parse, uses what cannot be bounded, meets a limit, or raises
   */
  format(messages: readonly ChatMessage[], options?: ChatOptions): string[];
  /** Ids of the prompt, with exactly one BOS where the file asks for one, and no EOS at the end. */
  encode(messages: readonly ChatMessage[], options?: ChatOptions): number[];
}

/** chat_template of microsoft/bitnet-b1.58-2B-4T on Hugging Face. */
const BITNET_TEMPLATE =
  "{% for message in messages %}{% set content = message['role'] | capitalize + ': ' + message['content'] | trim" +
  " + '<|eot_id|>' %}{{ bos_token + content if loop.first else content }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/**
 * For a base model, which knows no chat: a transcript with a blank line between turns, which such a model continues.
 * Nothing but the end of the text stops an answer, so callers do well to stop at "\nUser:".
 */
const PLAIN_TEMPLATE =
  "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '\\n\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/**
 * @param metadata GGUF keys and values; reads `tokenizer.chat_template` and `general.architecture`
 * The template is compiled by the first `format`: a file with a broken one can still complete texts.
 */
export function createChat(
  metadata: ReadonlyMap<string, unknown>,
  tokenizer: Tokenizer,
  limits: TemplateLimits = defaultLimits,
): Chat {
  const { origin, source } = chooseTemplate(metadata, tokenizer);
  const neutralise = createEscaper(controlNames(tokenizer));
  const text = (id: number | undefined): string => (id === undefined ? '' : tokenizer.decode([id]));
  const constants = { bos_token: text(tokenizer.bos), eos_token: text(tokenizer.eos), tools: null, documents: null };
  let template: CompiledTemplate | undefined;

  const format: Chat['format'] = (messages, options = {}) => {
    checkMessages(messages);
    template ??= compileTemplate(source, limits);
    const joint = unusedCharacter(messages, source);
    const escaped = messages.map(({ role, content }) => ({ role, content: neutralise(content, joint) }));
    const units = escaped.reduce((sum, { content }) => sum + content.length, 0);
    const variables = { ...constants, messages: escaped, add_generation_prompt: options.addGenerationPrompt ?? true };
    return template.render(variables, messages.length, units).split(joint);
  };
  return {
    origin,
    format,
    encode(messages, options) {
      const ids = tokenizer.encode(format(messages, options), { parseSpecial: true });
      if (tokenizer.addBos && tokenizer.bos !== undefined && ids[0] !== tokenizer.bos) ids.unshift(tokenizer.bos);
      return ids;
    },
  };
}

function chooseTemplate(
  metadata: ReadonlyMap<string, unknown>,
  tokenizer: Tokenizer,
): { origin: Chat['origin']; source: string } {
  const source = metadata.get('tokenizer.chat_template');
  if (source !== undefined && typeof source !== 'string') {
    throw new Error(`tokenizer.chat_template is of type ${typeof source}, expected a string`);
  }
  // 2B-4T is the only BitNet with Llama 3's vocabulary. An old converter gave it a "Human: ... BITNETAssistant: "
  // template that it was not trained on.
  const isBitnet = String(metadata.get('general.architecture')).startsWith('bitnet');
  const is2B4T = isBitnet && tokenizer.eot !== undefined && tokenizer.decode([tokenizer.eot]) === '<|eot_id|>';
  if (is2B4T && (source === undefined || source.includes('BITNETAssistant'))) {
    return { origin: 'bitnet', source: BITNET_TEMPLATE };
  }
  return source === undefined ? { origin: 'plain', source: PLAIN_TEMPLATE } : { origin: 'file', source };
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) throw new TypeError('messages: expected at least one message');
  messages.forEach((message: unknown, i) => {
    const { role, content } = (message ?? {}) as Partial<Record<keyof ChatMessage, unknown>>;
    if (role !== 'system' && role !== 'user' && role !== 'assistant') {
      throw new TypeError(`messages[${i}].role is ${JSON.stringify(role)}, expected system, user or assistant`);
    }
    if (typeof content !== 'string') {
      throw new TypeError(`messages[${i}].content is of type ${typeof content}, expected a string`);
    }
  });
}

function controlNames(tokenizer: Tokenizer): string[] {
  const names: string[] = [];
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    if (tokenizer.isControl(id)) names.push(tokenizer.decode([id]).toLowerCase());
  }
  return names.filter((name) => name !== '');
}

/**
 * Puts `joint` into a content wherever a control token stands or could come about: behind the first character of each
 * name, at the front where the content could complete a name that the template began, and at the end where the
 * template could complete one. A content without such places is not touched, so that a template may look into it.
 * A blank content is not touched either. Case is ignored, for templates that change it. Ends are looked for with and without the white space around, as
 * templates trim.
 */
function createEscaper(names: readonly string[]): (content: string, joint: string) => string {
  const heads = new Set<string>();
  const tails = new Set<string>();
  let longest = 0;
  for (const name of names) {
    for (let i = 1; i < name.length; i++) {
      heads.add(name.slice(0, i));
      tails.add(name.slice(i));
    }
    longest = Math.max(longest, name.length);
  }
  const escapeForRegExp = (name: string): string => name.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  const whole = new RegExp(`(?=${names.map(escapeForRegExp).join('|')}).`, 'gisu');
  const startsWithTail = (text: string): boolean => {
    for (let n = 1; n < longest && n <= text.length; n++) if (tails.has(text.slice(0, n).toLowerCase())) return true;
    return false;
  };
  const endsWithHead = (text: string): boolean => {
    for (let n = 1; n < longest && n <= text.length; n++) if (heads.has(text.slice(-n).toLowerCase())) return true;
    return false;
  };
  return (content, joint) => {
    if (names.length === 0) return content;
    const front = content.slice(0, content.length - content.trimStart().length);
    const back = content.slice(content.trimEnd().length);
    const body = content.trim().replace(whole, `$&${joint}`);
    if (body === '') return content;
    const first = startsWithTail(body) || startsWithTail(content) ? joint : '';
    const last = endsWithHead(body) || endsWithHead(content) ? joint : '';
    return front + first + body + last + back;
  };
}

/** A private-use character that is in no message and not in the template. */
function unusedCharacter(messages: readonly ChatMessage[], template: string): string {
  const used = new Set<string>();
  for (const text of [template, ...messages.map(({ content }) => content)]) {
    for (const [char] of text.matchAll(/[\ue000-\uf8ff]/g)) used.add(char);
  }
  for (let code = 0xe000; code < 0xf900; code++) {
    const char = String.fromCharCode(code);
    if (!used.has(char)) return char;
  }
  throw new Error('messages: all 6400 private-use characters of Unicode are in use, expected one to be free');
}
