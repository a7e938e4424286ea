/**
 * What a device must do for the forward pass. A backend is a device with a queue: `forward` calls the ops inside `record`,
 * each call appends to a program, and `run` starts that program as often as wanted with other contents in the tensors.
 *
 * Shapes are [rows][columns], columns fastest; numbers are f32 or i32, little-endian. `rows` counts the rows of a batch:
 * one prompt of 512 rows, 8 sequences of one row each, or both mixed, are the same call.
 */

/** Memory a backend owns. Opaque: an offset in wasm memory, or a GPU buffer. */
export interface Tensor {
  readonly bytes: number;
}

/** How numbers of a weight matrix or an embedding table are stored; the names are GGUF's (see src/gguf/layouts/). */
export type DenseType = 'f16' | 'bf16' | 'f32' | 'q8_0' | 'q6_k' | 'q4_0';

/** How a ternary matrix is stored, in GGUF's names too. */
export type TernaryType = 'i2_s' | 'tl1' | 'tl2' | 'tq1_0' | 'tq2_0';

/** How a weight matrix is stored. */
export type WeightType = TernaryType | DenseType;

/** What TL1 and TL2 matrices are cut into: tiles of `rows` x `cols`, in TL1 of `sub` rows each at a time. */
export interface Tiles {
  readonly rows: number;
  readonly cols: number;
  readonly sub: number;
}

/**
 * W[rows][cols], bytes as in the file; y = W x with x of `cols`. Columns of i2_s may be any multiple of 32: rows are padded to
 * whole blocks of 128, as only they would be in a file.
 */
export interface Matrix<T extends Tensor = Tensor> {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly tensor: T;
  /** Of tl1 and tl2. */
  readonly tiles?: Tiles | undefined;
}

/** RMSNorm(x) * weight, weight f32 [dim]. */
export interface Norm<T extends Tensor = Tensor> {
  readonly weight: T;
  readonly eps: number;
}

/** A cheap copy of a head, and whose logits are wanted: what lets `head` leave out rows that cannot win. */
export interface Screen<T extends Tensor = Tensor> {
  /** Of `buildScreen`. */
  readonly copy: T;
  /** f32 [outs][vocab], scratch. */
  readonly lower: T;
  /** Of `sample`. */
  readonly params: T;
  readonly stride: number;
}

/** Of a gated layer: relu(g)^2, g * sigmoid(g), or GELU in its tanh form. */
export type Activation = 'relu2' | 'silu' | 'gelu';

export type KvType = 'f32' | 'f16';

/**
 * Keys and values of all sequences, in blocks of `blockSize` positions that a table per sequence puts in order.
 *
 *   data    of each layer [block][K, V][kvHeads][blockSize][headDim]  of `type`
 *   tables  [sequence][maxBlocks] i32: the block that holds positions blockSize * i …
 */
export interface KvCache<T extends Tensor = Tensor> {
  readonly type: KvType;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly blockSize: number;
  readonly maxBlocks: number;
  readonly data: readonly T[];
  readonly tables: T;
}

/** Where each row of a batch stands: `pos` [rows] i32 and `sequence` [rows] i32, a row of the cache's tables. */
export interface RowPlaces<T extends Tensor = Tensor> {
  readonly pos: T;
  readonly sequence: T;
}

/**
 * The blocks of a transformer, at the grain that every device wants fused. `x` is the residual stream [rows][dim] f32.
 * Each is written as a line or two of primitives in src/reference/, which is its specification.
 */
export interface Ops<T extends Tensor = Tensor> {
  /** x = scale (default 1) * rows `tokens` [rows] i32 of `table`, whose rows of `dim` are of `type`, bytes as in the file. */
  embed(op: { rows: number; dim: number; type: DenseType; scale?: number; tokens: T; table: T; x: T }): void;

  /**
   * h = RMSNorm(x); q = Wq h, k = Wk h, v = Wv h; ternary matrices see h quantised to int8, once for the three. With
   * `inputNorms`, of q, k and v, each matrix sees h through its own norm.
   */
  qkv(op: {
    rows: number;
    x: T;
    norm: Norm<T>;
    inputNorms?: readonly [q: Norm<T>, k: Norm<T>, v: Norm<T>] | undefined;
    wq: Matrix<T>;
    wk: Matrix<T>;
    wv: Matrix<T>;
    q: T;
    k: T;
    v: T;
    scratch: T;
  }): void;

  /**
   * Rotates q and k (RoPE), appends k and v to the cache, then causal attention: out [rows][heads * headDim]. Head i reads
   * the keys of head i / (heads / kvHeads). With `headNorms`, weights [headDim], each head of q and k is normalised before it
   * is rotated. `rope` [context][ropeDim / 2][cos, sin] f32. 'neox' rotates the pairs
   * (i, i + ropeDim / 2), 'norm' the pairs (2i, 2i + 1); elements from ropeDim on stay as they are.
   */
  attention(op: {
    rows: number;
    layer: number;
    heads: number;
    ropeDim: number;
    ropeStyle: 'neox' | 'norm';
    rope: T;
    headNorms?: readonly [q: Norm<T>, k: Norm<T>] | undefined;
    places: RowPlaces<T>;
    kv: KvCache<T>;
    q: T;
    k: T;
    v: T;
    out: T;
    scratch: T;
  }): void;

  /** x += RMSNorm(Wo RMSNorm(attn)), without the norms that the family has not: `norm` is before Wo, `postNorm` behind. */
  attnOut(op: {
    rows: number;
    attn: T;
    norm: Norm<T> | undefined;
    wo: Matrix<T>;
    postNorm?: Norm<T> | undefined;
    x: T;
    scratch: T;
  }): void;

  /** h = RMSNorm(x); out = act(Wgate h) * (Wup h). With `inputNorms`, each matrix sees h through its own norm. */
  gateUp(op: {
    rows: number;
    x: T;
    norm: Norm<T>;
    inputNorms?: readonly [gate: Norm<T>, up: Norm<T>] | undefined;
    gate: Matrix<T>;
    up: Matrix<T>;
    activation: Activation;
    out: T;
    scratch: T;
  }): void;

  /** x += RMSNorm(Wdown RMSNorm(h)), without the norms that the family has not: `norm` is before Wdown, `postNorm` behind. */
  down(op: {
    rows: number;
    h: T;
    norm: Norm<T> | undefined;
    wdown: Matrix<T>;
    postNorm?: Norm<T> | undefined;
    x: T;
    scratch: T;
  }): void;

  /** out [outs][dim] = RMSNorm(x[index]) of the rows named in `index` [outs] i32: what an embedding model gives. */
  hidden(op: { outs: number; dim: number; index: T; x: T; norm: Norm<T>; out: T }): void;

  /**
   * Looks for bytes that code no weight in w, which must be ternary but not tq1_0: a code 3 in i2_s and tq2_0; in tl1 and tl2 an
   * index beyond the last, or padding that is not 0. The first such byte goes to u32 `at` bytes into `found`, which is all ones
   * before and stays so where there is none.
   */
  checkTernary(op: { w: Matrix<T>; found: T; at: number }): void;

  /**
   * Writes `from` as the type of `to`, a matrix of the same shape, with the same weights and scales: tl1 and tl2 as i2_s, tq1_0 as
   * tq2_0. Checks `from` as `checkTernary` does; tq1_0 has nothing to be found.
   */
  repack(op: { from: Matrix<T>; to: Matrix<T>; found: T; at: number }): void;

  /** Fills `copy`, `screenBytes` long, for `head` to screen with. */
  buildScreen(op: { w: Matrix<T>; copy: T; scratch: T }): void;

  /**
   * logits [outs][vocab] of the rows named in `index` [outs] i32: W RMSNorm(x[index]). With a screen, only those that `sample`
   * with these params can tell apart: its k best, and all that have a bias or penalty. The others may be off, by less than
   * what would make them one of the k best.
   */
  head(op: {
    outs: number;
    index: T;
    x: T;
    norm: Norm<T>;
    w: Matrix<T>;
    screen: Screen<T> | undefined;
    logits: T;
    scratch: T;
  }): void;

  /**
   * Picks a token for each row of logits [outs][vocab]. `params`, `stride` bytes a row, and `picks` are drawn in
   * src/sampler.ts. Logits are left as they were.
   */
  sample(op: { outs: number; vocab: number; logits: T; params: T; stride: number; picks: T; scratch: T }): void;

  /**
   * Readies the next run of rows that each have drawn a token: row i of `tokens` [outs] i32 becomes the id of pick i (0 where
   * it is -1), that of `pos` [outs] i32 one more, and params i what they are for the sequence with that token (src/sampler.ts).
   */
  advance(op: { outs: number; picks: T; tokens: T; pos: T; params: T; stride: number }): void;
}

/** What is copied to the host after each run of a program: `from`, from its first byte on, one after another into `into`. */
export interface Results<T extends Tensor = Tensor> {
  readonly from: T;
  readonly bytes: number;
  /** At least `bytes` for each run. */
  readonly into: Uint8Array;
}

/** Called once: with the error, or with nothing when all went well. */
export type Done = (error?: Error) => void;

/** A promise of what tells a `Done`. */
export function promised(begin: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => begin((error) => (error === undefined ? resolve() : reject(error))));
}

/** Recorded ops, ready to run any number of times. */
export interface Program {
  free(): void;
}

/** A backend is gone with all its memory: a GPU was reset, unplugged or taken away. */
export class BackendLostError extends Error {
  override readonly name = 'BackendLostError';
}

export interface Backend<T extends Tensor = Tensor> {
  /** e.g. "wasm relaxed, 2 threads". */
  readonly name: string;
  /** Ternary layouts that ops compute with; matrices in others have to be repacked. */
  readonly computes: readonly TernaryType[];
  /** Layouts that are quicker to compute with when they are repacked, once, and to what. */
  readonly repacks: Readonly<Partial<Record<TernaryType, TernaryType>>>;
  /** Most bytes that can be allocated; Infinity where no one can tell. */
  readonly limitBytes: number;
  /**
   * Most runs of a program at one start. More than 1 of a device that should not wait for its host between two tokens: then the
   * embedding table has to be in its memory, and two starts may be under way.
   */
  readonly maxRepeats: number;
  /** Zeroed memory, 64-byte aligned. Throws a RangeError that says how much was wanted and how much there is. */
  alloc(bytes: number): T;
  free(tensor: T): void;
  write(tensor: T, at: number, bytes: Uint8Array): void;
  /** Hands the tensor's own memory, in pieces, to `read`, which fills it: how weights arrive without a second copy. */
  fill(tensor: T, read: (at: number, into: Uint8Array) => Promise<void>): Promise<void>;
  /** Copies out what the last finished run left there; no promise where that is done at once. */
  read(tensor: T, at: number, into: Uint8Array): Promise<void> | undefined;
  /** Bytes of `scratch` for ops of up to `rows` rows, `cols` columns, heads of `headDim` and `vocab` logits. */
  scratchBytes(rows: number, cols: number, headDim: number, vocab: number): number;
  /** Bytes of the copy that screens a head of `rows` x `cols`; 0 where nothing is gained by one. */
  screenBytes(rows: number, cols: number): number;
  readonly ops: Ops<T>;
  /** Everything that `build` enqueues through `ops`, as a program. */
  record(build: () => void): Program;
  /** Runs a program, after those started before it. Settles when its results can be read. */
  run(program: Program): Promise<void>;
  /**
   * Runs a program `repeats` times, for a caller that steps once a token and wants no promises; `done` is called after this
   * has returned, when the results are there. Starts are done in order. Fails with a BackendLostError when the device is gone.
   */
  start(program: Program, repeats: number, results: Results<T> | undefined, done: Done): void;
  /** Bytes allocated now, and bytes of memory held. */
  memoryUsed(): { allocated: number; held: number };
  /** Frees everything; settles when no thread is left. */
  dispose(): Promise<void>;
}
