#!/usr/bin/env python3
"""Compares t2r's byte-level BPE with Hugging Face's library on megabytes of hard text: ids and decoded text.

    pip install tokenizers
    cmake --build build --target tokenizer_speed
    python3 experiments/tokenizers/compare.py --program build/bench/tokenizer_speed [--text FILE...] [--tokenizer FILE...]

Tokenizers: one trained here for each way of cutting words (GPT-2, SmolLM, Qwen 2, Llama 3), and every --tokenizer: a
tokenizer.json, GPT-2's own pair of files as encoder.json,vocab.bpe, or Qwen's qwen.tiktoken. Text: from a seed (fourteen scripts, emoji, code,
broken spacing), and every --text, plain or gzip. Prints a table; the exit status is 1 where anything differs.
"""
import argparse
import base64
import gzip
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# Letters, marks and digits of each script, as ranges of code points.
SCRIPTS = {
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0x61, 0x7A), (0xC0, 0x17F)],
    "Greek": [(0x391, 0x3A1), (0x3A3, 0x3CE)],
    "Cyrillic": [(0x410, 0x44F), (0x430, 0x44F)],
    "Armenian": [(0x531, 0x556), (0x561, 0x586)],
    "Hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BC)],
    "Arabic": [(0x621, 0x63A), (0x641, 0x64A), (0x64B, 0x652), (0x660, 0x669)],
    "Devanagari": [(0x904, 0x939), (0x93E, 0x94D), (0x958, 0x95F), (0x966, 0x96F)],
    "Bengali": [(0x985, 0x98C), (0x993, 0x9A8), (0x9BE, 0x9C4), (0x9DC, 0x9DD)],
    "Thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "Georgian": [(0x10D0, 0x10F0)],
    "Ethiopic": [(0x1200, 0x1248)],
    "Hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1112), (0x1161, 0x1175)],
    "Kana": [(0x3041, 0x3096), (0x30A1, 0x30FA), (0x3099, 0x309A)],
    "Han": [(0x4E00, 0x62FF), (0x4E00, 0x4FFF)],
}
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "☃", "🧑🏿‍🚀", "1️⃣", "🫠"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \t ", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\u200b",
          "\u180e", "\ufeff", "\u000b", " " * 17, "\n" * 9, "\r", "\u200d"]
MARKS = [".", ",", "!", "?", "...", "—", "。", "、", "؟", "।", "፣", "'", "\"", "«", "»", "(", ")", "[", "]", "{", "}", ";", ":", "&&", "->", "==", "/*", "*/",
         "#", "$", "%", "@", "\\", "|", "~", "`", "_", "__", "½", "²", "Ⅻ", "€", "\u0301", "e\u0301", "\u0323\u0307", "\ufb01", "\u212b", "\u017f",
         "\u00ad", "\u0001", "\u007f", "\ufffd", "\U0010ffff", "\U00020000", "\U0001d49c"]
ENDINGS = ["'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'D", "’s", "'x", "'\u017f", "'"]
CODE = ["for (int i = 0; i < n; ++i) {\n\tsum += a[i] * 0x1F;\n}\n", "def f(x):\n    return x**2  # half\n\n", "SELECT * FROM t WHERE a>=10;\n",
        "<div class=\"a\">&nbsp;</div>\n", "http://example.org/a?b=c&d=%20#e", "std::vector<std::pair<int,int>>{};", "if(x&&!y){return;}\r\n"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext", "<|begin_of_text|>"]

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


class Text:
    """Documents from a seed: what stands beside what is chance, words follow a law of Zipf."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.words = {name: [self.word(ranges) for _ in range(3000)] for name, ranges in SCRIPTS.items()}

    def word(self, ranges):
        letters = (self.random.randint(*self.random.choice(ranges)) for _ in range(self.random.randint(1, 9)))
        return "".join(map(chr, letters))

    def piece(self, words):
        draw = self.random.random()
        if draw < 0.72:
            word = words[int(len(words) * self.random.random() ** 3)]
            return word + self.random.choice(ENDINGS) if draw < 0.03 else word
        if draw < 0.80:
            return self.random.choice(MARKS)
        if draw < 0.86:
            return str(self.random.randrange(10 ** self.random.randint(1, 12)))
        if draw < 0.90:
            return self.random.choice(EMOJI)
        if draw < 0.93:
            return self.random.choice(CODE)
        if draw < 0.935:
            return self.random.choice(SPECIAL)
        if draw < 0.94:
            return self.random.choice(MARKS + EMOJI) * self.random.randint(2, 60)
        return self.word(self.random.choice(list(SCRIPTS.values())))

    def document(self):
        words = self.words[self.random.choice(list(SCRIPTS))]
        parts = []
        for _ in range(self.random.randint(0, 400)):
            parts.append(self.piece(words))
            draw = self.random.random()
            parts.append(" " if draw < 0.75 else "" if draw < 0.88 else self.random.choice(SPACES))
        return "".join(parts)


def documents_of(arguments):
    text, documents, size = Text(arguments.seed), [], 0
    while size < arguments.megabytes * 1e6:
        documents.append(text.document())
        size += len(documents[-1].encode())
    for path in arguments.text:
        opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
        with opened as file:
            lines = file.read().decode("utf-8").replace("\0", "").split("\n")
        documents += ["\n".join(lines[i:i + 50]) for i in range(0, len(lines), 50)]
    return documents


def trained(normalizer, steps, ignore_merges, documents, vocab_size):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def parts_of(token, ranks):
    """The two tokens that the last merge of a token joins: merges of lower rank are done before it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        rank, at = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(zip(parts, parts[1:])))
        if rank >= ranks[token]:
            break
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts


def from_ranks(path):
    """The model of a .tiktoken file: a line a token, base64 and rank."""
    lines = [line.split() for line in pathlib.Path(path).read_text().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    printable = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}

    def name(token):
        return "".join(letters[byte] for byte in token)

    merges = [parts_of(token, ranks) for token in sorted(ranks, key=ranks.get) if len(token) > 1]
    return models.BPE({name(token): rank for token, rank in ranks.items()}, [(name(p[0]), name(p[1])) for p in merges if len(p) == 2])


def tokenizers_of(arguments, documents):
    """(name, Hugging Face's tokenizer)"""
    def byte_level(regex):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)

    def split(pattern):
        return pre_tokenizers.Split(Regex(pattern), "isolated", False)

    sample = documents[::max(1, len(documents) // 600)]
    kinds = {
        "GPT-2": (None, [byte_level(True)], False),
        "SmolLM": (None, [pre_tokenizers.Digits(individual_digits=True), byte_level(True)], False),
        "Qwen 2": (normalizers.NFC(), [split(QWEN2), byte_level(False)], False),
        "Llama 3": (None, [split(LLAMA3), byte_level(False)], True),
    }
    for name, kind in kinds.items():
        yield f"{name}, trained here", trained(*kind, sample, arguments.vocab_size)
    for path in arguments.tokenizer:
        if "," in path:  # GPT-2's own files
            vocabulary, merges = path.split(",")
            tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges))
            tokenizer.pre_tokenizer, tokenizer.decoder = byte_level(True), decoders.ByteLevel()
            tokenizer.add_special_tokens(["<|endoftext|>"])
        elif path.endswith(".tiktoken"):
            tokenizer = Tokenizer(from_ranks(path))
            tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(QWEN2), byte_level(False)])
            tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        else:
            tokenizer = Tokenizer.from_file(path)
        yield path, tokenizer


def run(program, folder, tokenizer, documents):
    """What t2r makes of the documents: its figures, the ids, the decoded texts."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "text").write_bytes("\0".join(documents).encode())
    output = subprocess.run([program, "--tokenizer", folder / "tokenizer.json", "--text", folder / "text", "--repeat", "1", "--ids", folder / "ids",
                             "--decoded", folder / "decoded"], check=True, stdout=subprocess.PIPE).stdout
    data = (folder / "ids").read_bytes()
    numbers = struct.unpack(f"<{len(data) // 4}i", data)
    ids, at = [], 0
    while at < len(numbers):
        ids.append(list(numbers[at + 1:at + 1 + numbers[at]]))
        at += 1 + numbers[at]
    return json.loads(output), ids, (folder / "decoded").read_bytes().split(b"\0")


def compare(name, tokenizer, documents, arguments, folder):
    figures, ours, decoded = run(arguments.program, folder, tokenizer, documents)
    theirs = [encoding.ids for encoding in tokenizer.encode_batch(documents, add_special_tokens=False)]
    assert len(ours) == len(theirs) == len(decoded), "documents got lost"
    different = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    texts = tokenizer.decode_batch(theirs, skip_special_tokens=True)
    other_text = [i for i, (a, b) in enumerate(zip(decoded, texts)) if a != b.encode()]
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    plain = [i for i, d in enumerate(documents) if not any(s in d for s in specials)]
    normalized = (lambda d: tokenizer.normalizer.normalize_str(d)) if tokenizer.normalizer else (lambda d: d)
    lost = [i for i in plain if decoded[i] != normalized(documents[i]).encode()]
    print(f"| {name} | {tokenizer.get_vocab_size()} | {figures['megabytes']:.1f} | {figures['tokens']} | {len(different)} | {len(other_text)} "
          f"| {len(lost)} of {len(plain)} |", flush=True)
    for i in different[:arguments.show]:
        at = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b), min(len(ours[i]), len(theirs[i])))
        print(f"document {i}, id {at}: t2r {[tokenizer.id_to_token(k) for k in ours[i][at:at + 6]]}, "
              f"Hugging Face {[tokenizer.id_to_token(k) for k in theirs[i][at:at + 6]]} after {tokenizer.decode(theirs[i][:at])[-30:]!r}", file=sys.stderr)
    for i in lost[:arguments.show]:
        print(f"document {i} of {len(documents[i])} characters does not come back", file=sys.stderr)
    return not (different or other_text or lost)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", required=True, help="bench/tokenizer_speed of the build folder")
    parser.add_argument("--text", action="append", default=[], help="real text, also gzip; may be repeated")
    parser.add_argument("--tokenizer", action="append", default=[], help="tokenizer.json, encoder.json,vocab.bpe or qwen.tiktoken; may be repeated")
    parser.add_argument("--megabytes", type=float, default=10, help="of text from the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vocab-size", type=int, default=8000, help="of the tokenizers trained here")
    parser.add_argument("--show", type=int, default=3, help="differences to print")
    arguments = parser.parse_args()
    documents = documents_of(arguments)
    print("| tokenizer | entries | MB | tokens | documents with other ids | decoded to other text | not the text again |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        same = [compare(name, tokenizer, documents, arguments, pathlib.Path(folder)) for name, tokenizer in tokenizers_of(arguments, documents)]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
