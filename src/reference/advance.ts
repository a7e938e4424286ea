/**
 * Readies a row for its next token, when it has drawn one: returns the token, 0 where the pick's id is -1, and makes `params`
 * (src/sampler.ts) those of the sequence with that token. While fewer tokens are under penalty than may be it is added to
 * them, then it takes the place of the oldest.
 */
export function advance(pick: DataView, params: DataView): number {
  const token = Math.max(pick.getInt32(0, true), 0);
  params.setUint32(8, params.getUint32(8, true) + 1, true);
  const recentsAt = 64 + 8 * params.getInt32(48, true);
  const recents = params.getInt32(52, true);
  const mostRecents = params.getInt32(56, true);
  if (recents < mostRecents) {
    params.setInt32(recentsAt + 4 * recents, token, true);
    params.setInt32(52, recents + 1, true);
  } else if (mostRecents > 0) {
    const oldest = params.getInt32(60, true);
    params.setInt32(recentsAt + 4 * oldest, token, true);
    params.setInt32(60, (oldest + 1) % mostRecents, true);
  }
  return token;
}
