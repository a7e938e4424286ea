// What every shader begins with.

/** Which instructions a device has; each kernel is made for one variant. */
export interface Variant {
  /** 'packed': dot4I8Packed. 'float': bytes unpacked to f32, whose sums stay below 2^24 and so are exact. */
  readonly dot: 'packed' | 'float';
  /** Least width of subgroups, 0 where they are not used: then workgroup memory takes their place. */
  readonly subgroup: number;
}

/** A compute shader with workgroups of THREADS. */
export interface Kernel {
  /** Names it in profiles and errors. */
  readonly stem: string;
  readonly code: string;
}

/** Invocations of a workgroup: the most that every adapter has. */
export const THREADS = 256;

/**
 * Declares storage buffers as bindings 0, 1, … and the uniform block `p` behind them, whose first word is always 0.
 *
 * @param buffers 'name: type', with a '*' before those that are written
 * @param params 'name: type' of one word each, in the order in which `dispatch` gets them
 */
export function declare(variant: Variant, buffers: readonly string[], params: readonly string[]): string {
  const storage = buffers.map((buffer, i) => {
    const access = buffer.startsWith('*') ? 'read_write' : 'read';
    return `@group(0) @binding(${i}) var<storage, ${access}> ${buffer.replace('*', '')};`;
  });
  return `${variant.subgroup > 0 ? 'enable subgroups;' : ''}
${storage.join('\n')}
struct Params { ${['zero: u32', ...params].join(', ')} }
@group(0) @binding(${buffers.length}) var<uniform> p: Params;
`;
}
