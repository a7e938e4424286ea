import { duration, rate } from '../../src/cli/format.ts';
import { button, element } from './dom.ts';
import { type Completion, DEVICE_NAMES, type Device, type GenerateOptions, type Model, type Prompt } from './engine.ts';

/** What became of an answer. */
export interface Answer {
  readonly device: Device;
  readonly text: string;
  readonly tokens: readonly number[];
  readonly ended: 'stop' | 'length' | 'stopped' | 'failed';
  /** Where it failed. */
  readonly error?: unknown;
}

/** Figures that change more often cannot be read. */
const FIGURES_EVERY_MS = 250;
const ENDINGS = { stop: 'ended by itself', length: 'length reached', stopped: 'stopped', failed: 'failed' };

/** The page follows the text while its end is in view. */
let following = true;
/** Some lines: about what a person scrolls who wants to stay behind. */
const NEAR_PX = 160;
addEventListener('scroll', () => {
  following = innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR_PX;
});

export function follow(always = false): void {
  following ||= always;
  if (following) scrollTo({ top: document.documentElement.scrollHeight, behavior: 'instant' });
}

/**
 * A column that a model writes into. Text comes in with the frames of the page, so that many tokens cost one layout, and
 * stays text: what a model writes is never markup.
 */
export function createColumn(device: Device, titled: boolean, prompt: string | undefined) {
  const out = document.createTextNode('');
  const written = element('span', 'out', out);
  const prose = element('p', 'prose', ...(prompt === undefined ? [] : [element('span', 'prompt', prompt)]), written);
  prose.dir = 'auto';
  const figures = element('p', 'figures', 'reading the prompt');
  const tools = element('div', 'tools');
  const root = element('article', 'answer writing', prose, figures, tools);
  if (titled) root.prepend(element('h3', 'device', DEVICE_NAMES[device]));

  async function write(model: Model, text: Prompt, options: GenerateOptions): Promise<Answer> {
    const started = performance.now();
    const tokens: number[] = [];
    let pending = '';
    let firstMs = 0;
    let lastMs = 0;
    let frame = 0;
    let figuresAt = 0;

    function show(extra: readonly string[]): void {
      const spent = lastMs - firstMs;
      const speed = tokens.length > 1 && spent > 0 ? rate((1000 * (tokens.length - 1)) / spent) : '';
      const first = tokens.length > 0 ? `first after ${duration(firstMs - started)}` : '';
      const count = `${tokens.length} ${tokens.length === 1 ? 'token' : 'tokens'}`;
      const parts = [speed, count, first, ...extra].filter((part) => part !== '');
      figures.replaceChildren(...parts.flatMap((part) => [element('span', part === speed ? 'speed' : '', part), ' ']));
    }
    function paint(now: number): void {
      frame = 0;
      out.appendData(pending);
      pending = '';
      if (now - figuresAt >= FIGURES_EVERY_MS) {
        figuresAt = now;
        show([]);
      }
      follow();
    }
    function finish(ended: Answer['ended'], completion?: Completion, error?: unknown): Answer {
      cancelAnimationFrame(frame);
      out.appendData(pending);
      root.classList.remove('writing');
      const seed = completion === undefined ? [] : [`seed ${completion.seed}`];
      show([ENDINGS[ended], ...seed, model.info.backend]);
      if (out.data !== '') tools.append(copyButton(() => (prompt ?? '') + out.data, prose));
      follow();
      return { device, text: out.data, tokens, ended, error };
    }

    try {
      const completion = await model.complete(text, {
        ...options,
        onToken(token) {
          lastMs = performance.now();
          if (tokens.length === 0) firstMs = lastMs;
          tokens.push(token.id);
          pending += token.text;
          // Models begin an answer with the space behind "Assistant:".
          if (prompt === undefined && out.data === '') pending = pending.trimStart();
          if (frame === 0) frame = requestAnimationFrame(paint);
        },
      });
      return finish(completion.finishReason, completion);
    } catch (error) {
      return options.signal?.aborted ? finish('stopped') : finish('failed', undefined, error);
    }
  }
  return { root, tools, write };
}

function copyButton(textOf: () => string, prose: HTMLElement): HTMLButtonElement {
  const name = 'Copy';
  return button(name, async (pressed) => {
    try {
      await navigator.clipboard.writeText(textOf());
      pressed.textContent = 'Copied';
    } catch {
      // Pages without a secure context, and those without leave, have no clipboard: the reader copies what is marked.
      getSelection()?.selectAllChildren(prose);
      pressed.textContent = 'Marked: copy it with the keyboard';
    }
    setTimeout(() => {
      pressed.textContent = name;
    }, 2500);
  });
}
