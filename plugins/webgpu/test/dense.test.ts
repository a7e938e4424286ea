import type { DenseType } from 'ternlm/backend';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { agree } from '../../../test/agree.js';
import { EPS } from '../../../test/outcome.js';
import { denseBytes, random } from '../../../test/random.js';
import { openDevice } from '../dist/device.js';
import { type WebGpuBackend, webgpu } from '../dist/index.js';
import type { GpuTensor } from '../dist/memory.js';

const SEED = 1;
/** Bytes that are bound at once. */
const LIMIT = 65_536;

/** The same device with a smaller limit: tables of many windows need no gigabytes. */
function limited(device: GPUDevice): GPUDevice {
  const property = <X extends object>(target: X, key: string | symbol): unknown => {
    const value: unknown = Reflect.get(target, key, target);
    return typeof value === 'function' ? value.bind(target) : value;
  };
  const limits = new Proxy(device.limits, {
    get: (target, key) => (key === 'maxStorageBufferBindingSize' ? LIMIT : property(target, key)),
  });
  return new Proxy(device, { get: (target, key) => (key === 'limits' ? limits : property(target, key)) });
}

interface Table {
  readonly type: DenseType;
  readonly dim: number;
  readonly vocab: number;
  readonly xRows: number;
}

/** The logits of rows `outs` of some seeded x with a seeded table as the head; and, with `embeds`, all rows of the table. */
async function resultsOf(
  backend: WebGpuBackend,
  { type, dim, vocab, xRows }: Table,
  outs: readonly number[],
  embeds: boolean,
): Promise<Float32Array[]> {
  const r = random(SEED);
  const tensors: GpuTensor[] = [];
  const put = (data: ArrayBufferView): GpuTensor => {
    const tensor = backend.alloc(data.byteLength);
    tensors.push(tensor);
    backend.write(tensor, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return tensor;
  };
  const unwritten = (n: number) => put(new Float32Array(n).fill(Number.NaN));
  const table = put(denseBytes(type, r.normal(vocab * dim)));
  const [weight, x] = [put(r.normal(dim)), put(r.normal(xRows * dim))];
  const [index, logits, scratch] = [put(Int32Array.from(outs)), unwritten(outs.length * vocab), unwritten(4)];
  const most = Math.floor(LIMIT / (4 * dim));
  const pieces = Array.from({ length: embeds ? Math.ceil(vocab / most) : 0 }, (_, i) => {
    const rows = Math.min(most, vocab - i * most);
    const tokens = put(Int32Array.from({ length: rows }, (_, j) => vocab - 1 - i * most - j));
    return { rows, tokens, x: unwritten(rows * dim) };
  });
  const read = async (tensor: GpuTensor): Promise<Float32Array> => {
    const data = new Float32Array(tensor.bytes / 4);
    await backend.read(tensor, 0, new Uint8Array(data.buffer));
    return data;
  };
  try {
    const program = backend.record(() => {
      for (const piece of pieces) backend.ops.embed({ ...piece, dim, type, table });
      const w = { type, rows: vocab, cols: dim, tensor: table };
      const norm = { weight, eps: EPS };
      backend.ops.head({ outs: outs.length, index, x, norm, w, screen: undefined, logits, scratch });
    });
    await backend.run(program);
    program.free();
    const results = [await read(logits)];
    for (const piece of pieces) results.push(await read(piece.x));
    return results;
  } finally {
    for (const tensor of tensors) backend.free(tensor);
  }
}

describe('dense tables', () => {
  let device: GPUDevice;
  let whole: WebGpuBackend;
  let cut: WebGpuBackend;
  beforeAll(async () => {
    ({ device } = await openDevice({}));
    whole = await webgpu({ device, selfTest: false });
    cut = await webgpu({ device: limited(device), selfTest: false });
  });
  afterAll(async () => {
    await cut?.dispose();
    await whole?.dispose();
    device?.destroy();
  });

  // 2, 3, 5 and 10 windows, of which one embedding sees up to four; rows of 5120, 816, 3360, and of 270 bytes, which begin
  // at any even byte.
  it.each([
    { type: 'f16', dim: 2560, vocab: 24, xRows: 1, outs: [0] },
    { type: 'q8_0', dim: 768, vocab: 211, xRows: 5, outs: [4, 0, 1, 2, 3] },
    { type: 'q6_k', dim: 4096, vocab: 70, xRows: 4, outs: [2, 3, 0, 1] },
    { type: 'q4_0', dim: 480, vocab: 1201, xRows: 2, outs: [1, 0] },
  ] as const)('$type, rows of $dim: in windows as they are in one', async ({ outs, ...table }) => {
    const expected = await resultsOf(whole, table, outs, true);
    const actual = await resultsOf(cut, table, outs, true);
    for (const [i, e] of expected.entries()) {
      const op = i === 0 ? `head ${table.type}` : `embed ${table.type}, piece ${i - 1}`;
      expect(e.every(Number.isFinite), op).toBe(true);
      agree({ op, seed: SEED, expected: e, actual: actual[i] });
    }
  });

  it('are refused where not even the rows to the next offset can be bound', async () => {
    await expect(resultsOf(cut, { type: 'q4_0', dim: 928, vocab: 130, xRows: 1 }, [0], false)).rejects.toThrow(
      new RangeError('webgpu: 128 rows of 522 bytes are read at once; this device binds 65536 bytes at most'),
    );
  });

  it.each(['f16', 'q6_k'] as const)('head %s: a row has the same bits in any batch', async (type) => {
    const table = { type, dim: 768, vocab: 37, xRows: 21 };
    // More than a workgroup multiplies.
    const outs = Array.from({ length: 21 }, (_, i) => 20 - i);
    const [all] = await resultsOf(whole, table, outs, false);
    for (const batch of [[0], [7], [19, 20], [3, 4, 5, 6, 7]]) {
      const [some] = await resultsOf(whole, table, batch, false);
      for (const [i, out] of batch.entries()) {
        const expected = all.subarray((20 - out) * table.vocab, (21 - out) * table.vocab);
        const actual = some.subarray(i * table.vocab, (i + 1) * table.vocab);
        agree({ op: `head ${type}, out ${out} of ${batch}`, seed: SEED, expected, actual });
      }
    }
  });
});
