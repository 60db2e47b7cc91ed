"""Makes the golden folders marian and fsmt: tiny models with random weights that Hugging Face's
MarianMTModel and FSMTForConditionalGeneration wrote, and what these compute from them in fp32: the
logits of every position of a few targets (expected.safetensors, ids.json), and of marian a greedy
translation of a sentence (translation.json). Run once; the results are committed.

python3 make_marian_golden.py OUT     (needs torch, transformers, sentencepiece and safetensors)
"""
import io
import json
import pathlib
import sys

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import (FSMTConfig, FSMTForConditionalGeneration, MarianConfig, MarianMTModel,
                          MarianTokenizer)

OUT = pathlib.Path(sys.argv[1])
ENGLISH = ["the cat sleeps on the old house", "a dog runs through the green garden",
           "the children play with the small dog", "we see the house and the garden",
           "the old cat sees a small dog", "the dog sleeps in the green grass", "it's the cat's house"]
GERMAN = ["die Katze schläft auf dem alten Haus", "ein Hund rennt durch den grünen Garten",
          "die Kinder spielen mit dem kleinen Hund", "wir sehen das Haus und den Garten",
          "die alte Katze sieht einen kleinen Hund", "der Hund schläft im grünen Gras"]
SENTENCE = "the small cat\u2019s garden"  # the apostrophe is one that the rules below replace
SIZES = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
         "max_position_embeddings": 64}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def train_pieces(path, texts, rules):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=48, hard_vocab_limit=False,
        model_type="unigram", normalization_rule_tsv=str(rules), bos_id=-1, minloglevel=2)
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def randomize(model, generator):
    """All parameters, biases and norms too: nothing may be right because it is 0 or 1."""
    for name, value in model.named_parameters():
        if "embed_positions" in name:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "layer_norm.weight" in name:
            noise = 1 + 0.2 * noise
        elif value.dim() == 2 and "embed" not in name and "shared" not in name:
            noise = 0.4 * noise
        else:
            noise = 0.3 * noise
        value.data.copy_(noise)


def write_logits(model, out, pairs):
    rows = []
    with torch.no_grad():
        for source, target in pairs:
            rows.append(model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]),
                              use_cache=False).logits[0])
    save_file({"logits": torch.cat(rows).float().contiguous()}, out / "expected.safetensors")
    write_json(out / "ids.json", [{"source": s, "target": t} for s, t in pairs])


def random_pairs(generator, source_size, target_size, first, start, end):
    pairs = []
    for source, target in ((7, 5), (3, 9), (12, 1)):
        draw = lambda high, count: torch.randint(first, high, (count,), generator=generator).tolist()
        pairs.append((draw(source_size, source) + [end], [start] + draw(target_size, target)))
    return pairs


def translate(model, ids, pad, **options):
    with torch.no_grad():
        return model.generate(ids, num_beams=1, do_sample=False, max_length=18, bad_words_ids=[[pad]], **options)


def end_soon(model, ids, pad):
    """Whether a bias makes the random model, which would never end this sentence, end it after a few
    different tokens: one that lets the end win at a step, but at none before."""
    model.final_logits_bias[0, 0] = -1000
    out = translate(model, ids, pad)[0, 1:]
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[pad, *out[:-1].tolist()]])).logits[0]
    logits[:, pad] = -1000
    gaps = (logits[:, 1:].max(-1).values - logits[:, 0] - 1000).tolist()
    for step in range(4, 14):
        before = min(gaps[:step])
        if before - gaps[step] > 0.2 and len(set(out[:step].tolist())) >= 4:
            model.final_logits_bias[0, 0] = (before + gaps[step]) / 2
            return True
    return False


def make_marian(out):
    out.mkdir(parents=True)
    rules = out / "rules.tsv"
    rules.write_text("2019\t27\n", encoding="utf-8")
    source = train_pieces(out / "source.spm", ENGLISH, rules)
    target = train_pieces(out / "target.spm", GERMAN, rules)
    rules.unlink()
    pieces = sorted({*source, *target} - {"<unk>", "<s>", "</s>", "<pad>"})
    tokens = ["</s>", "<unk>", ">>deu<<", *pieces, "<pad>"]
    write_json(out / "vocab.json", {token: i for i, token in enumerate(tokens)})
    pad = len(tokens) - 1
    config = MarianConfig(
        vocab_size=len(tokens), decoder_vocab_size=len(tokens), **SIZES, activation_function="swish",
        scale_embedding=True, pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
        forced_eos_token_id=0, bos_token_id=0, share_encoder_decoder_embeddings=True)
    tokenizer = MarianTokenizer(str(out / "source.spm"), str(out / "target.spm"), str(out / "vocab.json"),
                                source_lang="eng", target_lang="deu")
    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        model = MarianMTModel(config).eval()
        randomize(model, generator)
        model.final_logits_bias.copy_(torch.randn(1, len(tokens), generator=generator))
        if end_soon(model, ids, pad):
            break
    greedy = translate(model, ids, pad)[0].tolist()
    model.float().save_pretrained(out, safe_serialization=True)
    model = MarianMTModel.from_pretrained(out).eval()
    write_logits(model, out, random_pairs(generator, pad, pad, 3, pad, 0))
    write_json(out / "translation.json",
               {"source_text": SENTENCE, "source": ids[0].tolist(), "target": greedy,
                "target_text": tokenizer.decode(greedy, skip_special_tokens=True)})


def make_fsmt(out):
    out.mkdir(parents=True)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    sources = special + ["the</w>", "l", "o", "lo", "low", "w</w>", "er</w>", "e", "r", "dog</w>", "low</w>", "s</w>"]
    targets = special + ["der</w>", "t", "ti", "tie", "fer</w>", "f", "er</w>", "Hund</w>", "Hund", "e</w>"]
    for name, tokens in (("src", sources), ("tgt", targets)):
        write_json(out / f"vocab-{name}.json", {token: i for i, token in enumerate(tokens)})
    (out / "merges.txt").write_text("l o 9\nlo w 5\ne r</w> 4\n", encoding="utf-8")
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=len(sources), tgt_vocab_size=len(targets),
                        activation_function="relu", scale_embedding=True, **SIZES)
    model = FSMTForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(7)
    randomize(model, generator)
    model.save_pretrained(out, safe_serialization=True)
    model = FSMTForConditionalGeneration.from_pretrained(out).eval()
    write_logits(model, out, random_pairs(generator, len(sources), len(targets), 3, 2, 2))


make_marian(OUT / "marian")
make_fsmt(OUT / "fsmt")
