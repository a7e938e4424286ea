/** What was asked cannot be made of this input. The message says what, where, what was expected and what was found. */
export class ConvertError extends Error {
  override readonly name = 'ConvertError';
}
