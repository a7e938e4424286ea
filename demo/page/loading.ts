import { bytes, remaining } from '../../src/cli/format.ts';
import { announce, byId, element } from './dom.ts';
import { DEVICE_NAMES, type Device, load, type Model, memoryOf, type Picked } from './engine.ts';

const card = byId('loading', HTMLElement);
const title = byId('loading-title', HTMLHeadingElement);
const bar = byId('loading-bar', HTMLProgressElement);
const figures = byId('loading-figures', HTMLParagraphElement);
const need = byId('loading-memory', HTMLParagraphElement);
const cancel = byId('loading-cancel', HTMLButtonElement);

/** Pieces come quicker than anybody looks. */
const SHOW_EVERY_MS = 100;

/** @throws RangeError where memory does not hold it, before anything of it is downloaded */
async function memoryLine(picked: Picked, signal: AbortSignal): Promise<string> {
  const { totalBytes, limitBytes, fits, advice } = await memoryOf(picked, signal);
  if (fits === 'no') {
    const ways = advice.length === 0 ? '' : `; it fits with ${advice.map(({ text }) => text).join(', or with ')}`;
    throw new RangeError(
      `${picked.name}: takes ${bytes(totalBytes)} of memory, expected at most ${bytes(limitBytes)}${ways}`,
    );
  }
  return `It takes ${bytes(totalBytes)} of memory, of at most ${bytes(limitBytes)} that a page has.`;
}

/**
 * Loads a model, with a bar and a button that aborts `controller`.
 *
 * @throws what estimate and loadModel throw
 */
export async function loadWithBar(picked: Picked, device: Device, controller: AbortController): Promise<Model> {
  const onCancel = () => controller.abort();
  cancel.addEventListener('click', onCancel);
  const onto = device === 'gpu' ? ' on the GPU' : '';
  title.textContent = `Loading ${picked.name}${onto}`;
  figures.textContent = device === 'gpu' ? 'Starting the GPU and compiling for it' : 'Opening the file';
  bar.removeAttribute('value');
  card.hidden = false;
  title.focus();
  let phase = '';
  let started = 0;
  let shownAt = 0;
  need.textContent = '';
  try {
    if (device === 'cpu' && picked.isKnown !== true) need.textContent = await memoryLine(picked, controller.signal);
    const model = await load(picked, device, {
      signal: controller.signal,
      onProgress(progress) {
        const { loadedBytes, totalBytes } = progress;
        const now = performance.now();
        if (progress.phase !== phase) {
          phase = progress.phase;
          started = now;
          title.textContent = phase === 'download' ? `Downloading ${picked.name}` : `Loading ${picked.name}${onto}`;
        } else if (now - shownAt < SHOW_EVERY_MS && loadedBytes < totalBytes) return;
        shownAt = now;
        const speed =
          progress.phase === 'download' ? progress.bytesPerSecond : (1000 * loadedBytes) / (now - started || 1);
        const left = speed > 0 && totalBytes > 0 ? `${remaining((totalBytes - loadedBytes) / speed)} left` : '';
        const done = totalBytes > 0 ? `${bytes(loadedBytes)} of ${bytes(totalBytes)}` : bytes(loadedBytes);
        if (totalBytes > 0) {
          bar.max = totalBytes;
          bar.value = loadedBytes;
        } else bar.removeAttribute('value');
        const parts = loadedBytes === totalBytes ? [done, 'preparing'] : [done, `${bytes(speed)}/s`, left];
        figures.replaceChildren(...parts.filter(Boolean).map((part) => element('span', '', part)));
      },
    });
    announce(`${model.info.name} is loaded on the ${DEVICE_NAMES[device]}`);
    return model;
  } finally {
    card.hidden = true;
    cancel.removeEventListener('click', onCancel);
  }
}
