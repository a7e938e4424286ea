"""Opens converted files with llama.cpp's own Python reader and compares them with the I2_S file they were made of.

    python gguf_reader.py I2S_FILE CONVERTED_FILE ...

The I2_S file is read here by hand, as gguf does not know its types; the others by gguf.GGUFReader, their weights by
gguf.quants.dequantize. Prints a line per file; exits 1 where anything differs.
"""
import struct
import sys

import gguf
import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_by_hand(path):
    """(metadata, tensors as float32 [rows][cols]) of a file of F32, F16 and I2_S."""
    data = open(path, "rb").read()
    at = 0

    def take(code):
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            of, n = take("I"), take("Q")
            return [value(of) for _ in range(n)]
        return take(SCALARS[kind])

    assert data[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    count, keys = take("Q"), take("Q")
    metadata = {}
    for _ in range(keys):
        key = text()
        metadata[key] = value(take("I"))
    infos = []
    for _ in range(count):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims, take("I"), take("Q")))
    base = -(-at // 32) * 32
    tensors = {}
    for name, dims, kind, offset in infos:
        n, start = int(np.prod(dims)), base + offset
        if kind in (0, 1):
            values = np.frombuffer(data, np.float32 if kind == 0 else np.float16, n, start).astype(np.float32)
        else:
            assert kind == 36, f"{name}: type {kind}"
            blocks = np.frombuffer(data, np.uint8, n // 4, start).reshape(-1, 1, 32)
            codes = blocks >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
            scale = np.frombuffer(data, np.float32, 1, start + n // 4)
            values = (codes.reshape(-1).astype(np.float32) - 1) * scale
        tensors[name] = values.reshape(dims[::-1])
    return metadata, tensors


metadata, tensors = read_by_hand(sys.argv[1])
was = metadata["general.architecture"]
failed = False
for path in sys.argv[2:]:
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    arch = fields["general.architecture"]
    renamed = {key.replace(was + ".", arch + ".", 1) if key.startswith(was + ".") else key: v for key, v in metadata.items()}
    changed = sorted(key for key in renamed | fields if renamed.get(key) != fields.get(key))
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    same = weights.keys() == tensors.keys() and all(
        weights[name].dtype == np.float32 or weights[name].dtype == np.float16 for name in weights
    )
    wrong = [name for name in tensors if not same or not np.array_equal(weights[name].astype(np.float32), tensors[name])]
    failed |= bool(wrong)
    types = sorted({t.tensor_type.name for t in reader.tensors})
    print(f"{path.split('/')[-1]}: {len(fields)} keys, {len(weights)} tensors {types}, weights differ: {wrong or 'none'}; "
          f"keys that differ: {changed}")
sys.exit(failed)
