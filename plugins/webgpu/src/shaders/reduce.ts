import { THREADS, type Variant } from './declare.ts';

/**
 * `name(value, thread)`: one value a thread of a workgroup combined into one, the same for all of them and in the same order
 * on every run. All threads have to call it.
 *
 * @param combine an expression of the values a and b
 */
export function reduce({ subgroup }: Variant, name: string, type: string, combine: string): string {
  const shared = `${name}Shared`;
  const join = `fn ${name}Join(a: ${type}, b: ${type}) -> ${type} { return ${combine}; }`;
  if (subgroup === 0) {
    return `
var<workgroup> ${shared}: array<${type}, ${THREADS}>;
${join}
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  ${shared}[thread] = value;
  workgroupBarrier();
  for (var d = ${THREADS / 2}u; d > 0u; d >>= 1u) {
    if (thread < d) { ${shared}[thread] = ${name}Join(${shared}[thread], ${shared}[thread + d]); }
    workgroupBarrier();
  }
  let all = ${shared}[0];
  workgroupBarrier();
  return all;
}
`;
  }
  const steps = [];
  for (let d = subgroup / 2; d >= 1; d /= 2) steps.push(`v = ${name}Join(v, subgroupShuffleXor(v, ${d}u));`);
  return `
var<workgroup> ${shared}: array<${type}, ${THREADS / subgroup}>;
${join}
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  var v = value;
  ${steps.join('\n  ')}
  if (thread % ${subgroup}u == 0u) { ${shared}[thread / ${subgroup}u] = v; }
  workgroupBarrier();
  var all = ${shared}[0];
  for (var i = 1u; i < ${THREADS / subgroup}u; i++) { all = ${name}Join(all, ${shared}[i]); }
  workgroupBarrier();
  return all;
}
`;
}

/** `name(value, thread)`: the sum over the `lanes` neighbours of a thread, in the first of them. All threads have to call it. */
export function sumLanes({ subgroup }: Variant, name: string, type: string, lanes: number): string {
  const halves = Array.from({ length: Math.log2(lanes) }, (_, i) => lanes >> (i + 1));
  if (subgroup >= lanes) {
    return `
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  var v = value;
  ${halves.map((d) => `v += subgroupShuffleXor(v, ${d}u);`).join('\n  ')}
  return v;
}
`;
  }
  const shared = `${name}Shared`;
  return `
var<workgroup> ${shared}: array<${type}, ${THREADS}>;
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  ${shared}[thread] = value;
  workgroupBarrier();
  ${halves
    .map(
      (d) => `if (thread % ${lanes}u < ${d}u) { ${shared}[thread] += ${shared}[thread + ${d}u]; }
  workgroupBarrier();`,
    )
    .join('\n  ')}
  let sum = ${shared}[thread];
  workgroupBarrier();
  return sum;
}
`;
}
