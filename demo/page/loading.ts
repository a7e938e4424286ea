import { bytes } from '../../src/cli/format.ts';
import { announce, byId } from './dom.ts';
import { DEVICE_NAMES, type Device, load, type Model, type Picked } from './engine.ts';

const card = byId('loading', HTMLElement);
const title = byId('loading-title', HTMLHeadingElement);
const bar = byId('loading-bar', HTMLProgressElement);
const figures = byId('loading-figures', HTMLParagraphElement);
const cancel = byId('loading-cancel', HTMLButtonElement);

/** The speed that is shown is that of this last while. */
const WINDOW_MS = 3000;
const SHOW_EVERY_MS = 100;

/** Bytes a second over the last while, from what was there at which time. */
function createMeter(): (atMs: number, loadedBytes: number) => number | undefined {
  const seen: { atMs: number; loadedBytes: number }[] = [];
  return (atMs, loadedBytes) => {
    seen.push({ atMs, loadedBytes });
    while (seen.length > 2 && atMs - seen[1].atMs > WINDOW_MS) seen.shift();
    const span = atMs - seen[0].atMs;
    return span < SHOW_EVERY_MS ? undefined : (1000 * (loadedBytes - seen[0].loadedBytes)) / span;
  };
}

function remaining(seconds: number): string {
  if (!Number.isFinite(seconds)) return '';
  const whole = Math.ceil(seconds);
  if (whole < 90) return `, ${whole} s left`;
  return whole < 5400 ? `, ${Math.round(whole / 60)} min left` : `, ${(whole / 3600).toFixed(1)} h left`;
}

/**
 * Loads a model, with a bar and a button that aborts `controller`.
 *
 * @throws what loadModel throws
 */
export async function loadWithBar(picked: Picked, device: Device, controller: AbortController): Promise<Model> {
  const onCancel = () => controller.abort();
  cancel.addEventListener('click', onCancel);
  title.textContent = `Loading ${picked.name}${device === 'gpu' ? ' on the GPU' : ''}`;
  figures.textContent = device === 'gpu' ? 'Starting the GPU and compiling for it' : 'Opening the file';
  bar.removeAttribute('value');
  card.hidden = false;
  title.focus();
  const speedAt = createMeter();
  let shownAt = 0;
  try {
    const model = await load(picked, device, {
      signal: controller.signal,
      onProgress({ loadedBytes, totalBytes }) {
        const now = performance.now();
        if (now - shownAt < SHOW_EVERY_MS && loadedBytes < totalBytes) return;
        shownAt = now;
        const speed = speedAt(now, loadedBytes);
        bar.max = totalBytes;
        bar.value = loadedBytes;
        const pace = speed ? `, ${bytes(speed)}/s${remaining((totalBytes - loadedBytes) / speed)}` : '';
        const full = loadedBytes >= totalBytes;
        figures.textContent = full
          ? `${bytes(totalBytes)} read, preparing`
          : `${bytes(loadedBytes)} of ${bytes(totalBytes)}${pace}`;
      },
    });
    announce(`${model.info.name} is loaded on the ${DEVICE_NAMES[device]}`);
    return model;
  } finally {
    card.hidden = true;
    cancel.removeEventListener('click', onCancel);
  }
}
