/** Finds tokens that are looked for in the text itself, before any pre-tokenizer: control and user-defined ones. */

export interface SpecialMatch {
  readonly id: number;
  /** UTF-16 units: the token is `text[start, end)`. */
  readonly start: number;
  readonly end: number;
}

export interface SpecialFinder {
  /** The leftmost match at or after `from`, the longest of those that begin there. */
  find(text: string, from: number): SpecialMatch | undefined;
}

interface Node {
  id: number;
  readonly next: Map<number, Node>;
}

export function createSpecialFinder(entries: Iterable<readonly [text: string, id: number]>): SpecialFinder {
  const root: Node = { id: -1, next: new Map() };
  /** By UTF-16 unit, whether an entry begins with it: most of a text is passed over by this alone. */
  const begins = new Uint8Array(0x10000);
  for (const [text, id] of entries) {
    let node = root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let child = node.next.get(unit);
      if (child === undefined) {
        child = { id: -1, next: new Map() };
        node.next.set(unit, child);
      }
      node = child;
    }
    if (node !== root) {
      node.id = id;
      begins[text.charCodeAt(0)] = 1;
    }
  }

  const find = (text: string, from: number): SpecialMatch | undefined => {
    if (root.next.size === 0) return undefined;
    for (let start = from; start < text.length; start++) {
      if (begins[text.charCodeAt(start)] === 0) continue;
      let node = root.next.get(text.charCodeAt(start));
      let id = -1;
      let end = start;
      for (let at = start + 1; node !== undefined; at++) {
        if (node.id >= 0) {
          id = node.id;
          end = at;
        }
        node = at < text.length ? node.next.get(text.charCodeAt(at)) : undefined;
      }
      if (id >= 0) return { id, start, end };
    }
    return undefined;
  };
  return { find };
}
