/**
 * The ids of short pre-tokens met before. Direct mapped: a word lives in the one slot that its hash names and a newer
 * word takes that slot over, so memory is bounded (1.1 MiB) and no string of a caller is kept alive.
 */
export interface WordCache {
  /** Appends the ids of `text[from, to)` to `out`, if they are known; else remembers the slot for `put`. */
  get(text: string, from: number, to: number, out: number[]): boolean;
  /** Stores `out[first, ...)` as the ids of the word that `get` has just not found. */
  put(text: string, from: number, to: number, out: readonly number[], first: number): void;
}

const SLOTS = 1 << 14;
const MAX_UNITS = 16;
const MAX_IDS = 8;

export function createWordCache(): WordCache {
  const units = new Uint16Array(SLOTS * MAX_UNITS);
  const lengths = new Uint8Array(SLOTS); // in UTF-16 units, 0 for an empty slot
  const ids = new Int32Array(SLOTS * MAX_IDS);
  const counts = new Uint8Array(SLOTS);
  let missed = 0;

  return {
    get(text, from, to, out) {
      if (to - from > MAX_UNITS) return false;
      let hash = 0x811c9dc5;
      for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
      const slot = (hash ^ (hash >>> 15)) & (SLOTS - 1);
      missed = slot;
      if (lengths[slot] !== to - from) return false;
      const key = slot * MAX_UNITS - from;
      for (let i = from; i < to; i++) if (units[key + i] !== text.charCodeAt(i)) return false;
      const end = slot * MAX_IDS + counts[slot];
      for (let i = slot * MAX_IDS; i < end; i++) out.push(ids[i]);
      return true;
    },
    put(text, from, to, out, first) {
      if (to - from > MAX_UNITS || out.length - first > MAX_IDS) return;
      lengths[missed] = to - from;
      for (let i = from; i < to; i++) units[missed * MAX_UNITS + i - from] = text.charCodeAt(i);
      counts[missed] = out.length - first;
      for (let i = first; i < out.length; i++) ids[missed * MAX_IDS + i - first] = out[i];
    },
  };
}
