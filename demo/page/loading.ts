import { bytes, remaining } from '../../src/cli/format.ts';
import { announce, byId, element } from './dom.ts';
import { DEVICE_NAMES, type Device, load, type Model, type Picked } from './engine.ts';

const card = byId('loading', HTMLElement);
const title = byId('loading-title', HTMLHeadingElement);
const bar = byId('loading-bar', HTMLProgressElement);
const figures = byId('loading-figures', HTMLParagraphElement);
const cancel = byId('loading-cancel', HTMLButtonElement);

const SHOW_EVERY_MS = 100;

/**
 * Loads a model, with a bar and a button that aborts `controller`.
 *
 * @throws what loadModel throws
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
  try {
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
