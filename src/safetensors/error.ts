/** A checkpoint is not what it promises to be. The message says where (file, tensor, byte), what was expected and what was found. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError';
  /** Byte of the file at which the fault lies, where there is one. */
  readonly offset?: number;

  constructor(message: string, offset?: number, options?: ErrorOptions) {
    super(message, options);
    this.offset = offset;
  }
}
