/** What went wrong with a model of a hub or of an address; `code` for programs, the message for people. */
export type HubErrorCode =
  /** No connection, or one that broke off or stood still. */
  | 'network'
  /** An HTTP status that is no file; see `status`. */
  | 'status'
  /** A redirect to where nothing may be fetched from. */
  | 'redirect'
  /** Another length or place than promised. */
  | 'length'
  /** Other bytes than the hub has a checksum of. */
  | 'checksum'
  /** Bytes that are no GGUF file, or a list of files that is none. */
  | 'format'
  /** No file, or several, where one is to be chosen. */
  | 'choice'
  /** No cache here, or one without room, or in use. */
  | 'cache';

export class HubError extends Error {
  override readonly name = 'HubError';
  readonly code: HubErrorCode;
  /** HTTP status of the answer, where there was one. */
  readonly status?: number;
  /** How long the server asks to wait. */
  readonly retryAfterMs?: number;

  constructor(
    code: HubErrorCode,
    message: string,
    options: ErrorOptions & { readonly status?: number; readonly retryAfterMs?: number } = {},
  ) {
    super(message, options);
    this.code = code;
    this.status = options.status;
    this.retryAfterMs = options.retryAfterMs;
  }
}
