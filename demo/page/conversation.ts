import { type Answer, createColumn, follow } from './answer.ts';
import { announce, byId, element } from './dom.ts';
import { DEVICE_NAMES, type Device, type GenerateOptions, type Model, type Prompt } from './engine.ts';

export type Mode = 'continue' | 'chat';

export interface Turn {
  readonly mode: Mode;
  readonly text: string;
  readonly item: HTMLLIElement;
  /** Holds the actions while this is the last turn. */
  readonly tools: HTMLElement;
  /** Of the first device; what later prompts of a chat see. */
  answer: string;
}

const list = byId('turns', HTMLOListElement);
const empty = byId('empty', HTMLDivElement);
const turns: Turn[] = [];
/** What can be done with the last turn. */
let actions: readonly HTMLButtonElement[] = [];

export function setActions(buttons: readonly HTMLButtonElement[]): void {
  actions = buttons;
}

function showWhetherEmpty(): void {
  empty.hidden = turns.length > 0;
  list.hidden = turns.length === 0;
}

export function clearTurns(): void {
  turns.length = 0;
  list.replaceChildren();
  showWhetherEmpty();
}

export function removeLastTurn(): Turn | undefined {
  const last = turns.pop();
  last?.item.remove();
  turns.at(-1)?.tools.append(...actions);
  showWhetherEmpty();
  return last;
}

/** What the model is to go on from: the text itself, or the chat so far. */
function promptOf(mode: Mode, text: string, system: string): Prompt {
  if (mode === 'continue') return text;
  const past = turns.filter((turn) => turn.mode === 'chat' && turn.answer !== '');
  return [
    ...(system === '' ? [] : [{ role: 'system' as const, content: system }]),
    ...past.flatMap((turn) => [
      { role: 'user' as const, content: turn.text },
      { role: 'assistant' as const, content: turn.answer },
    ]),
    { role: 'user' as const, content: text },
  ];
}

/** Adds a text and lets each model answer it, all at once. */
export async function takeTurn(
  mode: Mode,
  text: string,
  models: readonly { device: Device; model: Model }[],
  { system, options }: { system: string; options: GenerateOptions },
): Promise<Answer[]> {
  const prompt = promptOf(mode, text, system);
  for (const action of actions) action.remove();
  const columns = models.map(({ device }) =>
    createColumn(device, models.length > 1, mode === 'continue' ? text : undefined),
  );
  const beside = element('div', models.length > 1 ? 'columns two' : 'columns', ...columns.map(({ root }) => root));
  const said = element('p', 'said', text);
  said.dir = 'auto';
  const message = mode === 'chat' ? [element('span', 'unseen', 'You:'), said] : [];
  const item = element('li', `turn ${mode}`, ...message, beside);
  const tools = models.length === 1 ? columns[0].tools : element('div', 'tools');
  const turn: Turn = { mode, text, item, tools, answer: '' };
  turns.push(turn);
  list.append(item);
  showWhetherEmpty();
  follow(true);

  const answers = await Promise.all(models.map(({ model }, i) => columns[i].write(model, prompt, options)));
  turn.answer = answers[0].text.trim();
  if (answers.length > 1) item.append(element('p', 'verdict', verdict(answers)), tools);
  tools.append(...actions);
  follow();
  announce(answers.map(({ device, text: said }) => `${DEVICE_NAMES[device]}: ${said}`).join(' '));
  return answers;
}

function verdict([a, b]: readonly Answer[]): string {
  const names = `${DEVICE_NAMES[a.device]} and ${DEVICE_NAMES[b.device]}`;
  const length = Math.min(a.tokens.length, b.tokens.length);
  const at = a.tokens.slice(0, length).findIndex((id, i) => id !== b.tokens[i]);
  if (at >= 0) return `The texts differ from token ${at + 1} on.`;
  const same = `${names} drew the same ${length} tokens`;
  return a.tokens.length === b.tokens.length ? `${same}.` : `${same}, as far as both came.`;
}
