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

/** `name(value, thread)`: the sum over the `lanes` neighbours of a thread, in each of them. All threads have to call it. */
export function sumLanes({ subgroup }: Variant, name: string, type: string, lanes: number): string {
  const width = Math.max(1, Math.min(subgroup, lanes));
  const halves = Array.from({ length: Math.log2(width) }, (_, i) => width >> (i + 1));
  const shuffled = `var v = value;
  ${halves.map((d) => `v += subgroupShuffleXor(v, ${d}u);`).join('\n  ')}`;
  if (width === lanes) {
    return `
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  ${shuffled}
  return v;
}
`;
  }
  // Sums one after the other, as each barrier costs more than some of them. The loop's end is the zero's too: unrolled, 32 sums
  // of vectors take lavapipe a minute to compile.
  const shared = `${name}Shared`;
  return `
var<workgroup> ${shared}: array<${type}, ${THREADS / width}>;
fn ${name}(value: ${type}, thread: u32) -> ${type} {
  ${shuffled}
  if (thread % ${width}u == 0u) { ${shared}[thread / ${width}u] = v; }
  workgroupBarrier();
  let first = thread / ${lanes}u * ${lanes / width}u;
  var sum = ${shared}[first];
  for (var i = 1u; i < ${lanes / width}u + p.zero; i++) { sum += ${shared}[first + i]; }
  workgroupBarrier();
  return sum;
}
`;
}
