import { printable } from './terminal.ts';

/** HTML that `html` has made. */
export interface Markup {
  readonly markup: string;
}
export type Piece = string | number | Markup | undefined | readonly Piece[];

/** Markup of a template. Texts between its literals are texts, never markup, and without control characters. */
export function html(literals: TemplateStringsArray, ...pieces: readonly Piece[]): Markup {
  return { markup: literals.reduce((all, literal, i) => all + markupOf(pieces[i - 1]) + literal) };
}

function markupOf(piece: Piece): string {
  if (piece === undefined) return '';
  if (typeof piece === 'string' || typeof piece === 'number') {
    return printable(String(piece)).replace(/[&<>"'`]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  }
  return 'markup' in piece ? piece.markup : piece.map(markupOf).join('');
}

/** Labels, and what they stand for. */
export function pairList(rows: readonly (readonly [string, string])[]): Markup {
  return html`<dl>${rows.map(([label, text]) => html`<dt>${label}</dt><dd>${text}</dd>`)}</dl>`;
}

/** Of a hostile file; real ones have a few hundred keys and tensors. */
const MOST_ROWS = 2000;

/** A heading and rows under it; columns of numbers stand to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): Markup {
  const kept = rows.slice(0, MOST_ROWS);
  const kinds = head.map((title, i) =>
    kept.every((row) => /^[\d?-]/.test(row[i])) ? 'n' : /^(name|key|value|from)$/.test(title) ? 'wide' : '',
  );
  const body = kept.map((row) => html`<tr>${row.map((cell, i) => html`<td class="${kinds[i]}">${cell}</td>`)}</tr>\n`);
  const titles = head.map((title) => html`<th>${title}</th>`);
  return html`<div class="scroll"><table><thead><tr>${titles}</tr></thead><tbody>\n${body}</tbody></table></div>
${leftOut(rows.length - kept.length, 'rows')}`;
}

/** Says that something is not shown. */
export function leftOut(count: number, what: string): Markup | undefined {
  return count > 0 ? html`<p>${count} more ${what} are left out.</p>` : undefined;
}
