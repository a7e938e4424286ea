import { type GgufHeader, readHeader } from '../dist/gguf/header.js';
import type { TensorType } from '../dist/gguf/layouts.js';
import { openSource } from '../dist/gguf/source.js';
import { typedMetadata, writeGguf } from '../dist/gguf/writer.js';

/** A tensor with its bytes. */
export interface PackedTensor {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly packed: Uint8Array;
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
