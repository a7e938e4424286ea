"""Makes the goldens of this folder with Hugging Face `tokenizers`: see README.md for versions and the command.

vocabulary.json   tokens, token types and merges of one small byte-level BPE, shared by all pre-tokenizers
corpus.json       texts
<pre>.json        per text: [code points of each pre-token, token ids]
special.json      texts with special and user-defined tokens in them, and their ids under the llama-bpe pre-tokenizer
"""

import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
random.seed(20261121)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
PRES = {
    "llama-bpe": [split(LLAMA)],
    "qwen2": [split(QWEN)],
    # the regex inside ByteLevel is the one that GPT-2's own tokenizer.json uses
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
    "default": [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]")],
}

TRAINING = [
    "The quick brown fox jumps over the lazy dog. It's 12:30 and we've 1234567 things to do, don't we?",
    "He'll say: \"I'M HERE\", they'd answer 'no'... (yes/no) [a] {b} <c> $5 + 3 = 8; x^2 ~ y | z & `w`",
    "def f(x):\n    return x + 1\n\n\tif a:\r\n\t\tprint('ok')\r\n\r\n        # eight spaces  \n",
    "Größe, naïve café, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย, 日本語のテキスト, 中文字符, 한국어",
    "🙂🙂 👩‍👩‍👧 🇫🇷 é é 100% ½ ² Ⅷ ٣٤٥ 1,000,000.00 -- == != => ... !!! ??? ### ***",
] * 4 + ["a" * 40, " " * 40, "\n" * 20, "1" * 30, "ab" * 20, "the the the the the", "  \n  \n", "日日日日日日"]

WHOLE_WORDS = ["Ġwholeword", "unmergeable", "Ġ'", "ĠĠĠĠĠ", "Ċĉ", "ÃŁe"]  # in the vocabulary, made by no merge


def make_vocabulary():
    # No pre-tokenizer: merges cross words, digits and spaces, so that a wrong cut shows in the ids.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = BYTES
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    vocab = dict(model["vocab"])
    for word in WHOLE_WORDS:
        vocab.setdefault(word, len(vocab))
    return vocab, merges


NASTY = [
    "", " ", "  ", "   ", "\n", "\r\n", "\t", "a", "1", "'", "\"", "Hello world", " Hello  world ", "   leading", "trailing   ",
    "it's we're I've I'm you'll he'd don't", "IT'S WE'RE I'VE I'M YOU'LL HE'D DON'T", "'s 'S 'l 'll 'Ll 'lL 'LL 'r 're 'rE 'v",
    "'st'sa'll'l'", "x'ſ 'ſa", "x'ſa'ſe", "'ſlow", "it’s", "'''s", "' s", "a' b", "''re", " 're", "1's", "\n's", "don'\nt", "'d've", "rock'n'roll",
    "0", "12", "123", "1234", "12345", "123456", "1234567", " 1", "  12", "   123", "1 2  3   4", "a1b22c333d4444", "1.5e-10",
    "1,234,567.89", "½", "²³", "x²", "Ⅷ", "٣٤٥٦٧", "12٣45678", "123٣4", "٣123456", "1٣", "१२३४", "𝟏𝟐𝟑𝟒", "〇一二", "①②③④",
    "a\tb", "\ta", "\t\ta", " \ta", "\t a", "a \t b", "a\nb", "a\n\nb", "a\r\nb", "a\r\n\r\nb", "a\rb", "\n\n\n", "\r\r", " \n", "\n ",
    " \n ", "  \n  ", "  \n  a", "\n  a", "\n\ta", "a  \n", "a \n b", "a\n \n b", "!\n", "!\n\n", "!\r\n a", " !\n", "!!\n\n!!", ".\n\n\n.",
    "x\u0085y", "\u0085\u0085", "x\u00a0y", "\u00a0\u00a0a", "\u00a0!", "x\u2003y", "\u2003\u2003 z", "x\u3000y", "\u3000\u3000", "\u1680a", "\u2028a\u2029b",
    "\u202f5", "\u205f!", "x\u200by", "\u200b\u200b", "\ufeffx", "x\ufeff", " \ufeff", "\u180ea", "\u2060b", "\u00ada\u00ad",
    "\x00", "\x00a", "a\x01b", "\x1b[0m", "\x7f", "a\x7f", "\x1c\x1d\x1e\x1f", "a\x1cb", "\x0b\x0c", "a\x0bb", "\x80\x9f", "a\x80b",
    "!", "!!", "!!!", " !", "  !", "   !", "!a", "! a", "a!", "a !", "a  !", "a   !b", "(a)", "[b]", "{c}", "<d>", "a-b", "a_b", "_a", "__a__",
    "#a", "@a", "$5", "€5", "5€", "+1", "-1", "a+b=c", "a`b`c", "``` ```", " `", "  `a", "`'`", "~/.x", "^_^", "a|b", "<=>", "<|eot_id|>", "<|x", "|>",
    "http://a.b/c?d=e&f=g#h", "user@example.com", "C:\\a\\b", "a\\nb", "...", "…", "a…b", "--", "—", "a—b", "«a»", "“b”", "‘c’", "¿a?", "、。「」",
    "$+<=>^~|", "a$+<=>^~|b", " $", "  $ ", "°C", "©®™", "a©b", "§1", "¶", "×÷", "∑∫", "√2", "→a", "●a", "█", "♥",
    "é", "é", "ñandú", "Å Å", "ﬁ", "ß", "SS", "İi", "ıI", "ŉ", "ǅ", "ʰ", "ª", "a\u0301", "\u0301", "\u0301a", " \u0301", "a\u0301\u0302b", "1\u0301", "!\u0301",
    "Ελληνικά", "ΣΑΣ σας", "русский язык", "ёЁ", "עברית", "שָׁלוֹם", "العربية", "السَّلَامُ", "فارسی۱۲۳", "हिन्दी", "नमस्ते", "বাংলা", "தமிழ்", "తెలుగు", "ไทย", "สวัสดี", "ລາວ", "မြန်မာ",
    "ភាសា", "ქართული", "Հայերեն", "አማርኛ", "ᏣᎳᎩ", "ᐃᓄᒃ", "日本語のテキスト", "カタカナ", "ｶﾀｶﾅ", "中文字符", "中文 中文", "中文123中文", "한국어", "한글 자모 ㄱㄴ", "བོད་", "ᠮᠣᠩᠭᠣᠯ",
    "𐍈", "𝒳𝓎", "𠀀𠀁", "a𠀀b", "𐎠𐎡", "🙂", "🙂🙂", " 🙂", "a🙂b", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷🇩🇪", "1️⃣", "❤️", "☺︎", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🙂\n🙂", "  🙂", "𝄞", "\U0010ffff", "\U000e0001",
    "\ue000", "a\ue000b", "\uf8ff", "\ufffd", "a\ufffdb", "\ufffe\uffff", "\U0001fffe",
    "wholeword", " wholeword", " wholewords", "unmergeable", "unmergeable!", "     ", "      ", " '", "\n\t", "ße", "ßea",
    "def f(x):\n    return x + 1\n", "if (a && b) {\r\n\treturn;\r\n}", "SELECT * FROM t WHERE a='b';", "<p class=\"a\">b</p>", "{\"a\": [1, 2.5, null]}", "a\t\t\tb   c \n\n d",
    "Mixed ελλ 中文 12ab ٣٤ 🙂!\r\n\t'Tis", "Zürich–Genève 100 %", "a" * 70, " " * 70, "\n" * 40, "7" * 40, "🙂" * 15, "ab " * 20, "\r\n" * 15, " \n" * 15, "'" * 20, "'s" * 10,
    " a" * 20, "a1" * 20, "\u00a0" * 9 + "x", "ſ", "'ſ", "K", "ﬆ", "'ﬆ", "'S'T'RE", "'Re've", "o’clock's",
]  # fmt: skip

PIECES = [
    "a", "B", "the", "word", "é", "\u0301", "ß", "ж", "中", "文", "の", "한", "ا", "ह", "์", "1", "23", "456", "٣", "½", "²", "'", "'s", "'LL", "'re", "'D",
    " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u0085", "\u3000", "\u200b", "\ufeff", "\x00", "\x1c", "\x7f", "!", "?", ".", ",", "-", "_", "(", ")",
    "$", "+", "<", "|", ">", "~", "^", "`", "°", "€", "…", "“", "🙂", "👩\u200d👧", "🇫", "𠀀", "𝟏", "\ufffd", "\ue000",
]  # fmt: skip


def main():
    vocab, merges = make_vocabulary()
    texts = list(dict.fromkeys(NASTY + ["".join(random.choices(PIECES, k=random.randint(3, 24))) for _ in range(400)]))
    write("vocabulary.json", {
        "tokens": [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])],
        "merges": [" ".join(pair) for pair in merges],
    })
    write("corpus.json", texts)
    for name, parts in PRES.items():
        tokenizer = make_tokenizer(vocab, merges, name)
        cutter = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
        rows = []
        for text in texts:
            lengths = [end - start for _, (start, end) in cutter.pre_tokenize_str(text)]
            assert sum(lengths) == len(text), (name, text, lengths)
            rows.append([lengths, tokenizer.encode(text, add_special_tokens=False).ids])
        write(f"{name}.json", rows)

    tokenizer = make_tokenizer(vocab, merges, "llama-bpe")
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot_id|><|x|>"]
    user = ["<think>", "=>>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in user])
    cases = [
        "<|begin_of_text|>User: hi<|eot_id|>Assistant: ", "<|eot_id|>", "a<|eot_id|>b", " <|eot_id|> ", "<|eot_id|><|eot_id|>", "<|eot_id|><|x|>",
        "<|eot_id|><|x", "<|eot_id", "<<|eot_id|>>", "<think>a b</think>", "a=>>b", "=>=>>>", "1<|eot_id|>23<think>'s", "  <|end_of_text|>  x", "\n<|eot_id|>\n",
    ]  # fmt: skip
    write("special.json", {"control": special, "user": user, "cases": [[text, tokenizer.encode(text).ids] for text in cases]})


def make_tokenizer(vocab, merges, name):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name == "llama-bpe"))
    parts = PRES[name]
    tokenizer.pre_tokenizer = parts[0] if name == "gpt-2" else pre_tokenizers.Sequence([*parts, BYTES])
    return tokenizer


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
