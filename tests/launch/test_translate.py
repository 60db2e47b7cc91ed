"""From two text files to a translating recurrent network: prepare, train, convert, train, average,
translate, evaluate."""

import gzip
import json
import os
import random
import subprocess

import harness
from harness import command, environment, ok, ok_json, write

WORDS = {"the": "das", "cell": "Feld", "range": "Bereich", "sheet": "Blatt", "opens": "öffnet",
         "holds": "hält", "a": "ein", "value": "Wert", "and": "und", "formula": "Formel"}
MODEL = ["--layers", "2", "--hidden-size", "64", "--heads", "2", "--ffn-size", "128",
         "--max-positions", "64"]
WORK = ["--batch-tokens", "500", "--micro-batch-tokens", "600", "--threads", "1", "--eval-every", "100"]


def pairs(count, seed):
    """Sentences whose translation is word by word, the order turned around."""
    rng = random.Random(seed)
    rows = [[rng.choice(list(WORDS)) for _ in range(rng.randint(2, 7))] for _ in range(count)]
    return ("".join(" ".join(row) + "\n" for row in rows),
            "".join(" ".join(WORDS[word] for word in reversed(row)) + "\n" for row in rows))


class Translate(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path = lambda name: os.path.join(cls.folder, name)
        source, target = pairs(1500, 1)
        with gzip.open(path("train.en.gz"), "wb") as file:
            file.write(source.encode())
        write(path("train.de"), target)
        cls.test_source, cls.test_target = pairs(60, 2)
        write(path("test.en"), cls.test_source)
        write(path("test.de"), cls.test_target)
        cls.pairs = path("pairs")
        ok("prepare", "--source", path("train.en.gz"), "--target", path("train.de"),
           "--valid-source", path("test.en"), "--valid-target", path("test.de"),
           "--vocab-size", "300", "--shards", "2", "--out", cls.pairs)
        ok("train", "--data", cls.pairs, "--out", path("teacher"), *MODEL, *WORK, "--steps", "220",
           "--learning-rate", "4e-3", "--checkpoint-every", "20", "--keep", "3", "--layer-drop", "0")
        ok("convert", "--model", path("teacher"), "--out", path("swapped"), "--feature-size", "16",
           "--causal-feature-size", "8")
        ok("train", "--data", cls.pairs, "--model", path("swapped"), "--out", path("student"), *WORK,
           "--steps", "120", "--learning-rate", "2e-3", ranks=2)

    def translate(self, model, text, *flags, ranks=1):
        done = subprocess.run(command("translate", "--model", self.path(model), "--threads", "1",
                                      *flags, ranks=ranks), input=text, env=environment(), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def bleu(self, model, *flags):
        out = self.translate(model, self.test_source, *flags)
        return ok_json("evaluate", "--hypotheses", write(self.path("out"), out), "--references",
                       self.path("test.de"))["bleu"]

    def test_quality(self):
        teacher, student = self.bleu("teacher"), self.bleu("student")
        with gzip.open(self.path("references.gz"), "wb") as file:
            file.write(self.test_target.encode())
        self.assertEqual(ok_json("evaluate", "--hypotheses", self.path("out"), "--references",
                                 self.path("references.gz"))["bleu"], student)
        self.assertGreater(teacher, 60)
        self.assertGreater(student, 60)
        for run in ("teacher", "student"):
            last = harness.metrics(self.path(run))[-1]
            self.assertLess(last["loss"], 1.0)
        config = harness.read_json(self.path("student/model/config.json"))
        self.assertEqual(config["model_type"], "t2r_encoder_decoder")
        self.assertEqual(config["t2r"]["causal_feature_size"], 8)
        scores = ok_json("evaluate", "--model", self.path("student"), "--source",
                         self.path("test.en"), "--references", self.path("test.de"), "--output",
                         self.path("evaluated"), ranks=2)
        self.assertEqual(scores["bleu"], student)
        self.assertGreater(scores["exact_match"], 30)
        self.assertLess(scores["character_error_rate"], 40)
        with open(self.path("evaluated"), encoding="utf-8") as file:
            self.assertEqual(file.read(), self.translate("student", self.test_source))
        write(self.path("student/scores.json"), json.dumps(scores))
        report = ok("report", self.path("teacher"), self.path("student"), "--out",
                    self.path("report"))
        self.assertIn(f"{student:.2f}", report)
        runs = harness.read_json(self.path("report/report.json"))["runs"]
        self.assertEqual([run["bleu"] for run in runs], [None, student])
        ok("average", "--run", self.path("teacher"), "--last", "3", "--out", self.path("mean"))
        self.assertGreater(self.bleu("mean"), 60)
        loss = ok_json("evaluate", "--model", self.path("student"), "--data", self.pairs)["loss"]
        self.assertLess(loss, 1.0)

    def test_order_ranks_and_batches(self):
        """The same translations, in order, whatever is decoded together."""
        text = "the cell\n\n \u3000 \nholds a value\r\n" + self.test_source
        whole = self.translate("student", text)
        lines = whole.split("\n")
        self.assertEqual(len(lines), text.count("\n") + 1)
        self.assertEqual(lines[1:3], ["", ""])
        self.assertNotEqual(lines[3], "")
        for flags in (["--batch-tokens", "1"], ["--buffer-lines", "1"], ["--batch-tokens", "50"]):
            self.assertEqual(self.translate("student", text, *flags), whole)
        write(self.path("in"), text)
        with gzip.open(self.path("in.gz"), "wb") as file:
            file.write(text.encode())
        self.assertEqual(ok("translate", "--model", self.path("student"), "--input",
                            self.path("in.gz"), "--threads", "1"), whole)
        for ranks, tp in ((1, 1), (2, 1), (3, 1), (4, 2)):
            out = self.path(f"out-{ranks}")
            ok("translate", "--model", self.path("student"), "--input", self.path("in"), "--output",
               out, "--threads", "1", "--batch-tokens", "40", "--tp", tp, ranks=ranks)
            with open(out, encoding="utf-8", newline="") as file:
                self.assertEqual(file.read(), whole)

    def test_n_best_and_draws(self):
        rows = self.translate("student", "the cell\n", "--n-best", "3", "--scores").splitlines()
        scores = [float(row.split("\t")[0]) for row in rows]
        self.assertEqual(len(rows), 3)
        self.assertEqual(scores, sorted(scores, reverse=True))
        draw = lambda seed, *flags: self.translate("student", self.test_source, "--temperature", "3",
                                                   "--seed", str(seed), *flags)
        self.assertEqual(draw(1, "--batch-tokens", "1", "--buffer-lines", "7"), draw(1))
        self.assertEqual(draw(1), draw(1))
        self.assertNotEqual(draw(1), draw(2))

    def test_bad_input(self):
        model = ["translate", "--model", self.path("student"), "--input"]
        self.assert_fails(*model, write(self.path("bytes"), b"fine\n\xff\xfe\n", "wb"),
                          says=["line 2", "UTF-8"], status=(2,))
        self.assert_fails(*model, write(self.path("none"), ""), says=["empty"], status=(2,))
        self.assert_fails(*model, self.path("missing"), says=["missing"], status=(2,))
        self.assert_fails(*model, self.path("missing.gz"), says=["missing.gz"], status=(2,))
        self.assert_fails(*model, self.path("test.en"), "--beam", "1000", says=["beam", "300"])
        self.assert_fails(*model, self.path("test.en"), "--n-best", "9", says=["9"], status=(2,))
        long = write(self.path("long"), "the cell " * 12000 + "\nthe cell\n")
        self.assertEqual(ok(*model, long, "--threads", "1").count("\n"), 2)

        # Models and data of the other kind.
        language_model = self.train("lm", *harness.MODEL, "--steps", "1")
        self.assert_fails("translate", "--model", language_model, "--input", self.path("test.en"),
                          says=["language model"], status=(2,))
        self.assert_fails("generate", "--model", self.path("student"), "--prompt", "x",
                          says=["translat"])
        self.assert_fails("train", "--data", self.data, "--model", self.path("student"), "--out",
                          self.path("x"), "--steps", "1", status=(2,))
        self.assert_fails("train", "--data", self.pairs, "--model", language_model, "--out",
                          self.path("x"), "--steps", "1", status=(2,))
        self.assert_fails("prepare", "--source", self.path("test.en"), "--out", self.path("y"),
                          says=["target"], status=(2,))


if __name__ == "__main__":
    harness.main()
