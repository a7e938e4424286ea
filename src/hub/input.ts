import { HubError } from './error.ts';
import { parseReference } from './reference.ts';

const EXPECTED = "a path, an address, org/repo of the hub, a Blob, or the file's bytes";
/** Of a text that a message shows. */
const MAX_SHOWN = 200;

/**
 * What openModel takes, checked as far as it can be without a look at files; of a view its bytes.
 * @throws TypeError on what is no place of a model, HubError on a text that begins with `hf:` and is no reference
 */
export function checkedInput(input: unknown): string | URL | Blob | Uint8Array | ArrayBuffer {
  if (typeof input === 'string' || input instanceof URL) {
    const text = String(input);
    if (text === '') throw new TypeError(`model: got an empty text, expected ${EXPECTED}`);
    if (!text.startsWith('hf:') || parseReference(text) !== undefined) return input;
    throw new HubError('choice', `${JSON.stringify(text.slice(0, MAX_SHOWN))}: expected hf:org/repo[:file][@revision]`);
  }
  if (input instanceof Blob) return input;
  if (ArrayBuffer.isView(input)) {
    return input instanceof Uint8Array ? input : new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  }
  // Not by instanceof: it may be of another realm, or shared.
  const kind = Object.prototype.toString.call(input).slice(8, -1);
  if (/^(Shared)?ArrayBuffer$/.test(kind)) return input as ArrayBuffer;
  const isObject = (typeof input === 'object' && input !== null) || typeof input === 'function';
  throw new TypeError(`model: got ${isObject ? kind : String(input)}, expected ${EXPECTED}`);
}

/** @throws TypeError */
export function checkOptions(options: unknown): void {
  if (typeof options === 'object' && options !== null) return;
  throw new TypeError(`options: got ${options === null ? 'null' : typeof options}, expected an object`);
}
