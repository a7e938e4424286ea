import { declare, type Kernel, type Variant } from './declare.ts';

/** Rows of one workgroup. */
export const ADVANCE_ROWS = 64;

/** An invocation a row of `advance`; specification: src/reference/advance.ts. `stride` counts words. */
export function advance(variant: Variant): Kernel {
  return {
    stem: 'advance',
    code: `${declare(
      variant,
      ['picks: array<vec4<u32>>', '*tokens: array<u32>', '*pos: array<u32>', '*params: array<u32>'],
      ['outs: u32', 'stride: u32'],
    )}
@compute @workgroup_size(${ADVANCE_ROWS})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  if (i >= p.outs) { return; }
  let row = i * p.stride;
  let token = u32(max(bitcast<i32>(picks[i].x), 0));
  tokens[i] = token;
  pos[i] += 1u;
  params[row + 2u] += 1u;
  let recents = params[row + 13u];
  let mostRecents = params[row + 14u];
  let at = row + 16u + 2u * params[row + 12u];
  if (recents < mostRecents) {
    params[at + recents] = token;
    params[row + 13u] = recents + 1u;
  } else if (mostRecents > 0u) {
    let oldest = params[row + 15u];
    params[at + oldest] = token;
    params[row + 15u] = select(oldest + 1u, 0u, oldest + 1u == mostRecents);
  }
}
`,
  };
}
