"""Write the demo model as a GGUF v3 file the way bitnet.cpp (microsoft/BitNet) lays it out: little-endian, alignment
32, architecture bitnet-b1.58, ternary matrices as I2_S, embedding F16, norms F32."""
import json, os, struct
from pathlib import Path

import numpy as np

U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9  # GGUF value types
TYPE_F32, TYPE_F16, TYPE_I2_S = 0, 1, 36          # tensor types, bitnet.cpp numbering
NORMAL, CONTROL = 1, 3                            # token types


def text(s):
    b = s.encode("utf-8")
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if isinstance(v, list):
        return struct.pack("<IQ", kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(v) if kind == STR else struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def key(name, kind, v):
    return text(name) + struct.pack("<I", ARR if isinstance(v, list) else kind) + value(kind, v)


def pack_i2_s(w):
    """f32 W[M, K], K a multiple of 128 -> I2_S bytes, M * K / 4 + 32 of them.

    W becomes scale * {-1, 0, 1} with scale = mean|W|.  The codes 0, 1, 2 of the row-major matrix are cut into blocks of
    128 in 32 bytes: byte p holds weight p in bits 7-6, p + 32 in 5-4, p + 64 in 3-2, p + 96 in 1-0.  Then the f32 scale
    and 28 zero bytes."""
    scale = np.maximum(np.abs(w).mean(), np.float32(1e-5))
    c = (np.clip(np.rint(w / scale), -1, 1) + 1).astype(np.uint8).reshape(-1, 4, 32)
    return (c[:, 0] << 6 | c[:, 1] << 4 | c[:, 2] << 2 | c[:, 3]).tobytes() + struct.pack("<f", scale) + bytes(28)


def metadata(cfg, tokenizer):
    model, a = json.loads(tokenizer)["model"], "bitnet-b1.58"
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return [
        ("general.architecture", STR, a), ("general.name", STR, "ternlm tales"),
        ("general.file_type", U32, 40), ("general.quantization_version", U32, 2),
        (f"{a}.vocab_size", U32, cfg.vocab), (f"{a}.context_length", U32, cfg.context),
        (f"{a}.embedding_length", U32, cfg.dim), (f"{a}.block_count", U32, cfg.layers),
        (f"{a}.feed_forward_length", U32, cfg.ffn), (f"{a}.rope.dimension_count", U32, cfg.head_dim),
        (f"{a}.attention.head_count", U32, cfg.heads), (f"{a}.attention.head_count_kv", U32, cfg.kv_heads),
        (f"{a}.attention.layer_norm_rms_epsilon", F32, cfg.eps), (f"{a}.rope.freq_base", F32, cfg.rope_base),
        ("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, "gpt-2"),
        ("tokenizer.ggml.tokens", STR, tokens),
        ("tokenizer.ggml.token_type", I32, [NORMAL if i else CONTROL for i in range(len(tokens))]),
        ("tokenizer.ggml.merges", STR, merges), ("tokenizer.ggml.bos_token_id", U32, 0),
        ("tokenizer.ggml.eos_token_id", U32, 0), ("tokenizer.ggml.add_bos_token", BOOL, True)]


def export(out, params, tokenizer, cfg):
    """params: GGUF tensor name without '.weight' -> f32 master weight; tokenizer: its JSON; cfg: train.Config."""
    tensors = []
    for name, p in params.items():
        p = np.asarray(p, np.float32)
        if name == "token_embd":
            kind, data = TYPE_F16, p.astype("<f2").tobytes()
        elif p.ndim == 2:
            kind, data = TYPE_I2_S, pack_i2_s(p)
        else:
            kind, data = TYPE_F32, p.astype("<f4").tobytes()
        tensors.append((name + ".weight", p.shape[::-1], kind, data + bytes(-len(data) % 32)))
    keys = metadata(cfg, tokenizer)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(key(*k) for k in keys)
    offset = 0
    for name, dims, kind, data in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        offset += len(data)
    tmp = Path(f"{out}.tmp")
    tmp.write_bytes(head + bytes(-len(head) % 32) + b"".join(t[3] for t in tensors))
    os.replace(tmp, out)
    print(f"{out}: {Path(out).stat().st_size:,} bytes")
