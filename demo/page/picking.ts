import { bytes } from '../../src/cli/format.ts';
import { announce, button, byId, element } from './dom.ts';
import { type CachedModel, keptModels, type Picked, pickedFromText, removeModel, shippedModel } from './engine.ts';

const back = byId('picker-back', HTMLButtonElement);
const address = byId('address', HTMLInputElement);
export const shipped: Picked | undefined = shippedModel();
/** Lists anew what was downloaded. */
let showKept = async () => {};

/** What can be picked, and where. */
export function setUpPicker(pick: (picked: Picked) => void, close: () => void): void {
  byId('shipped', HTMLDivElement).hidden = shipped === undefined;
  byId('no-shipped', HTMLParagraphElement).hidden = shipped !== undefined;
  byId('pick-shipped', HTMLButtonElement).addEventListener('click', () => shipped && pick(shipped));
  const file = byId('pick-file', HTMLInputElement);
  file.addEventListener('change', () => {
    const [chosenFile] = file.files ?? [];
    file.value = '';
    if (chosenFile !== undefined) pick(fromFile(chosenFile));
  });
  byId('pick-address', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    const text = address.value.trim();
    if (text !== '') pickedFromText(text).then(pick);
  });
  back.addEventListener('click', close);
  showKept = async () => {
    const kept = (await keptModels()) ?? [];
    byId('kept', HTMLDivElement).hidden = kept.length === 0;
    byId('kept-list', HTMLUListElement).replaceChildren(...kept.map((model) => keptItem(model, pick)));
  };
  showKept();
}

function keptItem({ name, complete, bytes: here, totalBytes }: CachedModel, pick: (picked: Picked) => void): Node {
  const of = totalBytes === undefined || complete ? '' : ` of ${bytes(totalBytes)}`;
  const load = button(complete ? 'Load' : 'Go on', async () =>
    pick({ ...(await pickedFromText(name)), cache: true, isKnown: complete }),
  );
  const remove = button('Remove', async () => {
    if (!confirm(`Remove ${name} from this machine?`)) return;
    await removeModel(name).catch((error: unknown) => announce(String(error)));
    await showKept();
    announce(`${name} was removed`);
  });
  for (const made of [load, remove]) made.setAttribute('aria-label', `${made.textContent} ${name}`);
  return element('li', '', element('span', 'name', name), element('span', 'figures', bytes(here) + of), load, remove);
}

/** The picker, with a way back to the model of that name. */
export function showPicker(current: string | undefined): void {
  back.hidden = current === undefined;
  back.textContent = `Back to ${current ?? ''}`;
  showKept();
  byId('picker-title', HTMLHeadingElement).focus();
}

const fromFile = (file: File): Picked => ({ name: file.name, open: () => file });

/** A file may be dropped anywhere, unless a model is being loaded or writes. */
export function setUpDropping(pick: (picked: Picked) => void, busy: () => boolean): void {
  const veil = byId('dropping', HTMLDivElement);
  let depth = 0;
  const holds = ({ dataTransfer }: DragEvent) => dataTransfer?.types.includes('Files') === true;
  addEventListener('dragenter', (event) => {
    if (!holds(event)) return;
    depth++;
    veil.hidden = busy();
  });
  addEventListener('dragleave', () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) veil.hidden = true;
  });
  addEventListener('dragover', (event) => {
    if (holds(event)) event.preventDefault();
  });
  addEventListener('drop', (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const [file] = event.dataTransfer?.files ?? [];
    if (file !== undefined) pick(fromFile(file));
  });
}
