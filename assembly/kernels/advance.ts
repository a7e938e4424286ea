/** Readies a row for its next token: specification in src/reference/advance.ts; pick and params are drawn in src/sampler.ts. */
export function advance(pick: usize, token: usize, pos: usize, params: usize): void {
  const id = max(load<i32>(pick), 0);
  store<i32>(token, id);
  store<i32>(pos, load<i32>(pos) + 1);
  store<u32>(params, load<u32>(params, 8) + 1, 8);
  const recents = params + 64 + (<usize>load<i32>(params, 48) << 3);
  const count = load<i32>(params, 52), most = load<i32>(params, 56);
  if (count < most) {
    store<i32>(recents + (<usize>count << 2), id);
    store<i32>(params, count + 1, 52);
  } else if (most > 0) {
    const oldest = load<i32>(params, 60);
    store<i32>(recents + (<usize>oldest << 2), id);
    store<i32>(params, oldest + 1 < most ? oldest + 1 : 0, 60);
  }
}
