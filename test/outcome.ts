import type { Backend, Matrix, Norm, Ops, Tensor, Tiles, WeightType } from '../dist/backend/backend.js';

/** Bytes behind each output that an op must leave alone. */
export const GUARD = 64;
/** Of every norm. */
export const EPS = 1e-5;

/** A matrix before it is in a backend. */
export interface HostMatrix {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Of tl1 and tl2. */
  readonly tiles?: Tiles;
}

/** One backend under test with the tensors of one case. */
export interface Bench<T extends Tensor> {
  readonly ops: Ops<T>;
  put(x: Float32Array | Int32Array | Uint16Array | Uint8Array): T;
  /** An output, every byte 0xff (f32 NaN), with its guard. */
  out(floats: number): T;
  scratch(rows: number, cols: number, headDim?: number, vocab?: number): T;
  matrix(m: HostMatrix): Matrix<T>;
  norm(weight: Float32Array): Norm<T>;
  norm(weight: Float32Array | undefined): Norm<T> | undefined;
}

/** What a case does on either backend: places its inputs, then says how to enqueue and which tensors hold the results. */
export type Case = <T extends Tensor>(bench: Bench<T>) => { enqueue(): void; outputs: T[] };

/** Runs a case and reads its outputs, guards included. */
export async function outcome<T extends Tensor>(backend: Backend<T>, build: Case): Promise<Uint8Array<ArrayBuffer>[]> {
  const tensors: T[] = [];
  const put = (x: ArrayBufferView): T => {
    const tensor = backend.alloc(x.byteLength);
    backend.write(tensor, 0, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    tensors.push(tensor);
    return tensor;
  };
  const norm = (weight: Float32Array): Norm<T> => ({ weight: put(weight), eps: EPS });
  const { enqueue, outputs } = build<T>({
    ops: backend.ops,
    put,
    out: (floats) => put(new Uint8Array(floats * 4 + GUARD).fill(0xff)),
    scratch: (rows, cols, headDim = 4, vocab = 1) =>
      put(new Uint8Array(backend.scratchBytes(rows, cols, headDim, vocab)).fill(0xff)),
    matrix: ({ type, rows, cols, bytes, tiles }) => ({ type, rows, cols, tensor: put(bytes), tiles }),
    norm: ((weight) => weight && norm(weight)) as Bench<T>['norm'],
  });
  const program = backend.record(enqueue);
  await backend.run(program);
  const results: Uint8Array<ArrayBuffer>[] = [];
  for (const tensor of outputs) {
    const bytes = new Uint8Array(tensor.bytes);
    await backend.read(tensor, 0, bytes);
    results.push(bytes);
  }
  program.free();
  for (const tensor of tensors) backend.free(tensor);
  return results;
}

export const floats = (bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> => new Float32Array(bytes.buffer);
