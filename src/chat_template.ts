/**
 * Renders a chat template (Jinja) that came with a model file, that is, from a stranger, within a budget.
 *
 * The interpreter has no limit of its own, and a timer cannot fire while it runs; so every node that it evaluates is
 * counted, loops and large values by their size, and the render is refused when the count is used up. What could do
 * unbounded work inside one node is replaced (`range`, `replace`) or restricted when the template is compiled
 * (widths and separators must be short literals).
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja';

export interface TemplateLimits {
  /** UTF-16 units of the template. */
  readonly maxTemplate: number;
  /** Evaluated nodes, loop turns and 32-unit pieces of text, by message (content lengths) and in all. */
  readonly maxSteps: (messages: number, units: number) => number;
  /** UTF-16 units of the prompt and of any value on the way to it. */
  readonly maxOutput: (messages: number, units: number) => number;
  /** Nested evaluations. */
  readonly maxDepth: number;
}

export const defaultLimits: TemplateLimits = {
  // Ours has a few hundred bytes; room for long ones with tools, not for what takes seconds to parse.
  maxTemplate: 256 * 1024,
  // A known template takes some 60 nodes and reads a content a few times for each message.
  maxSteps: (messages, units) => 200_000 + 500 * messages + units,
  // A conversation with some room for what a template adds to each message.
  maxOutput: (messages, units) => 2 ** 20 + 1024 * messages + 4 * units,
  // Far above what people write, far below what the stack of any engine holds.
  maxDepth: 400,
};

export interface CompiledTemplate {
  /**
   * @param variables what the template sees; plain values only
   * @param messages,units size of the input, which the limits grow with
   * @throws Error naming the limit, or what the template itself raised
   */
  render(variables: Readonly<Record<string, unknown>>, messages: number, units: number): string;
}

/** What is read of the interpreter's values, and of the nodes of a parsed template. */
interface Value {
  readonly type: string;
  readonly value: unknown;
}
interface Node {
  type: string;
  [field: string]: unknown;
}

/** What a template may give for a width or a separator, which multiply a text. */
const MAX_LITERAL = 64;
/** The library trims around a tag with an expression that is quadratic in a run of white space. */
const MAX_BLANKS = 1024;
/** Steps for what costs far more than a node: a thrown exception inside the library. */
const THROW_STEPS = 50;
/** A turn of a loop makes some twenty objects inside the library (20 us of CPU; Node 20). */
const TURN_STEPS = 20;
const UNITS_PER_STEP = 32;

/**
 * @param source the template
 * @throws Error when it is too long, does not parse or uses what cannot be bounded
 */
export function compileTemplate(source: string, limits: TemplateLimits = defaultLimits): CompiledTemplate {
  if (source.length > limits.maxTemplate) {
    throw new Error(`chat template: ${source.length} characters, expected at most ${limits.maxTemplate}`);
  }
  refuseBlanks(source);
  const { parsed } = guarded(() => new Template(source), 'does not parse');
  const plan = planTemplate(parsed as unknown as Node);
  return {
    render(variables, messages, units) {
      const budget = createBudget(limits.maxSteps(messages, units), limits.maxOutput(messages, units));
      const environment = createEnvironment(budget, variables);
      const interpreter = new Interpreter(environment);
      const evaluate = interpreter.evaluate.bind(interpreter);
      let depth = 0;
      interpreter.evaluate = (statement: unknown, scope: unknown) => {
        if (depth >= limits.maxDepth) throw new Error(`chat template: nested deeper than ${limits.maxDepth}`);
        const node = statement as Node | undefined;
        if (node === undefined) return evaluate(statement, scope);
        depth++;
        try {
          budget.spend(plan.steps.get(node) ?? 1);
          const value = evaluate(statement, scope);
          budget.inspect(value as Value, node, plan);
          return value;
        } finally {
          depth--;
        }
      };
      const result = guarded(() => interpreter.run(parsed), 'failed');
      return (result as Value).value as string;
    },
  };
}

function refuseBlanks(source: string): void {
  let run = 0;
  for (let i = 0; i < source.length; i++) {
    run = /\s/.test(source[i]) ? run + 1 : 0;
    if (run > MAX_BLANKS) throw new Error(`chat template: more than ${MAX_BLANKS} blanks in a row before ${i + 1}`);
  }
}

function guarded<T>(action: () => T, what: string): T {
  try {
    return action();
  } catch (error) {
    const message = error instanceof RangeError ? 'nested too deep or a value too long' : (error as Error).message;
    throw new Error(message.startsWith('chat template') ? message : `chat template ${what}: ${message}`);
  }
}

interface Plan {
  /** Nodes that cost more than one step by themselves. */
  readonly steps: ReadonlyMap<Node, number>;
  /** Nodes whose value a loop runs over. */
  readonly turns: ReadonlySet<Node>;
  /** Nodes whose value is then read through, however deep: operands of filters, of ~ and +, and what is printed. */
  readonly reads: ReadonlySet<Node>;
}

const PRINTING_FIELDS = ['body', 'alternate', 'defaultBlock'];
const CHEAP_FILTERS = ['length', 'first', 'last', 'list', 'safe', 'default'];

/** Walks a parsed template once (without recursion: chains of operators are as deep as the template is long). */
function planTemplate(root: Node): Plan {
  const steps = new Map<Node, number>();
  const turns = new Set<Node>();
  const reads = new Set<Node>();
  const nodes: Node[] = [root];
  const parents: number[] = [0];
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i];
    replaceReplace(node);
    for (const field of PRINTING_FIELDS) for (const child of childrenOf(node[field])) reads.add(child);
    if (node.type === 'For') turns.add(loopedOver(node.iterable as Node));
    if (node.type === 'FilterExpression') {
      checkFilter(node.filter as Node);
      if (!CHEAP_FILTERS.includes(filterName(node.filter as Node))) reads.add(node.operand as Node);
    }
    if (node.type === 'FilterStatement') checkFilter(node.filter as Node);
    if (node.type === 'BinaryExpression') {
      reads.add(node.left as Node);
      reads.add(node.right as Node);
    }
    if (node.type === 'Break' || node.type === 'Continue') steps.set(node, THROW_STEPS);
    for (const field of Object.keys(node)) addChildren(node[field], nodes);
    while (parents.length < nodes.length) parents.push(i);
  }
  const sizes = new Uint32Array(nodes.length).fill(1);
  for (let i = nodes.length - 1; i > 0; i--) {
    sizes[parents[i]] += sizes[i];
    // The library walks the whole body each time that it meets one of these.
    if (nodes[i].type === 'Macro' || nodes[i].type === 'CallStatement') steps.set(nodes[i], sizes[i]);
  }
  return { steps, turns, reads };
}

/** Adds the nodes in a field of a node to `out`: one, a list, or the pairs of an object literal. */
function addChildren(field: unknown, out: Node[]): void {
  if (typeof field !== 'object' || field === null) return;
  if (Array.isArray(field)) for (const item of field) addChildren(item, out);
  else if (field instanceof Map) for (const pair of field) addChildren(pair, out);
  else if ('type' in field) out.push(field as Node);
}

function childrenOf(field: unknown): Node[] {
  const children: Node[] = [];
  addChildren(field, children);
  return children;
}

function loopedOver(iterable: Node): Node {
  return iterable.type === 'SelectExpression' ? (iterable.lhs as Node) : iterable;
}

function filterName(filter: Node): string {
  return String((filter.type === 'CallExpression' ? (filter.callee as Node) : filter).value);
}

/** Arguments that multiply the text must be short literals: `indent(8)`, `join(', ')`, `tojson(indent=2)`. */
function checkFilter(filter: Node): void {
  const name = filterName(filter);
  if (filter.type !== 'CallExpression' || !['indent', 'join', 'tojson', 'replace'].includes(name)) return;
  if (name === 'replace') throw new Error('chat template: replace is not supported in a filter block');
  const arguments_ = childrenOf(filter.args);
  for (let i = 0; i < arguments_.length; i++) {
    const argument = arguments_[i];
    if (argument.type === 'KeywordArgumentExpression') arguments_.push(argument.value as Node);
    else if (argument.type === 'TupleLiteral' || argument.type === 'ArrayLiteral')
      arguments_.push(...childrenOf(argument.value));
    else if (argument.type === 'Identifier' && /^(true|false|none)$/i.test(String(argument.value))) continue;
    else if (argument.type === 'StringLiteral' && String(argument.value).length <= MAX_LITERAL) continue;
    else if (argument.type === 'IntegerLiteral' && Number(argument.value) <= MAX_LITERAL) continue;
    else
      throw new Error(
        `chat template: ${name}(...) takes literals of at most ${MAX_LITERAL} here, got ${argument.type}`,
      );
  }
}

/** Name of our own `replace`; no identifier in a template can spell it. */
const REPLACE = '%replace';

/** Turns `x.replace(a, b)` and `x | replace(a, b)` into calls of a function that knows the budget. */
function replaceReplace(node: Node): void {
  const callee = node.callee as Node | undefined;
  const filter = node.filter as Node | undefined;
  const property = callee?.property as Node | undefined;
  const name = { type: 'Identifier', value: REPLACE };
  if (node.type === 'CallExpression' && property?.value === 'replace') {
    Object.assign(node, { callee: name, args: [callee?.object, ...(node.args as Node[])] });
  } else if (
    node.type === 'FilterExpression' &&
    filter?.type === 'CallExpression' &&
    filterName(filter) === 'replace'
  ) {
    const args = [node.operand, ...(filter.args as Node[])];
    Object.assign(node, { type: 'CallExpression', callee: name, args, operand: undefined, filter: undefined });
  } else if (node.type === 'MemberExpression' && (node.property as Node).value === 'replace') {
    throw new Error('chat template: replace must be called where it is named');
  }
}

interface Budget {
  spend(steps: number): void;
  /** Refuses a text or list of this many units. */
  fits(units: number): void;
  /** Charges for the size of what `node` evaluated to. */
  inspect(value: Value, node: Node, plan: Plan): void;
}

function createBudget(maxSteps: number, maxOutput: number): Budget {
  let left = maxSteps;
  /** Units that a list or mapping unfolds to; not of namespaces, which change. */
  const weights = new WeakMap<Value, number>();

  const spend = (steps: number): void => {
    left -= steps;
    if (left < 0) throw new Error(`chat template: not done after ${maxSteps} steps`);
  };
  const fits = (units: number): void => {
    if (units > maxOutput) throw new Error(`chat template: a value of ${units} units, expected at most ${maxOutput}`);
  };
  const weigh = (value: Value): number => {
    const known = weights.get(value);
    if (known !== undefined) return known;
    let weight = 1;
    let fixed = value.type !== 'NamespaceValue';
    for (const item of itemsOf(value) ?? []) {
      spend(1);
      weight += 1;
      if (typeof item.value === 'string') weight += item.value.length;
      else if (itemsOf(item) !== undefined) {
        weight += weigh(item);
        fixed &&= weights.has(item);
      }
      fits(weight); // sharing (a = [a, a], again and again) unfolds exponentially
    }
    if (fixed) weights.set(value, weight);
    return weight;
  };

  const inspect = (value: Value, node: Node, { turns, reads }: Plan): void => {
    if (typeof value.value === 'string') {
      fits(value.value.length);
      spend(Math.floor(value.value.length / UNITS_PER_STEP));
      return;
    }
    // The library looks an unknown name up by throwing.
    if (value.type === 'UndefinedValue' && node.type === 'Identifier') spend(THROW_STEPS);
    if (value.type === 'FunctionValue' && node.computed === true) {
      throw new Error('chat template: a method must be called by its name, got an expression in brackets');
    }
    const { size } = sizeOf(value);
    if (size === 0) return;
    spend(Math.floor(size / UNITS_PER_STEP) + (turns.has(node) ? TURN_STEPS * size : 0));
    const weight = weigh(value);
    if (reads.has(node)) spend(Math.floor(weight / UNITS_PER_STEP));
  };
  return { spend, fits, inspect };
}

function itemsOf(value: Value): Iterable<Value> | undefined {
  if (Array.isArray(value.value)) return value.value;
  return value.value instanceof Map ? value.value.values() : undefined;
}

function sizeOf(value: Value): { size: number } {
  if (Array.isArray(value.value)) return { size: value.value.length };
  return value.value instanceof Map ? value.value : { size: 0 };
}

/** What the library's own `Template.render` puts in scope, with the budget in reach. */
function createEnvironment(budget: Budget, variables: Readonly<Record<string, unknown>>): Environment {
  const environment = new Environment();
  const globals = {
    false: false,
    False: false,
    true: true,
    True: true,
    none: null,
    None: null,
    raise_exception: (message: unknown) => {
      throw new Error(String(message));
    },
    range: (start: number, stop?: number, step?: number) => range(budget, start, stop, step),
    strftime_now: (format: string) => strftime(new Date(), format),
    [REPLACE]: (text: unknown, from: unknown, to: unknown, most: unknown) => replace(budget, text, from, to, most),
  };
  for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
  return environment;
}

function range(budget: Budget, start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (![from, to, step].every(Number.isSafeInteger) || step === 0) {
    throw new Error(`range(${from}, ${to}, ${step}): expected whole numbers and a step other than 0`);
  }
  const count = Math.max(0, Math.ceil((to - from) / step));
  budget.spend(count);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

/** Python's str.replace: the first `most` occurrences, all where it is absent or negative. */
function replace(budget: Budget, text: unknown, from: unknown, to: unknown, most: unknown): string {
  if (typeof text !== 'string' || typeof from !== 'string' || typeof to !== 'string') {
    throw new Error('replace: expected a text and two texts to replace and put in its place');
  }
  const named = most instanceof Map ? (most.get('count') as Value | undefined)?.value : most;
  const count = typeof named === 'number' && named >= 0 ? named : Number.POSITIVE_INFINITY;
  const parts = from === '' ? ['', ...text, ''] : text.split(from);
  const done = Math.min(count, parts.length - 1);
  budget.fits(text.length + done * Math.max(0, to.length - from.length));
  return [parts.slice(0, done + 1).join(to), ...parts.slice(done + 1)].join(from);
}

const MONTHS = 'January February March April May June July August September October November December'.split(' ');

/** The directives that chat templates use, in English and local time. */
function strftime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, '0');
  const fields: Readonly<Record<string, string>> = {
    '%Y': String(date.getFullYear()),
    '%m': two(date.getMonth() + 1),
    '%d': two(date.getDate()),
    '%b': MONTHS[date.getMonth()].slice(0, 3),
    '%B': MONTHS[date.getMonth()],
    '%H': two(date.getHours()),
    '%M': two(date.getMinutes()),
    '%S': two(date.getSeconds()),
    '%%': '%',
  };
  return format.replace(/%./g, (field) => fields[field] ?? field);
}
