// The ops that stream weights, at the shapes of BitNet-b1.58-2B-4T, over as many matrices as are asked for.

const DIM = 2560;
const FFN = 6912;
const VOCAB = 16_032; // an eighth of 128,256: the rate is the same
/** Memory that was never written is one page of zeros, which no kernel has to wait for. */
const CODES = Uint8Array.from({ length: 1 << 20 }, (_, i) => [0x12, 0x86, 0x49, 0xa0, 0x2a][(i * 7) % 5]);

/**
 * Allocates weights and rows and gives the ops over them, each
 * [name, bytes of weights, MAC a byte and row, (rows) => (matrix) => what to record, its matrices].
 */
export function opsOf(backend, maxRows, matrices) {
  const { ops } = backend;
  const scratch = backend.alloc(backend.scratchBytes(maxRows, FFN, 32, VOCAB));
  const x = backend.alloc(maxRows * FFN * 4);
  const y = backend.alloc(maxRows * VOCAB * 4);
  const index = backend.alloc(maxRows * 4);
  backend.write(index, 0, new Uint8Array(Uint32Array.from({ length: maxRows }, (_, i) => i).buffer));
  backend.write(x, 0, new Uint8Array(Float32Array.from({ length: maxRows * FFN }, (_, i) => Math.sin(i)).buffer));
  const norm = { weight: backend.alloc(FFN * 4), eps: 1e-5 };
  const filled = (bytes) => {
    const tensor = backend.alloc(bytes);
    for (let at = 0; at < bytes; at += CODES.length) {
      backend.write(tensor, at, CODES.subarray(0, Math.min(CODES.length, bytes - at)));
    }
    return tensor;
  };
  // The matrices of down and gate_up have the same number of weights; TQ2_0 is the largest of the types.
  const tensors = Array.from({ length: matrices }, () => filled(((DIM * FFN) / 256) * 66));
  const heads = Array.from({ length: Math.ceil(matrices / 20) }, () => filled(VOCAB * DIM * 2));
  const i2s = (rows, cols) => (tensor) => ({ type: 'i2_s', rows, cols, tensor });
  const downRow = (name, type, bytes) => [
    ...[name, bytes, (DIM * FFN) / bytes],
    (rows) => (wdown) => ops.down({ rows, h: x, norm, wdown, x: y, scratch }),
    tensors.map((tensor) => ({ type, rows: DIM, cols: FFN, tensor })),
  ];
  const halves = tensors.map(i2s(FFN, DIM));
  const up = halves.slice(0, Math.ceil(matrices / 2)).map((gate, i) => [gate, halves[matrices - 1 - i]]);
  const head = heads.map((tensor) => ({ type: 'f16', rows: VOCAB, cols: DIM, tensor }));
  const activation = 'relu2';
  return [
    downRow('down', 'i2_s', (DIM * FFN) / 4),
    downRow('down tq2_0', 'tq2_0', ((DIM * FFN) / 256) * 66),
    downRow('down tq1_0', 'tq1_0', ((DIM * FFN) / 256) * 54),
    [
      ...['gate_up', (2 * DIM * FFN) / 4, 4],
      (rows) =>
        ([gate, w]) =>
          ops.gateUp({ rows, x, norm, gate, up: w, activation, out: y, scratch }),
      up,
    ],
    [
      ...['head', VOCAB * DIM * 2, 0.5],
      (rows) => (w) => ops.head({ outs: rows, index, x, norm, w, logits: y, scratch }),
      head,
    ],
  ];
}
