import { byId } from './dom.ts';

/** A GPU for the page: none where there is no adapter but a software one, unless the address says `?gpu=1`. */
export async function findGpu(): Promise<boolean> {
  if (navigator.gpu === undefined) return false;
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (adapter === null) return false;
  const forced = new URLSearchParams(location.search).get('gpu') === '1';
  return forced || !(adapter.info?.isFallbackAdapter ?? false);
}

/** Why the page's threads are on or off, before any model is loaded. */
export function threadsLine(): string {
  if (crossOriginIsolated) return 'Threads on: the page is cross-origin isolated.';
  const why = location.protocol === 'file:' ? 'a page opened from disk is not' : 'the page is not';
  return `Threads off: ${why} cross-origin isolated. Served by "npx ternlm demo" it is.`;
}

export function showMachine(threads: number | undefined): void {
  const light = byId('threads', HTMLParagraphElement);
  const on = crossOriginIsolated;
  light.classList.toggle('on', on);
  light.textContent = on
    ? threads === undefined || threads === 1
      ? 'Threads on'
      : `${threads} threads`
    : 'Threads off';
  light.title = threadsLine();
  byId('machine-line', HTMLParagraphElement).textContent = threadsLine();
}
