import { type GgufHeader, readHeader } from '../dist/gguf/header.js';
import type { TensorType } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import type { GgufValue } from '../dist/gguf/value.js';
import { type TypedValue, writeGguf } from '../dist/gguf/writer.js';

/** A tensor with its bytes. */
export interface PackedTensor {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly packed: Uint8Array;
}

/** The metadata of a golden model, with the types that its generator gave it. */
export function typedMetadata(header: GgufHeader): [string, TypedValue][] {
  return [...header.metadata].map(([name, value]) => [name, typed(name, value)]);
}

function typed(name: string, value: GgufValue): TypedValue {
  if (typeof value === 'string') return { type: 'string', value };
  if (typeof value === 'boolean') return { type: 'bool', value };
  if (typeof value === 'number') return { type: /epsilon$|freq_base$/.test(name) ? 'f32' : 'u32', value };
  if (value instanceof Int32Array) return { type: 'array', of: 'i32', value };
  return { type: 'array', of: 'string', value: value as string[] };
}

export function packedTensors(header: GgufHeader, bytes: Uint8Array): PackedTensor[] {
  return [...header.tensors.values()].map(({ name, type, dims, at, bytes: n }) => {
    return { name, type, dims, packed: bytes.subarray(at, at + n) };
  });
}

/** A golden model with each tensor replaced by those that `change` makes of it. */
export async function rewrite(
  bytes: Uint8Array,
  change: (tensor: PackedTensor) => PackedTensor[],
): Promise<Uint8Array> {
  const header = await readHeader(await openSource(bytes));
  return writeGguf(typedMetadata(header), packedTensors(header, bytes).flatMap(change));
}
