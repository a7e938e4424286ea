"""Makes the SentencePiece goldens of this folder with `sentencepiece`: see README.md for versions and the command.

<family>.json   tokens, scores and types of a small vocabulary as a GGUF file has them, more texts, and the ids of all
                texts (those of corpus.json first)

With a folder as argument it also writes <family>.gguf there, files without tensors, for make_llama_cpp.mjs.
"""

import io
import json
import os
import random
import sys

import sentencepiece

from make import HERE, PIECES, TRAINING, write

random.seed(20261122)

TEXT = """The river rises in the hills above the town, and by the time it reaches the mill it is broad and slow.
Nobody remembers who built the bridge; the stones are older than the records, and the records begin in 1482.
"What do you want?" she asked. "Nothing," he said, "nothing that you would give me."
In the morning the children ran to the water, threw in their boats of bark, and followed them as far as the weir.
for (let i = 0; i < 10; i++) { total += values[i]; } // sum of the values
def mean(values):
    return sum(values) / len(values)

        if not values: raise ValueError("no values")
Der Fluss entspringt in den Hügeln über der Stadt. La rivière prend sa source dans les collines. El río nace en las colinas.
Река берёт начало в холмах над городом. Ο ποταμός πηγάζει στους λόφους. 河は町の上の丘から流れ出る。河流发源于城镇上方的山丘。
""".splitlines()

MORE = [
    "▁", "▁▁", "▁▁▁", " ▁", "▁ ", "▁ ▁", "a▁b", "a ▁b", "▁the", "the▁river", "the▁▁river", "\u2582", "the river", " the river", "the  river", "the   river ",
    "<s>", "</s>", "<unk>", "<s>the</s>", "<pad>", "<bos>the<eos>", "<mask>", "<b>the</b>", "<0x41>", "<0x0A>", "<0x0a>", "<0xZZ>", "[PAD1]",
    "\n", "\n\n", "\n\n\n\n\n\n\n", "the\n\nriver", "\n the", " \n", "\tthe", "\t\tthe", "  \t  the", "x" * 200, "the" * 60, "theriver" * 25, "the river " * 30, " " * 50, " " * 9 + "the",
    "河流发源于城镇上方的山丘河流发源于城镇上方的山丘", "河" * 40, "の" * 33, "الجبال", "నది కొండలలో", "แม่น้ำไหลจากภูเขา", "강은 언덕에서 시작된다", "🙂 the 👩‍👩‍👧 river 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "e\u0301", "\u0301the", "the\u0301 river", "1482", "14821482", "1 4 8 2", "\x00the\x01", "\x7f", "\u0085the", "\u00a0the", "\u3000the", "the\u200briver", "\ufeffthe", "\U0010ffff",
]  # fmt: skip


def train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING + TEXT * 4),
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def types_of(model):
    tests = [(2, model.is_unknown), (3, model.is_control), (5, model.is_unused), (6, model.is_byte)]
    return [next((code for code, test in tests if test(i)), 1) for i in range(model.vocab_size())]


def llama(model):
    """As convert_hf_to_gguf.py writes a tokenizer.model."""
    size = model.vocab_size()
    return [model.id_to_piece(i) for i in range(size)], [model.get_score(i) for i in range(size)], types_of(model)


def gemma(model, user):
    """Score: minus the rank of the first merge that makes a token; added tokens -1000, characters and bytes 0."""
    pieces, scores, types = llama(model)
    known = {piece: i for i, piece in enumerate(pieces) if types[i] == 1}
    # All ways to merge each token, the tokens in the order of the model's scores: that is the list of merges.
    made = sorted((piece for piece in known if len(piece) > 1), key=lambda piece: -scores[known[piece]])
    merges = [p for p in made for i in range(1, len(p)) if p[:i] in known and p[i:] in known]
    ranks = {piece: merges.index(piece) for piece in merges}
    for i, piece in enumerate(pieces):
        scores[i] = float(-ranks.get(piece, 0))
        if piece in user:
            types[i] = 4
        if types[i] in (3, 4):
            scores[i] = -1000.0
    # A user-defined token is found in the text as it comes, with spaces.
    return [p.replace("▁", " ") if types[i] == 4 else p for i, p in enumerate(pieces)], scores, types


def main():
    with open(os.path.join(HERE, "corpus.json"), encoding="utf-8") as file:
        corpus = json.load(file)
    parts = PIECES + ["▁", "the", " the", "river", " of", "<s>", "<0x41>", "  ", "\n"]
    more = MORE + ["".join(random.choices(parts, k=random.randint(3, 20))) for _ in range(60)]

    plain = train(vocab_size=700, add_dummy_prefix=True)
    runs = [c * n for c in "\n▁" for n in range(2 if c == "▁" else 1, 9)]
    user = ["<mask>", *runs, "<b>", "</b>"]
    names = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"}
    # Words are not cut at spaces: some tokens have one in the middle.
    spaced = train(vocab_size=720, add_dummy_prefix=False, split_by_whitespace=False, user_defined_symbols=user, **names)
    for name, model, vocabulary in [("llama", plain, llama(plain)), ("gemma", spaced, gemma(spaced, user))]:
        tokens, scores, types = vocabulary
        rows = [model.encode(text) for text in corpus + more]
        write(f"{name}.json", {"tokens": tokens, "scores": scores, "types": types, "texts": more, "ids": rows})
        if len(sys.argv) > 1:
            write_gguf(os.path.join(sys.argv[1], f"{name}.gguf"), tokens, scores, types, name == "gemma")
    if len(sys.argv) > 1:
        raw = [t.replace(" ", "▁") if types[i] == 4 else t for i, t in enumerate(tokens)]
        write_gguf(os.path.join(sys.argv[1], "gemma_raw.gguf"), raw, scores, types, True)


def write_gguf(path, tokens, scores, types, is_gemma):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in [("context_length", 64), ("embedding_length", 64), ("block_count", 1), ("feed_forward_length", 64)]:
        writer.add_uint32(f"llama.{key}", value)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    if is_gemma:
        writer.add_pad_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_unk_token_id(3)
        writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


if __name__ == "__main__":
    main()
