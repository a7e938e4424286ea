import { byId } from './dom.ts';
import { HubError } from './engine.ts';

const card = byId('failure', HTMLElement);
const retry = byId('failure-retry', HTMLButtonElement);
let onRetry: (() => void) | undefined;
let onClose = () => {};

/**
 * Shows the card before `place`.
 *
 * @param again what "Try again" does; there is no such button without
 */
export function showFailure(
  place: HTMLElement,
  title: string,
  error: unknown,
  again: (() => void) | undefined,
  closed: () => void,
): void {
  place.before(card);
  const message = error instanceof Error ? error.message : String(error);
  byId('failure-title', HTMLHeadingElement).textContent = title;
  byId('failure-message', HTMLParagraphElement).textContent = message;
  byId('failure-advice', HTMLParagraphElement).textContent = adviceFor(error, message);
  onRetry = again;
  onClose = closed;
  retry.hidden = again === undefined;
  card.hidden = false;
  card.focus();
}

export function hideFailure(): void {
  card.hidden = true;
}

retry.addEventListener('click', () => {
  hideFailure();
  onRetry?.();
});
byId('failure-close', HTMLButtonElement).addEventListener('click', () => {
  hideFailure();
  onClose();
});

/** What to do next. The library's own message has told what was wrong. */
function adviceFor(error: unknown, message: string): string {
  const { code, status } = error instanceof HubError ? error : { code: undefined, status: undefined };
  if (status === 401 || status === 403) {
    return 'The server wants a sign-in, which this page has not. Download the file and choose it here.';
  }
  if (status === 404 || /\b404\b/.test(message)) return 'Check the address: the server knows no file there.';
  if (status === 429 || (status !== undefined && status >= 500)) {
    return 'The server is busy or out of order. Try again in a while.';
  }
  if (code === 'network' || /failed to fetch|networkerror|load failed/i.test(message)) {
    return 'Either there is no way to the server, or it does not let other pages read its files (CORS). Download the file and choose it here.';
  }
  if (code === 'choice') return 'Name the file behind the repository: org/repo:file.gguf.';
  if (code === 'cache') return 'Remove models that were downloaded before, or download the file and choose it here.';
  if (/webgpu|gpu/i.test(message)) return 'The CPU needs no GPU: choose CPU at the top of the page.';
  if (/tokens, expected at most/.test(message)) {
    return 'The text is longer than the context of the model. Clear the texts, or send a shorter one.';
  }
  if (/memory/i.test(message)) return 'Close other pages, or take a smaller model.';
  if (code !== undefined || (error instanceof Error && error.name === 'GgufError')) {
    return 'The file is broken, or is not of a kind that ternlm opens. Download it again, or choose another one.';
  }
  return 'Choose another model, or reload the page.';
}
