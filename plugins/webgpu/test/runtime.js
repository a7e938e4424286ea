// What a runtime of its own WebGPU does with the plugin, in Deno and in browsers alike. Imported by what has the built packages
// at hand: some ops against the reference, then a text.

/**
 * @param modules the built `ternlm` and `@ternlm/webgpu`, and `ternlm/reference`
 * @param file the demo model: what loadModel takes
 * @returns the adapter, the largest difference from the reference by op, and the tokens of a text
 */
export async function tryRuntime({ loadModel, webgpu, referenceBackend, file }) {
  const backend = await webgpu();
  const differences = {};
  for (const [op, build] of Object.entries(OPS)) {
    const [expected, actual] = [await outcome(referenceBackend(), build), await outcome(backend, build)];
    differences[op] = Math.max(...expected.map((value, i) => Math.abs(value - actual[i]) / (1 + Math.abs(value))));
  }
  const model = await loadModel(file, { backend });
  const { tokens } = await model.complete('Once upon a time', { temperature: 0, maxTokens: 20 });
  const { backend: name } = model.info;
  await model.dispose();
  return { name, differences, tokens };
}

async function outcome(backend, build) {
  let state = 1;
  const next = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const put = (values) => {
    const tensor = backend.alloc(values.byteLength);
    backend.write(tensor, 0, new Uint8Array(values.buffer));
    return tensor;
  };
  const floats = (n) => Float32Array.from({ length: n }, () => (next(2001) - 1000) / 700);
  const scratch = backend.alloc(backend.scratchBytes(4, 256, 64, 192));
  const { enqueue, out } = build({ ops: backend.ops, put, floats, next, scratch });
  await backend.run(backend.record(enqueue));
  const result = new Float32Array(out.bytes / 4);
  await backend.read(out, 0, new Uint8Array(result.buffer));
  return result;
}

const [ROWS, DIM, HEADS, HEAD_DIM, VOCAB] = [3, 256, 4, 64, 192];

const OPS = {
  bit_linear({ ops, put, floats, next, scratch }) {
    const bytes = new Uint8Array((DIM * DIM) / 4 + 32);
    for (let i = 0; i < (DIM * DIM) / 4; i++) for (let s = 0; s < 8; s += 2) bytes[i] |= next(3) << s;
    new DataView(bytes.buffer).setFloat32((DIM * DIM) / 4, 0.04, true);
    const wo = { type: 'i2_s', rows: DIM, cols: DIM, tensor: put(bytes) };
    const norm = { weight: put(floats(DIM)), eps: 1e-5 };
    const [attn, x] = [put(floats(ROWS * DIM)), put(floats(ROWS * DIM))];
    return { enqueue: () => ops.attnOut({ rows: ROWS, attn, norm, wo, x, scratch }), out: x };
  },
  embed({ ops, put, floats, next }) {
    const table = put(floats(VOCAB * DIM));
    const [tokens, x] = [put(Int32Array.from({ length: ROWS }, () => next(VOCAB))), put(new Float32Array(ROWS * DIM))];
    return { enqueue: () => ops.embed({ rows: ROWS, dim: DIM, type: 'f32', tokens, table, x }), out: x };
  },
  attention({ ops, put, floats, scratch }) {
    const width = HEADS * HEAD_DIM;
    const [q, k, v, out] = [
      floats(ROWS * width),
      floats(ROWS * width),
      floats(ROWS * width),
      new Float32Array(ROWS * width),
    ];
    const places = { pos: put(Int32Array.of(0, 1, 2)), sequence: put(new Int32Array(ROWS)) };
    const [data, tables] = [[put(new Float32Array(2 * 32 * width))], put(new Int32Array(1))];
    const kv = { type: 'f32', kvHeads: HEADS, headDim: HEAD_DIM, blockSize: 32, maxBlocks: 1, data, tables };
    const rope = put(floats(32 * HEAD_DIM));
    const shape = {
      rows: ROWS,
      layer: 0,
      heads: HEADS,
      ropeDim: HEAD_DIM,
      ropeStyle: 'neox',
      rope,
      places,
      kv,
      scratch,
    };
    const tensors = { q: put(q), k: put(k), v: put(v), out: put(out) };
    return { enqueue: () => ops.attention({ ...shape, ...tensors }), out: tensors.out };
  },
};
