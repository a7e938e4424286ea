import type { Answer } from './answer.ts';
import { clearTurns, type Mode, removeLastTurn, setActions, takeTurn } from './conversation.ts';
import { announce, button, byId, choose, chosen, radios } from './dom.ts';
import type { Device, Model, Picked } from './engine.ts';
import { hideFailure, showFailure } from './failure.ts';
import { loadWithBar } from './loading.ts';
import { findGpu, showMachine } from './machine.ts';
import { showModels } from './model_card.ts';
import { setUpDropping, setUpPicker, shipped, showPicker } from './picking.ts';
import { readSettings, type Settings, setUpSettings } from './settings.ts';

const picker = byId('picker', HTMLElement);
const ready = byId('ready', HTMLElement);
const composer = byId('composer', HTMLFormElement);
const prompt = byId('prompt', HTMLTextAreaElement);
const send = byId('send', HTMLButtonElement);
const stop = byId('stop', HTMLButtonElement);
const compute = byId('compute', HTMLFieldSetElement);

const BEGINNINGS = {
  continue: ['Once upon a time', 'The old king had three daughters', '"Who are you?" said the fox'],
  chat: ['What is the capital of France?', 'Explain what a ternary weight is.', 'Write a short poem about the sea.'],
};

/** What is loaded, and on what. */
let picked: Picked | undefined;
const models = new Map<Device, Model>();
/** Ends the loading or the text that is under way. */
let running: AbortController | undefined;
/** The compute that was chosen last and could be loaded. */
let settled = 'cpu';

const wanted = (): Device[] => (chosen('compute') === 'both' ? ['cpu', 'gpu'] : [chosen('compute') as Device]);
const mode = () => chosen('mode') as Mode;
/** Of the devices wanted, those that have the model. */
const loaded = () =>
  wanted().flatMap((device) => {
    const model = models.get(device);
    return model === undefined ? [] : [{ device, model }];
  });

function show(view: 'picker' | 'loading' | 'ready'): void {
  picker.hidden = view !== 'picker';
  ready.hidden = view !== 'ready';
  document.body.classList.toggle('talking', view === 'ready');
}

async function disposeAll(): Promise<void> {
  const all = [...models.values()];
  models.clear();
  await Promise.all(all.map((model) => model.dispose()));
}

/** Loads what is not there yet of the devices wanted. Where that fails or is cancelled, `home` goes back to where one was. */
async function loadWanted(from: Picked, controller: AbortController, home: () => void): Promise<boolean> {
  const to = chosen('compute');
  compute.disabled = true;
  try {
    for (const device of wanted()) {
      if (!models.has(device)) models.set(device, await loadWithBar(from, device, controller));
    }
    settled = to;
    return true;
  } catch (error) {
    home();
    if (!controller.signal.aborted) {
      const again = () => (picked === undefined ? pick(from) : changeCompute(to));
      const place = picked === undefined ? picker : composer;
      showFailure(place, `${from.name} could not be loaded`, error, again, home);
    }
    return false;
  } finally {
    running = undefined;
    compute.disabled = false;
  }
}

/** A model instead of the one before, which is let go first: two may not fit. */
async function pick(from: Picked): Promise<void> {
  if (running !== undefined) return;
  const controller = new AbortController();
  running = controller;
  hideFailure();
  show('loading');
  clearTurns();
  await disposeAll();
  picked = undefined;
  const to = chosen('compute');
  if (to === 'both') choose('compute', 'cpu');
  if (!(await loadWanted(from, controller, goToPicker))) return;
  picked = from;
  const isTale = from === shipped;
  choose('mode', loaded()[0].model.info.chatTemplate === 'plain' ? 'continue' : 'chat');
  prompt.value = isTale ? BEGINNINGS.continue[0] : '';
  showModels(loaded());
  showMode();
  show('ready');
  scrollTo(0, 0);
  prompt.focus({ preventScroll: true });
  if (to === 'both') await changeCompute(to);
}

/** The other device, or both: what is missing is loaded beside what is there. */
async function changeCompute(to: string): Promise<void> {
  choose('compute', to);
  if (picked === undefined || running !== undefined) return;
  const controller = new AbortController();
  running = controller;
  hideFailure();
  send.disabled = true;
  const undo = () => {
    choose('compute', settled);
    prompt.focus();
  };
  if (await loadWanted(picked, controller, undo)) undo();
  if (loaded().length > 0) showModels(loaded());
  send.disabled = false;
}

function goToPicker(): void {
  show('picker');
  showPicker(picked?.name);
}

function showMode(): void {
  const chat = mode() === 'chat';
  byId('prompt-label', HTMLLabelElement).textContent = chat ? 'Message' : 'Text to continue';
  prompt.placeholder = chat ? 'Write a message' : 'Begin a text';
  byId('empty-text', HTMLParagraphElement).textContent = chat
    ? 'The model answers messages, and sees those before.'
    : 'The model continues what you begin.';
  byId('suggestions', HTMLDivElement).replaceChildren(
    ...BEGINNINGS[mode()].map((text) =>
      button(text, () => {
        prompt.value = text;
        prompt.focus();
      }),
    ),
  );
}

async function answer(to: Mode, text: string, settings: Settings): Promise<void> {
  hideFailure();
  const controller = new AbortController();
  running = controller;
  setWriting(true);
  announce('The model writes');
  try {
    const answers = await takeTurn(to, text, loaded(), {
      ...settings,
      options: { ...settings.options, signal: controller.signal },
    });
    const failed = answers.find(({ ended }) => ended === 'failed');
    if (failed !== undefined) {
      if (answers.every((one) => one.text === '')) {
        removeLastTurn();
        prompt.value ||= text;
      }
      const reload = await disposeDead(answers);
      showFailure(composer, 'The text could not be written', failed.error, reload, () => prompt.focus());
    }
  } finally {
    running = undefined;
    setWriting(false);
  }
}

/**
 * Models whose GPU or worker is gone answer no more. What the library refuses, which it says with these, it refuses alive.
 *
 * @returns what loads them anew, where there were any
 */
async function disposeDead(answers: readonly Answer[]): Promise<(() => void) | undefined> {
  const refused = (error: unknown) => error instanceof RangeError || error instanceof TypeError;
  const dead = answers.filter(({ ended, error }) => ended === 'failed' && !refused(error));
  for (const { device } of dead) {
    const model = models.get(device);
    models.delete(device);
    await model?.dispose().catch(() => {}); // it had failed before
  }
  const [left = 'cpu'] = models.keys();
  if (dead.length > 0) settled = left;
  return dead.length === 0 ? undefined : () => changeCompute(chosen('compute'));
}

/** The last text once more, with the settings of now. */
function again(): void {
  const settings = readSettings();
  if (settings === undefined || running !== undefined) return;
  const last = removeLastTurn();
  if (last !== undefined) answer(last.mode, last.text, settings);
}

function clear(): void {
  if (running !== undefined) return;
  clearTurns();
  hideFailure();
  prompt.focus();
}

function setWriting(writing: boolean): void {
  const focused = document.activeElement === stop || document.activeElement === send;
  send.hidden = writing;
  stop.hidden = !writing;
  byId('keys-send', HTMLSpanElement).hidden = writing;
  byId('keys-stop', HTMLSpanElement).hidden = !writing;
  compute.disabled = writing;
  byId('change', HTMLButtonElement).disabled = writing;
  // A button that goes takes the focus with it.
  if (focused) (writing ? stop : prompt).focus();
}

function submit(): void {
  const text = prompt.value;
  if (text.trim() === '' || running !== undefined || send.disabled) return;
  if (loaded().length < wanted().length) {
    changeCompute(chosen('compute'));
    return;
  }
  const settings = readSettings();
  if (settings === undefined) return;
  prompt.value = '';
  answer(mode(), mode() === 'chat' ? text.trim() : text, settings);
}

function setUpComposer(): void {
  composer.addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener('keydown', (event) => {
    // Enter that ends the writing of a word in an input method is none.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  setActions([button('Again', again), button('Clear', clear)]);
  stop.addEventListener('click', () => running?.abort());
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape') running?.abort();
  });
  for (const radio of radios('mode')) radio.addEventListener('change', showMode);
}

async function setUpMachine(): Promise<void> {
  showMachine(undefined);
  if (!(await findGpu())) return;
  compute.hidden = false;
  for (const radio of radios('compute')) radio.addEventListener('change', () => changeCompute(radio.value));
}

setUpSettings();
setUpPicker(pick, () => {
  show('ready');
  prompt.focus();
});
setUpDropping(pick, () => running !== undefined);
byId('change', HTMLButtonElement).addEventListener('click', goToPicker);
setUpComposer();
setUpMachine();
show('picker');
// Where there is room beside the text.
byId('settings', HTMLDetailsElement).open = matchMedia('(min-width: 64rem)').matches;
