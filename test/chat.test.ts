import { readFileSync } from 'node:fs';
import { Template } from '@huggingface/jinja';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ChatMessage, createChat } from '../dist/chat.js';
import { compileTemplate } from '../dist/chat_template.js';
import { createTokenizer } from '../dist/tokenizer/tokenizer.js';

const base: { tokens: string[]; merges: string[] } = JSON.parse(
  readFileSync(new URL('golden/tokenizer/vocabulary.json', import.meta.url), 'utf8'),
);
const CONTROL = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>'];
const tokens = [...base.tokens, ...CONTROL];
const [BOS, , EOT] = CONTROL.map((name) => tokens.indexOf(name));

function metadata(changes: Record<string, unknown> = {}): Map<string, unknown> {
  return new Map(
    Object.entries({
      'general.architecture': 'llama',
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'llama-bpe',
      'tokenizer.ggml.tokens': tokens,
      'tokenizer.ggml.token_type': tokens.map((name) => (CONTROL.includes(name) ? 3 : 1)),
      'tokenizer.ggml.merges': base.merges,
      'tokenizer.ggml.bos_token_id': BOS,
      'tokenizer.ggml.eos_token_id': tokens.indexOf('<|end_of_text|>'),
      ...changes,
    }),
  );
}

const tokenizer = createTokenizer(metadata());
const withTemplate = (template: string, changes: Record<string, unknown> = {}) =>
  createChat(metadata({ 'tokenizer.chat_template': template, ...changes }), tokenizer);
const controlsOf = (ids: number[]) => ids.filter((id) => tokenizer.isControl(id));
const user = (content: string): ChatMessage => ({ role: 'user', content });

const LLAMA3 =
  "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + " +
  "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}" +
  '{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}' +
  "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
const CONVERSATION: ChatMessage[] = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: '  Hi there!\n' },
  { role: 'assistant', content: 'Hello.' },
  { role: 'user', content: 'What is 2+2?' },
];

/** CPU time: other work on the machine does not count. */
function cpuMs(action: () => void): number {
  const before = process.cpuUsage();
  action();
  const { user: own, system } = process.cpuUsage(before);
  return (own + system) / 1000;
}

describe('the prompt', () => {
  it('is what the file says, through its template', () => {
    const chat = withTemplate(LLAMA3);
    const head = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
    const expected =
      `<|begin_of_text|>${head('system')}Be brief.<|eot_id|>${head('user')}Hi there!<|eot_id|>` +
      `${head('assistant')}Hello.<|eot_id|>${head('user')}What is 2+2?<|eot_id|>`;
    expect(chat.origin).toBe('file');
    expect(chat.format(CONVERSATION)).toEqual([expected + head('assistant')]);
    expect(chat.format(CONVERSATION, { addGenerationPrompt: false })).toEqual([expected]);
  });

  it('equals an unlimited render of the library', () => {
    const template =
      "{%- set ns = namespace(found=false, n=0) -%}{%- for m in messages if m.role != 'system' -%}{%- set ns.n = ns.n + 1 -%}" +
      "{{- ns.n ~ ':' ~ m.content.replace('l', 'LL') | indent(2) ~ (m.content | replace('i', 'I')) -}}{{ m.role.upper() }}" +
      "{%- if loop.last %}!{% elif loop.index is odd %}?{% endif -%}{%- endfor -%}{{ messages | map(attribute='role') | join(', ') }}" +
      "{{ messages[0] | tojson }}{{ messages[0]['content'][:4] }}{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}" +
      '{% for i in range(5, 0, -2) %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{% endfor %}{{ tools is none }}';
    const variables = { messages: CONVERSATION.map((m) => ({ ...m })), add_generation_prompt: true, tools: null };
    expect(withTemplate(template).format(CONVERSATION).join('')).toBe(new Template(template).render(variables));
  });

  it('of 2B-4T is that of Hugging Face where the file has none or the old one', () => {
    const bitnet = { 'general.architecture': 'bitnet-b1.58' };
    const expected =
      '<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi there!<|eot_id|>Assistant: Hello.<|eot_id|>' +
      'User: What is 2+2?<|eot_id|>Assistant: ';
    for (const template of [undefined, "{{ 'Human: ' + messages[0]['content'] + 'BITNETAssistant: ' }}"]) {
      const chat = createChat(metadata({ ...bitnet, 'tokenizer.chat_template': template }), tokenizer);
      expect(chat.origin).toBe('bitnet');
      expect(chat.format(CONVERSATION)).toEqual([expected]);
    }
    expect(withTemplate('own', bitnet).format(CONVERSATION)).toEqual(['own']);
    expect(withTemplate('BITNETAssistant').format(CONVERSATION)).toEqual(['BITNETAssistant']);
  });

  it('of a base model is a transcript', () => {
    const chat = createChat(metadata(), tokenizer);
    expect(chat.origin).toBe('plain');
    expect(chat.format([user(' Hi ')])).toEqual(['User: Hi\n\nAssistant:']);
  });

  it('has one BOS, whether the template brings it or not, and no EOS', () => {
    const adds = { 'tokenizer.ggml.add_bos_token': true, 'tokenizer.ggml.add_eos_token': true };
    const both = createTokenizer(metadata(adds));
    for (const template of ["{{ bos_token + messages[0]['content'] }}", "{{ messages[0]['content'] }}"]) {
      const file = metadata({ ...adds, 'tokenizer.chat_template': template });
      expect(createChat(file, both).encode([user('hi')])).toEqual([BOS, ...tokenizer.encode('hi')]);
    }
    const none = createTokenizer(metadata({ 'tokenizer.ggml.add_bos_token': false }));
    expect(createChat(metadata({ 'tokenizer.chat_template': 'hi' }), none).encode([user('hi')])).toEqual(
      none.encode('hi'),
    );
  });

  it('is tokenised as one text', () => {
    const chat = withTemplate("{{ 'User: ' + messages[0]['content'] + 'ing<|eot_id|>' }}");
    const ids = chat.encode([user("the th<|eot_id|>'s 12")]);
    expect(ids).toEqual([BOS, ...tokenizer.encode("User: the th<|eot_id|>'s 12ing"), EOT]);
  });

  it.each<[unknown, string]>([
    [[], 'messages: expected at least one message'],
    ['hi', 'messages: expected at least one message'],
    [[user('a'), null], 'messages[1].role is undefined, expected system, user or assistant'],
    [[{ role: 'tool', content: 'x' }], 'messages[0].role is "tool", expected system, user or assistant'],
    [[{ role: 'user', content: ['x'] }], 'messages[0].content is of type object, expected a string'],
    [[{ role: 'user' }], 'messages[0].content is of type undefined, expected a string'],
  ])('needs messages: %o', (messages, error) => {
    expect(() => withTemplate('x').format(messages as ChatMessage[])).toThrow(error);
  });

  it('may be refused by the template', () => {
    const template = "{{ raise_exception('Only user and assistant roles') }}";
    expect(() => withTemplate(template).format(CONVERSATION)).toThrow(
      'chat template failed: Only user and assistant roles',
    );
    expect(() => withTemplate('{% if %}').format(CONVERSATION)).toThrow('chat template does not parse: ');
    expect(() => withTemplate(7 as unknown as string)).toThrow('tokenizer.chat_template is of type number');
  });
});

describe('a content', () => {
  const templates = [
    LLAMA3,
    "{{ 'a <' }}{{ messages[0]['content'] }}{{ '|eot_id|> b' }}",
    "{{ '<|eot_' }}{{ messages[0]['content'] }}{{ '>' }}",
    "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "{{ messages[0]['content'] | upper }}{{ messages[0]['content'] | lower }}",
  ];
  const own = templates.map((template) => controlsOf(withTemplate(template).encode([user('x')])));

  it('never yields a control token', () => {
    const parts = [
      '<|eot_id|>',
      '<|EOT_id|>',
      '<',
      '|',
      'eot_id',
      '|>',
      '>',
      '<|eot_',
      'id|>',
      '|eot_id|',
      ' ',
      '\n',
      'a',
      '\ue000',
      '\ue001',
    ];
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.constantFrom(...parts), fc.string({ maxLength: 3 })), { maxLength: 12 }),
        (list) => {
          const content = list.join('');
          if (content.trim() === '') return; // two halves of a name in the template itself would meet
          templates.forEach((template, i) => {
            const chat = withTemplate(template);
            expect(controlsOf(chat.encode([user(content)])), `${template} of ${content}`).toEqual(own[i]);
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  it('split over two messages does not either', () => {
    const chat = withTemplate("{% for m in messages %}{{ m['content'] }}{% endfor %}");
    expect(controlsOf(chat.encode([user('a <|eot'), user('_id|> b')]))).toEqual([BOS]);
    expect(controlsOf(chat.encode([user('<'), user('|eot_id|>')]))).toEqual([BOS]);
  });

  it('comes through unchanged', () => {
    const chat = withTemplate("{{ messages[0]['content'] }}");
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (content) => {
        expect(chat.format([user(content)]).join('')).toBe(content);
      }),
    );
    for (const content of ['<|eot_id|>', ' <|eot_id|> ', '\ue000<|eot_id|>\ue001', '<|eot_id|><|eot_id|>', ' \n']) {
      expect(chat.format([user(content)]).join('')).toBe(content);
    }
  });

  it('without control tokens is seen by the template as it is', () => {
    const template =
      "{{ messages[0]['content'].startswith('<tool>') and messages[0]['content'].split('</tool>')[-1] == ' x' }}";
    expect(withTemplate(template).format([user('<tool>a</tool> x')])).toEqual(['true']);
  });

  it('of a megabyte of beginnings of control tokens is done in less than a second', () => {
    for (const unit of ['<', '<|', '<|eot_id|>', '|>', '\ue000']) {
      const content = unit.repeat(2 ** 20 / unit.length);
      const chat = withTemplate("{{ messages[0]['content'] }}");
      expect(
        cpuMs(() => chat.format([user(content)])),
        unit,
      ).toBeLessThan(1000);
    }
  });
});

/** Lists of namespaces that are small when the lists are made, and hold each other in a row afterwards: 2^20 leaves. */
const LEVELS = Array.from({ length: 20 }, (_, i) => i);
const GROWING =
  LEVELS.map((i) => `{% set n${i} = namespace(x=0) %}{% set l${i} = [n${i}, n${i}] %}`).join('') +
  LEVELS.slice(1)
    .map((i) => `{% set n${i - 1}.x = l${i} %}`)
    .join('') +
  '{{ l0 | tojson }}';

describe('a hostile template', () => {
  const deep = (n: number, open: string, close: string) => open.repeat(n) + close.repeat(n);
  it.each<[string, string, string]>([
    ['nested loops', '{% for i in range(3000) %}{% for j in range(3000) %}x{% endfor %}{% endfor %}', 'steps'],
    [
      'loops with nothing in them',
      '{% set r = range(3000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}',
      'steps',
    ],
    ['a long range', '{{ range(1000000000) | length }}', 'steps'],
    ['a loop of unknown names', `{% for i in range(2500) %}${'{{ a }}'.repeat(10)}{% endfor %}`, 'steps'],
    ['a loop of continue', '{% for i in range(8000) %}{% continue %}{% endfor %}', 'steps'],
    ['doubling a string', `{% set s = 'ab' %}${'{% set s = s ~ s %}'.repeat(40)}{{ s }}`, 'units, expected at most'],
    [
      'doubling by macro',
      `{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{% set s = 'x' %}${'{% set s = d(s) %}'.repeat(40)}`,
      'steps',
    ],
    ['doubling a list', `{% set a = [1] %}${'{% set a = a + a %}'.repeat(40)}`, 'steps'],
    [
      'a list in a list in a list',
      `{% set a = [1] %}${'{% set a = [a, a] %}'.repeat(60)}{{ a }}`,
      'units, expected at most',
    ],
    [
      'a namespace in a namespace',
      `{% set a = namespace(x=1) %}${'{% set a = namespace(x=a, y=a) %}'.repeat(60)}{{ a | tojson }}`,
      'steps',
    ],
    ['a namespace that grows in a list', GROWING, 'steps'],
    ['a namespace in itself', '{% set a = namespace(x=1) %}{% set a.x = a %}{{ a | tojson }}', 'nested too deep'],
    [
      'sorting one long string many times',
      `{% set s = 'abcdefgh' %}${'{% set s = s ~ s %}'.repeat(15)}{% set a = [s,s,s,s] %}{% set a = a + a + a + a %}{% set a = a + a + a + a %}{{ a | sort | length }}`,
      'units, expected at most',
    ],
    [
      'replace',
      `{% set s = 'abcdefgh' %}${'{% set s = s ~ s %}'.repeat(14)}{{ s.replace('', s) }}`,
      'units, expected at most',
    ],
    [
      'replace as a filter',
      `{% set s = 'abcdefgh' %}${'{% set s = s ~ s %}'.repeat(14)}{{ s | replace('a', s) }}`,
      'units, expected at most',
    ],
    ['replace by a computed name', "{{ 'a'['rep' ~ 'lace']('', 'b') }}", 'must be called by its name'],
    ['replace without a call', "{% set f = 'a'.replace %}{{ f('', 'b') }}", 'replace must be called where it is named'],
    ['replace in a filter block', "{% filter replace('a', 'b') %}a{% endfilter %}", 'not supported in a filter block'],
    ['a wide indent', "{{ 'a\\nb' | indent(100000000) }}", 'takes literals of at most 64'],
    ['a computed indent', "{% set n = 10 ** 8 %}{{ 'a\\nb' | indent(width=n) }}", 'takes literals of at most 64'],
    ['a long separator', `{{ [1, 2] | join('${'x'.repeat(65)}') }}`, 'takes literals of at most 64'],
    ['wide JSON', '{{ [1] | tojson(indent=1000000) }}', 'takes literals of at most 64'],
    ['recursion', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'nested deeper than 400'],
    [
      'many macros in a loop',
      `{% for i in range(20000) %}{% macro f() %}${'{{ 1 }}'.repeat(2000)}{% endmacro %}{% endfor %}`,
      'steps',
    ],
    ['parentheses', `{{ ${deep(50_000, '(', ')')} }}`, 'nested too deep'],
    ['lists', `{{ ${deep(50_000, '[', ']')} }}`, 'nested too deep'],
    ['ifs', deep(10_000, '{% if 1 %}', '{% endif %}'), 'nested too deep'],
    ['a chain of operators', `{{ 1${' ~ 1'.repeat(60_000)} }}`, 'nested deeper than 400'],
    ['blanks', `${' '.repeat(200_000)}{% generation %}`, 'more than 1024 blanks in a row'],
    ['no-break spaces', '\u00a0'.repeat(200_000), 'more than 1024 blanks in a row'],
    ['length', 'x'.repeat(256 * 1024 + 1), 'expected at most 262144'],
    [
      'the constructor of everything',
      "{{ ''.constructor.constructor('return 1')() }}",
      'Cannot call something that is not a function',
    ],
  ])('is refused in less than a second: %s', (_, template, message) => {
    let error: unknown;
    const chat = withTemplate(template);
    const ms = cpuMs(() => {
      try {
        chat.format([user('hi')]);
      } catch (thrown) {
        error = thrown;
      }
    });
    expect(String(error)).toMatch(/^Error: chat template/);
    expect(String(error)).toContain(message);
    expect(ms).toBeLessThan(1000);
  });

  it('of the greatest length passes, and leaves no trace for the next render', () => {
    expect(withTemplate('x'.repeat(256 * 1024)).format([user('hi')])[0]).toHaveLength(256 * 1024);
    const chat = withTemplate(
      '{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}',
    );
    for (let i = 0; i < 3; i++) expect(chat.format([user('a'), user('b')])).toEqual(['2']);
  });

  it('does not harm a long honest conversation', () => {
    const messages = Array.from({ length: 4096 }, (_, i) => user(`message ${i} `.repeat(20)));
    const text = withTemplate(LLAMA3).format(messages).join('');
    expect(text.split('<|eot_id|>')).toHaveLength(4097);
    const peeking =
      "{% for m in messages %}{% if loop.index0 + 1 < messages | length and messages[loop.index0 + 1].role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    expect(withTemplate(peeking).format(messages)[0].length).toBeGreaterThan(4095 * 200);
  });

  it('meets its limits exactly', () => {
    const render = (steps: number, output: number) => {
      const limits = { maxTemplate: 100, maxSteps: () => steps, maxOutput: () => output, maxDepth: 10 };
      return compileTemplate("{{ 'abc' }}", limits).render({}, 0, 0);
    };
    expect(render(2, 3)).toBe('abc'); // the program and the literal
    expect(() => render(1, 3)).toThrow('chat template: not done after 1 steps');
    expect(() => render(2, 2)).toThrow('chat template: a value of 3 units, expected at most 2');
  });
});
