import { byId } from './dom.ts';
import type { GenerateOptions } from './engine.ts';

const SLIDERS = ['temperature', 'top-p'] as const;

const form = byId('sampling', HTMLFormElement);
const input = (id: string) => byId(id, HTMLInputElement);

/** Shows the numbers that the sliders stand at, now and when they move. */
export function setUpSettings(): void {
  const show = () => {
    for (const id of SLIDERS) {
      const output = document.querySelector(`output[for="${id}"]`);
      if (output !== null) output.textContent = input(id).valueAsNumber.toFixed(2);
    }
  };
  form.addEventListener('input', show);
  form.addEventListener('reset', () => setTimeout(show)); // the fields are set back after the event
  form.addEventListener('submit', (event) => event.preventDefault());
  show();
}

export interface Settings {
  readonly system: string;
  readonly options: GenerateOptions;
}

/** What the panel says; undefined where a field is wrong, which the browser then tells beside it. */
export function readSettings(): Settings | undefined {
  if (!form.checkValidity()) {
    byId('settings', HTMLDetailsElement).open = true;
    form.reportValidity();
    return undefined;
  }
  // Drawn here and not in the library, so that two devices have the same.
  const seed = input('seed').value === '' ? crypto.getRandomValues(new Uint32Array(1))[0] : input('seed').valueAsNumber;
  return {
    system: byId('system', HTMLTextAreaElement).value.trim(),
    options: {
      temperature: input('temperature').valueAsNumber,
      topP: input('top-p').valueAsNumber,
      maxTokens: input('max-tokens').valueAsNumber,
      seed,
    },
  };
}
