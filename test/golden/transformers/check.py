"""An independent forward pass of the checkpoints beside this file: numpy in float64, no torch, from the packed bytes on.

    python check.py            prints, per checkpoint, the largest difference from the oracle's files

Written from the description of the graphs, not from the oracle's source: it shows that the description is right, and how
far the oracle's float32 is from exact arithmetic.
"""
import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "BF16": np.uint16}


def tensors(folder):
    """name -> array of every .safetensors file of a folder; BF16 as float32."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        for name, info in json.loads(raw[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            begin, end = info["data_offsets"]
            values = np.frombuffer(raw[8 + size + begin : 8 + size + end], DTYPES[info["dtype"]])
            if info["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            out[name] = values.reshape(info["shape"])
    return out


def ternary(weights, name, quantization):
    """int8 [M][K] of -1, 0, 1 and the number that multiplies it, of the matrix `name` (without .weight)."""
    stored = weights[name + ".weight"]
    if stored.dtype != np.uint8:
        scale = max(np.abs(stored.astype(np.float64)).mean(), 1e-5)
        return np.clip(np.rint(stored / scale), -1, 1).astype(np.int8), scale
    quarters = [(stored >> (2 * i) & 3).astype(np.int8) - 1 for i in range(4)]
    scale = float(weights[name + ".weight_scale"][0])
    multiplies = quantization.get("linear_class", "bitlinear") == "autobitlinear"
    return np.concatenate(quarters), scale if multiplies else 1 / scale


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


ACTIVATIONS = {
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_pytorch_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


class Model:
    def __init__(self, folder, rope_factors=True):
        self.config = config = json.loads((folder / "config.json").read_text())
        self.weights = weights = tensors(folder)
        self.quantization = config["quantization_config"]
        self.prefix = "model." if "model.embed_tokens.weight" in weights else ""
        self.gemma = config["model_type"] == "gemma3_text"
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.eps = config["rms_norm_eps"]
        self.act = ACTIVATIONS[config.get("hidden_act") or config["hidden_activation"]]
        self.frequencies = self.rope(rope_factors)
        self.matrices = {
            name[:-7]: ternary(weights, name[:-7], self.quantization) for name in weights if name.endswith("_proj.weight")
        }
        self.margin = 0.5  # smallest distance of a quantised activation from a rounding boundary, steps of int8

    def rope(self, factors):
        config = self.config
        parameters = config.get("rope_parameters") or {}
        parameters = parameters.get("full_attention", parameters)
        base = parameters.get("rope_theta") or config["rope_theta"]
        frequencies = base ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        scaling = config.get("rope_scaling")
        if scaling is None or not factors:
            return frequencies
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (smooth + (1 - smooth) / scaling["factor"])

    def norm(self, x, name):
        weight = self.weights[self.prefix + name + ".weight"].astype(np.float64)
        return rms(x, weight + 1 if self.gemma else weight, self.eps)

    def linear(self, x, name):
        name = self.prefix + name
        for own in (name + ".rms_norm.weight", name + ".norm.weight"):
            if own in self.weights:
                x = rms(x, self.weights[own].astype(np.float64), self.quantization["rms_norm_eps"])
        matrix, scale = self.matrices[name]
        s = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
        fraction = np.abs(x * s) % 1
        largest = np.abs(x) == np.abs(x).max(-1, keepdims=True)  # exactly 127: not near any boundary
        self.margin = min(self.margin, np.abs(fraction - 0.5)[~largest].min())
        return np.rint(x * s) @ matrix.T.astype(np.float64) / s * scale

    def rotate(self, x):
        """[n][heads][head_dim], pairs (i, i + head_dim / 2)."""
        angle = np.arange(x.shape[0])[:, None, None] * self.frequencies
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def attention(self, x, layer):
        n = x.shape[0]
        q, k, v = (
            self.linear(x, f"{layer}.self_attn.{p}_proj").reshape(n, -1, self.head_dim) for p in "qkv"
        )
        if f"{self.prefix}{layer}.self_attn.q_norm.weight" in self.weights:
            q, k = self.norm(q, f"{layer}.self_attn.q_norm"), self.norm(k, f"{layer}.self_attn.k_norm")
        q, k = self.rotate(q), self.rotate(k)
        k, v = (np.repeat(t, self.heads // self.kv, axis=1) for t in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.head_dim)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        heads = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(n, -1)
        if self.config["model_type"] == "bitnet":
            heads = self.norm(heads, f"{layer}.self_attn.attn_sub_norm")
        return self.linear(heads, f"{layer}.self_attn.o_proj")

    def ffn(self, x, layer):
        f = self.act(self.linear(x, f"{layer}.mlp.gate_proj")) * self.linear(x, f"{layer}.mlp.up_proj")
        if self.config["model_type"] == "bitnet":
            f = self.norm(f, f"{layer}.mlp.ffn_sub_norm")
        return self.linear(f, f"{layer}.mlp.down_proj")

    def hidden(self, tokens):
        """[layers + 2][n][dim]: the embedding, the stream after each layer, and the last one after the final norm."""
        x = self.weights[self.prefix + "embed_tokens.weight"][tokens].astype(np.float64)
        if self.gemma:
            x = x * np.sqrt(x.shape[1])
        states = [x]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"layers.{i}"
            after = self.attention(self.norm(x, f"{layer}.input_layernorm"), layer)
            x = x + (self.norm(after, f"{layer}.post_attention_layernorm") if self.gemma else after)
            before = "pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"
            after = self.ffn(self.norm(x, f"{layer}.{before}"), layer)
            x = x + (self.norm(after, f"{layer}.post_feedforward_layernorm") if self.gemma else after)
            states.append(x)
        return np.stack([*states, self.norm(x, "norm")])

    def logits(self, tokens):
        tied = self.weights[self.prefix + "embed_tokens.weight"]
        return self.hidden(tokens)[-1] @ self.weights.get("lm_head.weight", tied).T

    def embedding(self, tokens):
        last = self.hidden(tokens)[-1][-1]
        return last / np.sqrt((last * last).sum())


def check(folder):
    expected = json.loads((folder / "expected.json").read_text())
    model = Model(folder)
    read = lambda file, *shape: np.fromfile(folder / file, "<f4").reshape(shape)
    lines = []
    for sequence in expected["sequences"]:
        tokens, file = sequence["tokens"], sequence["output"]
        got = model.logits(tokens) if "logits" in file else model.embedding(tokens)
        lines.append((f"{file} ({len(tokens)} tokens)", np.abs(got - read(file, *got.shape)).max()))
    if (folder / "embedding.0.64.f32").exists():
        short = model.embedding(expected["sequences"][0]["tokens"])[:64]
        short = short / np.sqrt((short * short).sum())
        lines.append(("embedding.0.64.f32", np.abs(short - read("embedding.0.64.f32", 64)).max()))
    states = model.hidden(expected["sequences"][0]["tokens"])
    lines.append(("hidden.f32", np.abs(states - read("hidden.f32", *expected["hidden"]["shape"])).max()))
    for name, matrix in expected["matrices"].items():
        values, scale = model.matrices[name[:-7]]
        assert sha256(values.tobytes()).hexdigest() == matrix["sha256"], name
        assert abs(scale - matrix["scale"]) <= 1e-6 * scale, (name, scale, matrix["scale"])
    for text, difference in lines:
        print(f"{folder.name:14} {text:28} {difference:.2e}")
    print(f"{folder.name:14} {'nearest to a rounding boundary':28} {model.margin:.1e} of an int8 step")
    if "rope_scaling" in model.config:
        plain = Model(folder, rope_factors=False)
        for sequence in expected["sequences"]:
            difference = np.abs(plain.logits(sequence["tokens"]) - model.logits(sequence["tokens"])).max()
            print(f"{folder.name:14} {'without the rope factors':28} {difference:.2e}")
    return max(difference for _, difference in lines)


if __name__ == "__main__":
    worst = max(check(HERE / name) for name in sys.argv[1:] or sorted(p.parent.name for p in HERE.glob("*/expected.json")))
    if worst > 1e-3:
        sys.exit("more than 1e-3 from the oracle")
