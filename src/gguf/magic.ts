/** What is wrong with a file that begins with these four bytes, or undefined where it is GGUF. */
export function magicFault(first: Uint8Array): string | undefined {
  const magic = String.fromCharCode(...first.subarray(0, 4));
  if (['lmgg', 'fmgg', 'tjgg', 'algg'].includes(magic)) return 'a GGML file older than GGUF, expected GGUF';
  return magic === 'GGUF' ? undefined : `${JSON.stringify(magic)}, expected "GGUF"`;
}
