/** SentencePiece writes a space as this character, "▁". */
export const ESCAPED_SPACE = 0x2581;

/**
 * UTF-8 of `text[from, to)` into `out` at `at`, at most three bytes a UTF-16 unit; returns its end. A lone surrogate
 * becomes U+FFFD, and with `spaces` U+2581 a space.
 */
export function writeUtf8(
  text: string,
  from: number,
  to: number,
  out: Uint8Array,
  at: number,
  spaces: boolean,
): number {
  for (let i = from; i < to; i++) {
    let code = text.charCodeAt(i);
    if (code < 0x80) {
      out[at++] = code;
      continue;
    }
    if (code < 0x800) {
      out[at++] = 0xc0 | (code >> 6);
      out[at++] = 0x80 | (code & 0x3f);
      continue;
    }
    if (spaces && code === ESCAPED_SPACE) {
      out[at++] = 0x20;
      continue;
    }
    if ((code & 0xf800) === 0xd800) {
      const low = i + 1 < to ? text.charCodeAt(i + 1) : 0;
      if (code < 0xdc00 && (low & 0xfc00) === 0xdc00) {
        const astral = 0x10000 + ((code & 0x3ff) << 10) + (low & 0x3ff);
        out[at++] = 0xf0 | (astral >> 18);
        out[at++] = 0x80 | ((astral >> 12) & 0x3f);
        out[at++] = 0x80 | ((astral >> 6) & 0x3f);
        out[at++] = 0x80 | (astral & 0x3f);
        i++;
        continue;
      }
      code = 0xfffd;
    }
    out[at++] = 0xe0 | (code >> 12);
    out[at++] = 0x80 | ((code >> 6) & 0x3f);
    out[at++] = 0x80 | (code & 0x3f);
  }
  return at;
}
