"""Whatever is wrong with the input, t2r ends with one sentence that says so, and loses nothing."""

import gzip
import json
import os
import shutil
import struct

import harness
from harness import MODEL, WORK, ok, ok_json, write


def flip_byte(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


def edit_tensors(path, edit):
    """Changes the header of a safetensors file; the data stays where it is."""
    with open(path, "rb") as file:
        content = file.read()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    edit(header)
    text = json.dumps(header).encode()
    text += b" " * (length - len(text))
    write(path, struct.pack("<Q", len(text)) + text + content[8 + length:], "wb")


class BadText(harness.Case):
    def prepare(self, content, says, status=(1, 2)):
        path = self.path("bad.txt")
        if content is not None:
            write(path, content, "wb")
        elif os.path.exists(path):
            os.remove(path)
        out = self.path("bad-dataset")
        sentence = self.assert_fails("prepare", "--text", path, "--tokenizer", "bytes", "--out",
                                     out, says=says, status=status)
        self.assertFalse(os.path.exists(os.path.join(out, "dataset.json")))
        return sentence

    def test_missing(self):
        self.prepare(None, ["bad.txt"])

    def test_empty(self):
        self.prepare(b"", ["bad.txt", "empty"])

    def test_binary(self):
        self.prepare(b"\x7fELF\x00\x00\x01" * 20, ["bad.txt"])

    def test_invalid_utf8(self):
        self.assertIn("2", self.prepare(b"good line\nbad \xff line\n", ["bad.txt", "UTF-8"]))

    def test_no_text_at_all(self):
        self.assert_fails("prepare", "--tokenizer", "bytes", "--out", self.path("none"))


class BadPairs(harness.Case):
    """Sentence pairs; everything that is wrong with them is wrong usage."""

    SENTENCES = "".join(f"Haus {i % 7} größer 中文 the cell\n" for i in range(40)).encode()

    def file(self, name, content):
        return write(self.path(name), content, "wb")

    def refused(self, *arguments, says):
        out = self.path("bad-pairs")
        self.assert_fails("prepare", *arguments, "--vocab-size", "300", "--out", out, says=says,
                          status=(2,))
        self.assertFalse(os.path.exists(os.path.join(out, "dataset.json")))

    def refused_source(self, content, says, target=None):
        source = self.file("source", content)
        target = self.file("target", self.SENTENCES if target is None else target)
        self.refused("--source", source, "--target", target, says=["source", *says])

    def test_lines_without_partner(self):
        self.refused_source(self.SENTENCES + b"a\nb\n", ["40", "42", "line 41"])
        self.refused_source(self.SENTENCES[:-1].rsplit(b"\n", 1)[0], ["39", "40", "line 40"])

    def test_missing_and_empty(self):
        target = self.file("target", self.SENTENCES)
        self.refused("--source", self.path("nowhere"), "--target", target, says=["nowhere"])
        self.refused("--tsv", self.path("nowhere"), says=["nowhere"])
        self.refused("--source", self.folder, "--target", target, says=[self.folder])
        self.refused_source(b"", ["empty"])
        self.refused_source(gzip.compress(b""), ["empty"])

    def test_invalid_utf8(self):
        self.refused_source(self.SENTENCES + b"b\xff\n", ["line 41", "UTF-8"],
                            target=self.SENTENCES + b"b\n")

    def test_gzip(self):
        packed = gzip.compress(self.SENTENCES)
        for size in (5, len(packed) // 2, len(packed) - 4):
            self.refused_source(packed[:size], ["truncated"])
        self.refused_source(packed[:-8] + bytes(4) + packed[-4:], ["damaged"])
        text = self.file("text", packed[:-4])
        self.refused("--text", text, says=["text", "truncated"])

    def test_tabs(self):
        for line in (b"no tab", b"a\tb\tc"):
            path = self.file("rows", b"a\tb\nc\td\n" + line + b"\n")
            self.refused("--tsv", path, says=["rows", "line 3", "tab"])

    def test_nothing_left(self):
        source = self.file("source", self.SENTENCES)
        self.refused("--source", self.file("blank", b"\n" * 40), "--target", source,
                     says=["train", "40 had an empty side"])
        self.refused("--source", source, "--target", source, "--max-length", "1",
                     says=["train", "40 were longer than 1 tokens"])

    def test_options_that_do_not_fit(self):
        path = self.file("source", self.SENTENCES)
        self.refused("--source", path, says=["1 source", "0 target"])
        self.refused("--target", path, says=["0 source", "1 target"])
        self.refused("--text", path, "--source", path, "--target", path, says=["--text"])
        self.refused("--source", path, "--target", path, "--valid-target", path, says=["valid"])
        self.refused("--source", path, "--target", path, "--source-tokenizer", path,
                     says=["--joint-vocabulary"])

    def test_left_out_pairs_are_counted(self):
        """A line of 150,000 characters and an empty one cost those pairs only."""
        source = self.file("source", self.SENTENCES + b"Haus " * 30000 + b"\n\n")
        target = self.file("target", self.SENTENCES + b"Haus\nHaus\n")
        out = self.path("pairs")
        arguments = ["--source", source, "--target", target, "--vocab-size", "300", "--out", out]
        made = ok_json("prepare", *arguments)["splits"]["train"]
        self.assertEqual(made["documents"], 40)
        self.assertEqual(made["dropped"], {"empty": 1, "long": 1, "ratio": 0})
        saved = harness.read_json(os.path.join(out, "dataset.json"))["splits"]["train"]
        self.assertEqual((saved["documents"], saved["dropped_empty"], saved["dropped_long"]),
                         (40, 1, 1))
        text = ok("prepare", *arguments, "--overwrite")
        self.assertIn("1 with an empty side, 1 too long", text)


class BadData(harness.Case):
    def damaged(self):
        copy = self.path("damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.data, copy)
        return copy

    def assert_refused(self, data, *says):
        self.assert_fails("train", "--data", data, "--out", self.path("run"), *WORK, *MODEL,
                          "--steps", "2", says=says)

    def test_checksum(self):
        data = self.damaged()
        shard = os.path.join(data, "train-00000-of-00002.h5")
        # A byte inside /tokens, found by its text: the letters lie as 16-bit numbers.
        with open(shard, "rb") as file:
            position = file.read().find("formula".encode("utf-16-le"))
        self.assertGreater(position, 0)
        flip_byte(shard, position)
        self.assert_refused(data, "train-00000-of-00002.h5")

    def test_truncated_shard(self):
        data = self.damaged()
        shard = os.path.join(data, "train-00001-of-00002.h5")
        os.truncate(shard, os.path.getsize(shard) - 1)
        self.assert_refused(data, "train-00001-of-00002.h5")

    def test_missing_shard(self):
        data = self.damaged()
        os.remove(os.path.join(data, "train-00001-of-00002.h5"))
        self.assert_refused(data, "train-00001-of-00002.h5")

    def test_tokenizer(self):
        for size in (300, 310):
            ok("prepare", "--text", self.text["train"], "--vocab-size", size, "--workers", "1",
               "--out", self.path(f"bpe-{size}"))
        shutil.copy(os.path.join(self.path("bpe-310"), "tokenizer.model"), self.path("bpe-300"))
        self.assert_refused(self.path("bpe-300"), "tokenizer")

    def test_version(self):
        data = self.damaged()
        path = os.path.join(data, "dataset.json")
        info = harness.read_json(path)
        info["version"] = 999
        write(path, json.dumps(info))
        self.assert_refused(data, "999", "version")

    def test_no_dataset(self):
        self.assert_refused(self.path("nowhere"), "nowhere")


class BadModel(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.teacher = os.path.join(cls.folder, "teacher")
        ok("train", "--data", cls.data, "--out", cls.teacher, *WORK, *MODEL, "--steps", "3",
           "--positions", "learned")

    def damaged(self, edit):
        copy = self.path("damaged-model")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(os.path.join(self.teacher, "model"), copy)
        edit_tensors(os.path.join(copy, "model.safetensors"), edit)
        return copy

    def test_missing_tensor(self):
        names = []
        model = self.damaged(lambda header: (names.append(sorted(k for k in header if "attn" in k)[0]),
                                             header.pop(names[0])))
        self.assert_fails("generate", "--model", model, "--prompt", "a", says=[names[0]])

    def test_misshapen_tensor(self):
        names = []

        def edit(header):
            name = sorted(k for k in header if k.endswith("weight") and "attn" in k)[0]
            names.append(name)
            header[name]["shape"] = header[name]["shape"][::-1] + [1]

        model = self.damaged(edit)
        self.assert_fails("generate", "--model", model, "--prompt", "a", says=[names[0]])

    def test_truncated(self):
        model = self.damaged(lambda header: None)
        path = os.path.join(model, "model.safetensors")
        os.truncate(path, os.path.getsize(path) - 5)
        self.assert_fails("generate", "--model", model, "--prompt", "a",
                          says=["model.safetensors"])

    def test_no_model(self):
        self.assert_fails("generate", "--model", self.path("nowhere"), "--prompt", "a",
                          says=["nowhere"], status=(2,))

    def test_feature_size_0(self):
        self.assert_fails("convert", "--model", self.teacher, "--feature-map", "t2r", "--feature-size",
                          "0", "--out", self.path("swapped"), says=["feature-size"], status=(2,))
        self.assertFalse(os.path.exists(self.path("swapped")))

    def test_beyond_learned_positions(self):
        self.assert_fails("train", "--data", self.data, "--model", self.teacher, "--out",
                          self.path("long"), *WORK, "--steps", "2", "--sequence-length", "33",
                          says=["33", "32"], status=(2,))

    def test_other_vocabulary(self):
        other = self.path("bpe")
        ok("prepare", "--text", self.text["train"], "--vocab-size", "300", "--workers", "1",
           "--out", other)
        self.assert_fails("evaluate", "--model", self.teacher, "--data", other, "--split", "train",
                          "--sequence-length", "32")


class BadRun(harness.Case):
    def arguments(self, name, *more):
        return ["train", "--data", self.data, "--out", self.path(name), *WORK, *MODEL, *more]

    def test_more_ranks_than_work(self):
        self.assert_fails(*self.arguments("ranks", "--steps", "2", "--batch-size", "1"), ranks=2,
                          says=["rank"], status=(2,))

    def test_wrong_dp(self):
        self.assert_fails(*self.arguments("dp", "--steps", "2", "--dp", "3"), status=(2,))

    def test_checkpoint_of_another_model(self):
        ok(*self.arguments("other", "--steps", "2"))
        before = os.listdir(os.path.join(self.path("other"), "checkpoints"))
        self.assert_fails(*self.arguments("other", "--steps", "4", "--layers", "1"),
                          says=["model"])
        self.assertEqual(os.listdir(os.path.join(self.path("other"), "checkpoints")), before)
        ok(*self.arguments("other", "--steps", "4"))

    def test_full_disk_during_a_checkpoint(self):
        arguments = self.arguments("full", "--steps", "6", "--checkpoint-every", "3")
        # The first checkpoint fits; then the largest file that may be written shrinks.
        ok(*self.arguments("full", "--steps", "3"))
        kept = os.path.join(self.path("full"), "checkpoints", "step_00000003")
        sizes = [os.path.getsize(os.path.join(kept, name)) for name in os.listdir(kept)]
        self.assert_fails(*arguments, status=(1,),
                          preexec_fn=harness.largest_file(max(sizes) // 2))
        self.assertEqual(os.listdir(os.path.dirname(kept)), ["step_00000003"])
        ok(*arguments)
        self.assertEqual(len(harness.metrics(self.path("full"))), 6)

    def test_non_finite_loss(self):
        arguments = self.arguments("diverged", "--steps", "40", "--learning-rate", "1e12",
                                   "--schedule", "constant", "--warmup", "0", "--clip", "0")
        self.assert_fails(*arguments, says=["finite"], status=(1,))

    def test_how_long(self):
        self.assert_fails(*self.arguments("long"), says=["--steps", "--tokens"], status=(2,))
        self.assert_fails(*self.arguments("long", "--steps", "1", "--tokens", "1"), status=(2,))

    def test_single_process_commands(self):
        self.assert_fails("generate", "--model", "x", "--prompt", "a", ranks=2,
                          says=["generate", "2"], status=(2,))

    def test_report_of_no_run(self):
        self.assert_fails("report", self.data, "--out", self.path("report"), says=["summary.json"])


if __name__ == "__main__":
    harness.main()
