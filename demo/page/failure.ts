import { byId } from './dom.ts';

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
  const name = error instanceof Error ? error.name : '';
  if (/\b40[13]\b/.test(message))
    return 'The server wants a sign-in, which this page has not. Download the file and choose it here.';
  if (/\b404\b/.test(message)) return 'Check the address: the server knows no file there.';
  if (/\b(429|5\d\d)\b/.test(message) && /http/i.test(message))
    return 'The server is busy or out of order. Try again in a while.';
  if (/failed to fetch|networkerror|load failed/i.test(message)) {
    return 'Either there is no way to the server, or it does not let other pages read its files (CORS). Download the file and choose it here.';
  }
  if (/webgpu|gpu/i.test(message)) return 'The CPU needs no GPU: choose CPU at the top of the page.';
  if (/tokens, expected at most/.test(message)) {
    return 'The text is longer than the context of the model. Clear the texts, or send a shorter one.';
  }
  if (/memory/i.test(message)) return 'Close other pages, or take a smaller model.';
  if (name === 'GgufError')
    return 'The file is broken, or is not of a kind that ternlm opens. Download it again, or choose another one.';
  return 'Choose another model, or reload the page.';
}
