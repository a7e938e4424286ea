// What servers say, and what they name, as it may stand in a message: on a terminal, in a log.

/** Values that no message shows, whoever repeats them. */
const secrets = new Set<string>();
/** Fewer letters are no secret, and would be found in any word. */
const LEAST_SECRET = 4;
/** Of one text: more tells nobody more (not tuned). */
const MAX_CHARS = 200;
/** Of an address, which may name a repository, a revision and a file (not tuned). */
export const MAX_ADDRESS_CHARS = 500;
/** Control characters, those that turn the order of writing round, halves of surrogate pairs, and ends of lines. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** From now on `printable` shows this to nobody. */
export function keepSecret(value: string): void {
  if (value.length >= LEAST_SECRET) secrets.add(value);
}

/** A stranger's text as one short line that a terminal shows as it is, without the secrets that are kept. */
export function printable(text: string, maxChars: number = MAX_CHARS): string {
  let shown = text;
  for (const value of secrets) {
    for (const form of [value, encodeURIComponent(value), encodeURI(value)]) {
      // Hosts come in small letters.
      shown = shown.replace(new RegExp(form.replace(/\W/g, '\\$&'), 'gi'), '[secret]');
    }
  }
  const cut = shown.length > maxChars ? `${shown.slice(0, maxChars)}...` : shown;
  return cut.replace(UNPRINTABLE, '?');
}

/** What was given for an address and is none that may be used: without user name, password and query. */
export function printableAddress(text: string): string {
  const plain = text.replace(/[?#].*/s, '').replace(/^([a-z][a-z0-9+.-]*:[\\/]*)?[^/]*@/i, '$1');
  return printable(plain, MAX_ADDRESS_CHARS);
}
