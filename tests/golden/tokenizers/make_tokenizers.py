#!/usr/bin/env python3
"""Makes the small tokenizers of this folder and cases.json: texts and their ids, as Hugging Face's own
library has them (pip install tokenizers; made with 0.23). Tests read the files and need no Python.

Each tokenizer cuts words as a family of models does; the vocabulary is learned from the texts below.
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).parent
MERGES = 300

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

SCRIPTS = [
    "The engine reads what others have written, and it isn't always what they've meant: we'll see, I'd say.",
    "Größe, Übermut und Straßenbahnen: die Wörter werden länger als die Zeilen.",
    "L'été dernier, l'équipe a déjà mesuré où ça coûte cher, à Besançon.",
    "Быстрая коричневая лиса прыгает через ленивую собаку, и это не конец.",
    "Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول، أليس كذلك؟",
    "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "রহিম বলল, দ্রুত বাদামী শিয়াল লাফ দেয়।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "敏捷的棕色狐狸跳过了懒狗,然后回家了。",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナも。",
    "다람쥐 헌 쳇바퀴에 타고파, 빠른 갈색 여우.",
    "ሰላም ለሁሉም፣ ፈጣን ቀበሮ። Բարեւ աշխարհ։ გამარჯობა მსოფლიო",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * 0x1F; // 100%\n}\n\n\nreturn sum;",
    "In 1984, 12345678 people paid $3.14 or 2,718.28 (½ of 10²) at 23:59:59 on 2024-02-29.",
]
HARD = [
    "", " ", "  ", "\n", "\n\n", " \n ", "\t\t", "\r\n\r\n x", "a", " a", "a ", "  a  b   c    ",
    "it's IT'S It’s we'LL 'tis 'S'T 's", "\u017ft's '\u017f 'S", "x" * 200, " " * 70, "\n" * 9 + "end",
    "  \n  \n indented\n    more\t \n", "1234567890 12 123 1234 1,234,567.89", "٣٤٥ १२३ Ⅻ ½ ² 10²",
    "!!! ... ?!?! --- *** ### <<<>>>", "a!b?c.d,e;f", "http://example.org/a?b=c&d=%20#e user@example.org",
    "\u00a0no-break\u3000wide\u2003em\u2028line\u2029paragraph\u0085next\u180emongolian\u200bzero",
    "e\u0301 \u00e9 A\u030a \u212b \ufb01 \uac01 \u1100\u1161\u11a8 \u0958 q\u0323\u0307 q\u0307\u0323",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ❤️ ☃", "\U0001d49c\U00020000\U0010ffff\ufdd0\ufffd\ufeff",
    "\u0000 zero \u0001\u001f\u007f\u0080\u009f\u00ad", "mixed中文and日本語と한국어in one", "Ĝ Ġ Ċ ĉ ▁ Ã©",
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>\n<|im_start|>user\nhi<|im_end|>",
    "<|endoftext|", "<|im_start|> x  <mask>  y", "no<word>no <word> <word>. a<word> <word>é ü<word>",
    "<e\u0301> <\u00e9> x<\u00e9>", "<tool> <tools> <tool>s", "\u0301<word>\u0301 _<word> 1<word> \u24b6<word>",
]


def byte_level(regex, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, trim_offsets=True, use_regex=regex)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated", False)


def in_order(*steps):
    return pre_tokenizers.Sequence(list(steps))


KINDS = {
    "gpt2": (None, byte_level(True), False),
    "smollm2": (None, in_order(pre_tokenizers.Digits(individual_digits=True), byte_level(True)), False),
    "qwen2": (normalizers.NFC(), in_order(split(QWEN2), byte_level(False)), False),
    "llama3": (None, in_order(split(LLAMA3), byte_level(False)), True),
    "prefix": (normalizers.Sequence([normalizers.NFKC()]), byte_level(True, prefix=True), False),
}


def make(normalizer, pre_tokenizer, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(SCRIPTS * 2, trainers.BpeTrainer(
        vocab_size=257 + MERGES, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", AddedToken("<mask>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("<word>", single_word=True, normalized=False), "<\u00e9>", "<tool>", "<tools>"])
    return tokenizer


def main():
    texts = SCRIPTS + HARD + ["\n".join(SCRIPTS)]
    cases = {"texts": texts}
    for name, kind in KINDS.items():
        tokenizer = make(*kind)
        document = json.loads(tokenizer.to_str())
        if name == "gpt2":  # merges as older files have them
            document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
        if name == "llama3":  # words that are tokens, but no merge makes them
            document["model"]["merges"] = document["model"]["merges"][:200]
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
        encoded = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        cases[name] = {"ids": encoded, "decoded": [tokenizer.decode(ids) for ids in encoded]}
    (FOLDER / "cases.json").write_text(
        json.dumps(cases, ensure_ascii=True, separators=(",", ":")).replace('],[', '],\n[') + "\n", encoding="utf-8")


main()
