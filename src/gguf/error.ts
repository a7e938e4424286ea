/**
 * A file, or the place it is read from, is not what it promises to be. The message says where (file, tensor or key,
 * byte), what was expected and what was found.
 */
export class GgufError extends Error {
  override readonly name = 'GgufError';
  /** Byte of the file at which the fault lies, where there is one. */
  readonly offset?: number;

  constructor(message: string, offset?: number, options?: ErrorOptions) {
    super(message, options);
    this.offset = offset;
  }
}
