#!/usr/bin/env python3
"""Train the ternlm demo model and write it as a GGUF file, on a CPU, in one command:

    pip install -r demo/requirements.txt
    python demo/train.py --corpus DIR --minutes 90 --out demo/tales.gguf

DIR holds plain-text tales (*.txt).  Steps: clean the text, train a byte-level BPE tokenizer, train a BitNet b1.58
transformer with quantisation in the loop, export (export.py).  Sources:
  BitNet b1.58 quantisation    Ma et al. 2024, arXiv:2402.17764
  relu^2 gate, sub-norms       Ma et al. 2025, BitNet b1.58 2B4T, arXiv:2504.12285
  Muon                         Jordan et al. 2024, kellerjordan.github.io/posts/muon

Shape letters: B sequences, T tokens, D width, F FFN width, H heads, G key/value heads, d head width, V vocabulary.
Every ternary matrix is held as W[out, in], as in the GGUF file.
"""
import argparse, functools, json, os, re, signal, string, tempfile, time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from export import export

EOT = "<|endoftext|>"  # starts a text and ends it; id 0


@dataclass(frozen=True)
class Config:
    dim: int = 256
    layers: int = 6
    ffn: int = 768
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 2048
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.dim // self.heads

    def matrices(self):
        """Ternary matrices of one layer: GGUF name -> (out, in).  I2_S wants `in` to be a multiple of 128."""
        D, F, kv = self.dim, self.ffn, self.kv_heads * self.head_dim
        return {"attn_q": (D, D), "attn_k": (kv, D), "attn_v": (kv, D), "attn_output": (D, D),
                "ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}

    def norms(self):
        return {"attn_norm": self.dim, "attn_sub_norm": self.dim, "ffn_norm": self.dim, "ffn_sub_norm": self.ffn}


# ---------------------------------------------------------------------------------------------------- corpus

def double_quotes(p):
    """British 'speech' -> "speech" in one paragraph, apostrophes untouched."""
    out, is_open = [], False
    for i, c in enumerate(p):
        before, after = p[i - 1] if i else " ", p[i + 1] if i + 1 < len(p) else " "
        if c == '"':
            c = "'"  # the rare quote inside a quote
        elif c == "'" and before in " (-\"'" and after.isalnum():
            c, is_open = '"', True
        elif c == "'" and not after.isalnum() and (before in ",.!?;:-)" or is_open and before != "s"):
            c, is_open = '"', False
        out.append(c)
    return "".join(out)


def read_tales(path):
    """One file -> list of tales; a tale is a list of paragraphs without line breaks, the first one its title."""
    text = path.read_text(encoding="utf-8")
    m = re.search(r"\*\*\* ?START OF.*?\*\*\*(.*?)\*\*\* ?END OF", text, re.S)  # Project Gutenberg frame, if any
    text = m.group(1) if m else text
    for a, b in {"\r": "", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--",
                 "\u2013": "-", "\u2026": "...", "_": ""}.items():
        text = text.replace(a, b)
    text = re.sub(r"^\s*\[(?:\d+\]|Illustration|later editions).*?(?=\n\s*\n)", "", text, flags=re.M | re.S)
    text = re.sub(r"\[[\d*]+\]|\[[A-Z -]+\]", "", text)  # footnote marks, alternative titles
    text = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", text)  # a hyphen at a line end
    lines = [n for n in text.split("\n") if n.strip()]
    wrapped = max(map(len, lines)) < 200  # otherwise one line is one paragraph
    paras = [re.sub(r"\s+", " ", p).strip() for p in (re.split(r"\n\s*\n", text) if wrapped else lines)]
    paras = [p for p in paras if re.search(r"[A-Za-z]", p) and "* *" not in p]
    british = sum(p.count(" '") for p in paras) > sum(p.count(' "') for p in paras)
    tales, chapter = [[]], False
    for p in paras:
        numbered = re.match(r"(?:\d+|[IVX]+)\. +(.*)", p) if len(p) < 70 else None
        heading = not re.search(r"[a-z]", p) and len(p) < 70 and p[-1] not in "!,:;.)\"'" or numbered
        if heading and re.match(r"CHAPTER [IVX]+$", p):
            chapter = True
        elif heading or chapter:
            title = string.capwords(numbered.group(1) if numbered else p)
            if len(tales[-1]) > 1:
                tales.append([])
            tales[-1], chapter = [title], False  # a heading straight after a heading replaces it
        else:
            tales[-1].append(double_quotes(p) if british else p)
    return [t for t in tales if len(t) > 1]


def load_corpus(folder, piece_chars=8000, every=25):
    """All tales -> (training texts, held-out texts).  Each file is cut at paragraph ends into pieces of about 8 kB;
    one piece in `every` is held out, the runs of pieces between them are the training texts."""
    train, held = [], []
    for path in sorted(Path(folder).glob("*.txt")):
        size, piece = 0, 0
        for tale in read_tales(path):
            run, out = [], None
            for p in tale:
                is_held = piece % every == every // 2
                if run and is_held != out:
                    (held if out else train).append("\n".join(run))
                    run = []
                out = is_held
                run.append(p)
                size += len(p) + 1
                piece = size // piece_chars
            (held if out else train).append("\n".join(run))
    return train, held


def train_tokenizer(texts, vocab):
    """Byte-level BPE with the GPT-2 split; ids: 0 = EOT, 1..256 = bytes, then merges."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[EOT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    assert tok.get_vocab_size() == vocab
    return tok


def stream(tok, texts):
    """Texts -> int32[N]: every text followed by EOT (id 0)."""
    return np.array([i for t in texts for i in tok.encode(t).ids + [0]], np.int32)


def epoch_windows(ids, newline, T, rng):
    """One epoch in random order: int32[n, T + 1] windows, EOT first, that start at a paragraph where one is near."""
    starts = np.arange(rng.integers(0, T), len(ids) - T, T - 32)
    para = np.flatnonzero((ids == newline) | (ids == 0)) + 1
    near = para[np.maximum(np.searchsorted(para, starts, "right") - 1, 0)]
    starts = np.where(np.abs(starts - near) < T // 2, near, starts)
    starts = starts[starts + T <= len(ids)]
    w = np.stack([np.concatenate([[0], ids[s:s + T]]) for s in starts]).astype(np.int32)
    return rng.permutation(w)


# ---------------------------------------------------------------------------------------------------- model

def init_params(cfg, rng):
    """f32 master weights under their GGUF names (without '.weight')."""
    p = {"token_embd": rng.normal(0, 0.05, (cfg.vocab, cfg.dim)), "output_norm": np.ones(cfg.dim)}
    for n in range(cfg.layers):
        for name, (m, k) in cfg.matrices().items():
            std = k ** -0.5 * ((2 * cfg.layers) ** -0.5 if name in ("attn_output", "ffn_down") else 1)
            p[f"blk.{n}.{name}"] = rng.normal(0, std, (m, k))
        for name, size in cfg.norms().items():
            p[f"blk.{n}.{name}"] = np.ones(size)
    return {k: jnp.asarray(v, jnp.float32) for k, v in p.items()}


def straight_through(x, q):
    """q in the forward pass, the gradient of x in the backward pass."""
    return x + jax.lax.stop_gradient(q - x)


def quant_act(x):
    """x[..., K] -> the same shape on an int8 grid, one scale a token."""
    s = 127 / jnp.maximum(jnp.abs(x).max(-1, keepdims=True), 1e-5)
    return straight_through(x, jnp.clip(jnp.round(x * s), -128, 127) / s)


def quant_weight(w):
    """W[M, K] -> {-1, 0, 1} * mean|W|."""
    s = jnp.maximum(jnp.abs(w).mean(), 1e-5)
    return straight_through(w, jnp.clip(jnp.round(w / s), -1, 1) * s)


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def rope(x, cfg):
    """x[B, T, n, d]: rotate the pairs (i, i + d/2) (NEOX order)."""
    T, half = x.shape[1], cfg.head_dim // 2
    angle = np.arange(T)[:, None] * cfg.rope_base ** (-np.arange(half) / half)  # [T, d/2]
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(q, k, v, chunk=128):
    """Causal attention, q[B, T, H, d], k and v[B, T, G, d] -> [B, T, H * d].  Head i uses key/value head i / (H / G).
    Queries go in chunks, so that most of the masked upper triangle is never computed."""
    B, T, H, d = q.shape
    G, out = k.shape[2], []
    q = (q * d ** -0.5).transpose(0, 2, 1, 3).reshape(B * G, H // G, T, d)
    k, v = (x.transpose(0, 2, 1, 3).reshape(B * G, T, d) for x in (k, v))
    for t in range(0, T, chunk):
        n = min(chunk, T - t)
        a = (q[:, :, t:t + n].reshape(B * G, -1, d) @ k[:, :t + n].transpose(0, 2, 1)).reshape(B * G, -1, n, t + n)
        a = jax.nn.softmax(jnp.where(np.tril(np.ones((n, t + n), bool), t), a, -1e30), -1)
        out.append((a.reshape(B * G, -1, t + n) @ v[:, :t + n]).reshape(B, H, n, d))
    return jnp.concatenate(out, 2).transpose(0, 2, 1, 3).reshape(B, T, H * d)


def dropout(x, rate, key):
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0) if rate else x


def forward(params, ids, cfg, rate=0.0, key=None):
    """ids[B, T] -> logits[B, T, V]."""
    B, T = ids.shape
    H, G, d = cfg.heads, cfg.kv_heads, cfg.head_dim
    keys = iter(jax.random.split(key, 2 * cfg.layers + 1) if rate else [None] * (2 * cfg.layers + 1))
    x = dropout(params["token_embd"][ids], rate, next(keys))
    for n in range(cfg.layers):
        norm = lambda name, h: quant_act(rms_norm(h, params[f"blk.{n}.{name}"], cfg.eps))
        linear = lambda name, h: h @ quant_weight(params[f"blk.{n}.{name}"]).T
        h = norm("attn_norm", x)
        q = rope(linear("attn_q", h).reshape(B, T, H, d), cfg)
        k = rope(linear("attn_k", h).reshape(B, T, G, d), cfg)
        v = linear("attn_v", h).reshape(B, T, G, d)
        x = x + dropout(linear("attn_output", norm("attn_sub_norm", attention(q, k, v))), rate, next(keys))
        h = norm("ffn_norm", x)
        f = jax.nn.relu(linear("ffn_gate", h)) ** 2 * linear("ffn_up", h)
        x = x + dropout(linear("ffn_down", norm("ffn_sub_norm", f)), rate, next(keys))
    return rms_norm(x, params["output_norm"], cfg.eps) @ params["token_embd"].T


def loss_sum(params, ids, cfg, rate=0.0, key=None):
    """ids[B, T + 1] -> summed cross-entropy in nats over the B * T predictions."""
    logits = forward(params, ids[:, :-1], cfg, rate, key)
    picked = jnp.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - picked).sum()


# ---------------------------------------------------------------------------------------------------- training

def is_ternary(name, p):
    return p.ndim == 2 and name != "token_embd"


def newton_schulz(g, steps=5):
    """G[M, K] -> about U V^T of its singular value decomposition (the quintic iteration of Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


@functools.partial(jax.jit, static_argnames=("cfg", "rate"), donate_argnums=(0, 1))
def train_step(params, state, ids, key, t, lr, cfg, rate):
    """One step on ids[B, T + 1].  Muon for the ternary matrices, Adam for embedding and norms; lr = (muon, adam)."""
    loss, grads = jax.value_and_grad(lambda p: loss_sum(p, ids, cfg, rate, key) / (ids.size - len(ids)))(params)
    new_p, new_s = {}, {}
    for name, p in params.items():
        g, s = grads[name], state[name]
        if is_ternary(name, p):
            m = 0.95 * s[0] + 0.05 * g
            u = newton_schulz(0.05 * g + 0.95 * m) * max(1, p.shape[0] / p.shape[1]) ** 0.5
            new_p[name], new_s[name] = p * (1 - 0.1 * lr[0]) - lr[0] * u, (m,)
        else:
            m, v = 0.9 * s[0] + 0.1 * g, 0.98 * s[1] + 0.02 * g * g
            u = m / (1 - 0.9 ** t) / (jnp.sqrt(v / (1 - 0.98 ** t)) + 1e-10)
            new_p[name], new_s[name] = p - lr[1] * u, (m, v)
    return new_p, new_s, loss


def init_state(params):
    """Muon keeps one momentum array a matrix, Adam two arrays a tensor."""
    arrays = lambda n, p: 1 if is_ternary(n, p) else 2
    return {n: tuple(jnp.zeros(p.shape).copy() for _ in range(arrays(n, p))) for n, p in params.items()}


def held_out_loss(params, ids, cfg, batch):
    """Nats a token over the held-out stream, cut into windows of T + 1 that overlap by one token."""
    params = {**params, "token_embd": params["token_embd"].astype(jnp.float16).astype(jnp.float32)}  # as in the file
    T, f = cfg.context, jax.jit(loss_sum, static_argnames="cfg")
    w = np.stack([ids[s:s + T + 1] for s in range(0, len(ids) - T, T)])
    return sum(float(f(params, w[i:i + batch], cfg)) for i in range(0, len(w), batch)) / (len(w) * T)


def save_checkpoint(path, params, tok, cfg, share):
    tmp = path.with_suffix(".tmp.npz")
    np.savez(tmp, **{k: np.asarray(v) for k, v in params.items()},
             meta=json.dumps({"config": asdict(cfg), "tokenizer": tok.to_str(), "share": share}))
    os.replace(tmp, path)


def load_checkpoint(path):
    z = np.load(path)
    meta = json.loads(str(z["meta"]))
    params = {k: jnp.asarray(z[k]) for k in z.files if k != "meta"}
    return params, Tokenizer.from_str(meta["tokenizer"]), Config(**meta["config"]), meta["share"]


def lr_share(share):
    """Learning-rate factor after `share` of the time budget: short warm-up, plateau, linear decay to 0."""
    return min(share / 0.02, 1.0, max(1 - share, 0) / 0.6)


def train(args):
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # fast dropout masks
    texts, held_texts = load_corpus(args.corpus)
    if args.resume:
        params, tok, cfg, first_share = load_checkpoint(args.resume)
    else:
        cfg = Config(**{k: getattr(args, k) for k in ("dim", "layers", "ffn", "heads", "kv_heads")})
        tok, first_share = train_tokenizer(texts, cfg.vocab), 0.0
        params = init_params(cfg, np.random.default_rng(args.seed))
    ids, held = stream(tok, texts), stream(tok, held_texts)
    bytes_per_token = sum(len(t.encode()) + 1 for t in held_texts) / len(held)
    newline = tok.encode("\n").ids[0]
    print(f"{cfg}\n{sum(p.size for p in params.values()):,} parameters, {len(ids):,} training tokens, "
          f"{len(held):,} held out, {bytes_per_token:.3f} bytes/token", flush=True)

    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    state, rng, key = init_state(params), np.random.default_rng(args.seed + 1), jax.random.key(args.seed)
    start = shown = saved = time.time()
    step, seen, epoch, losses, queue = 0, 0, 0, [], np.zeros((0, cfg.context + 1), np.int32)
    best, best_params, share = 1e9, params, first_share
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    while True:
        now = time.time()
        share = first_share + (1 - first_share) * (now - start) / (60 * args.minutes)
        done = share >= 1 or bool(stop)
        if done or now - saved > 60 * args.save_minutes:
            saved, nats = now, held_out_loss(params, held, cfg, args.batch)
            print(f"  share {share:.3f} held out {nats:.4f} nats/token, {nats / np.log(2) / bytes_per_token:.4f} "
                  f"bits/byte", flush=True)
            save_checkpoint(work / "last.npz", params, tok, cfg, share)
            if nats < best:
                best = nats
                save_checkpoint(work / "best.npz", params, tok, cfg, share)
        if done:
            break
        if len(queue) < args.batch:
            queue, epoch = np.concatenate([queue, epoch_windows(ids, newline, cfg.context, rng)]), epoch + 1
        batch, queue = queue[:args.batch], queue[args.batch:]
        step, seen, f = step + 1, seen + args.batch * cfg.context, lr_share(share)
        params, state, loss = train_step(params, state, batch, jax.random.fold_in(key, step), float(step),
                                         (f * args.lr, f * args.adam_lr), cfg, args.dropout)
        losses.append(float(loss))
        if step <= 3 or time.time() - shown > 30:
            print(f"{(time.time() - start) / 60:6.1f} min  step {step}  epoch {epoch}  tokens {seen:,}  "
                  f"loss {np.mean(losses):.4f}  lr x{f:.3f}  {time.time() - now:.2f} s/step", flush=True)
            shown, losses = time.time(), []
    print(f"{step} steps, {seen:,} tokens ({seen / len(ids):.1f} epochs), {(time.time() - start) / 60:.1f} minutes, "
          f"best held-out loss {best:.4f} nats/token, {best / np.log(2) / bytes_per_token:.4f} bits/byte")
    return work / "best.npz"


def main():
    ap = argparse.ArgumentParser(description="Train the ternlm demo model and export it to GGUF.")
    ap.add_argument("--corpus", help="folder with *.txt")
    ap.add_argument("--out", default="demo/tales.gguf")
    ap.add_argument("--minutes", type=float, default=90, help="wall-clock budget; the learning rate follows it")
    ap.add_argument("--save-minutes", type=float, default=5, help="time between held-out checks and checkpoints")
    ap.add_argument("--work", default=f"{tempfile.gettempdir()}/ternlm-demo", help="folder for checkpoints")
    ap.add_argument("--resume", help="continue from a checkpoint of an interrupted run")
    ap.add_argument("--export-only", metavar="CHECKPOINT", help="write --out from a checkpoint, train nothing")
    for name, value in (("dim", 256), ("layers", 6), ("ffn", 768), ("heads", 4), ("kv_heads", 2), ("batch", 4),
                        ("seed", 1)):
        ap.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in (("lr", 0.02), ("adam_lr", 0.003), ("dropout", 0.0)):
        ap.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    args = ap.parse_args()
    params, tok, cfg, _ = load_checkpoint(args.export_only or train(args))
    export(args.out, params, tok.to_str(), cfg)


if __name__ == "__main__":
    main()
