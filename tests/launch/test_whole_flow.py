"""prepare, train, convert, train, evaluate, generate, report: with 1 rank, and the same numbers with 2."""

import html.parser
import os
import re

import harness
from harness import MODEL, ok, ok_json, read_json


class WholeFlow(harness.Case):
    def pretrain_and_finetune(self, prefix, ranks):
        teacher = self.train(prefix + "teacher", *MODEL, "--max-positions", "128", "--steps", "24",
                             "--eval-every", "8", ranks=ranks)
        swapped = self.path(prefix + "swapped")
        ok("convert", "--model", teacher, "--feature-map", "t2r", "--feature-size", "8", "--out",
           swapped)
        finetuned = self.train(prefix + "finetuned", "--model", swapped, "--steps", "8",
                               ranks=ranks)
        scratch = self.train(prefix + "scratch", *MODEL, "--feature-map", "t2r", "--feature-size",
                             "8", "--max-positions", "128", "--steps", "24", ranks=ranks)
        return teacher, finetuned, scratch

    def test_flow(self):
        alone = self.pretrain_and_finetune("alone-", 1)
        lines = harness.metrics(alone[0])
        self.assertEqual([line["step"] for line in lines], list(range(1, 25)))
        self.assertLess(lines[-1]["loss"], 0.8 * lines[0]["loss"])

        summary = read_json(os.path.join(alone[1], "summary.json"))
        self.assertEqual(summary["start"], "converted")
        self.assertEqual(read_json(os.path.join(alone[0], "summary.json"))["start"], "scratch")

        # Other ranks, the same updates: equal to the digits that are printed for a person.
        for one, two in zip(alone, self.pretrain_and_finetune("two-", 2)):
            for a, b in zip(harness.metrics(one), harness.metrics(two)):
                self.assertEqual(a["tokens"], b["tokens"])
                self.assertEqual(f"{a['learning_rate']:.9g}", f"{b['learning_rate']:.9g}")
                self.assertAlmostEqual(a['loss'], b['loss'], delta=5e-5)

        # evaluate: the run's own figure again, from the model on disk, with 1 and with 2 ranks.
        arguments = ["evaluate", "--model", alone[1], "--data", self.data, "--split", "valid",
                     "--sequence-length", "32"]
        result = ok_json(*arguments)
        self.assertEqual(sorted(result), ["loss", "perplexity_per_token", "perplexity_per_word",
                                          "tokens", "words"])
        self.assertAlmostEqual(result["loss"], summary["loss"], delta=1e-6)
        self.assertAlmostEqual(ok_json(*arguments, ranks=2)["loss"], result["loss"], delta=1e-6)

        self.check_generate(alone[1])
        self.check_token_ids(alone[1])
        self.check_report(*alone)

    def check_generate(self, model):
        arguments = ["generate", "--model", model, "--max-tokens", "12", "--ignore-end"]
        text = ok(*arguments, "--prompt", "the cell")
        self.assertTrue(text.startswith("the cell"))
        several = ok_json(*arguments, "--prompt", "the cell", "a")
        self.assertEqual([s["tokens"] for s in several["sequences"]], [12, 12])
        self.assertEqual("the cell" + several["sequences"][0]["text"] + "\n", text)
        self.assertGreater(several["tokens_per_second"], 0)
        self.assertGreater(several["state_bytes"], 0)
        drawn = [ok(*arguments, "--prompt", "a", "--temperature", "1", "--seed", str(seed))
                 for seed in (1, 1, 2)]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def check_token_ids(self, model):
        ids = harness.write(self.path("ids.txt"), "256 116 104 101\n97, 98, 99\n")
        logits = self.path("logits.h5")
        result = ok_json("evaluate", "--model", model, "--token-ids", ids, "--save-logits", logits)
        self.assertEqual(result["tokens"], 5)
        self.assertIsNone(result["words"])
        with open(logits, "rb") as file:
            self.assertEqual(file.read(4), b"\x89HDF")

    def check_report(self, teacher, finetuned, scratch):
        out = self.path("report")
        table = ok("report", teacher, finetuned, scratch, "--out", out, "--decoding-lengths",
                   "8,32", "--decoding-seconds", "0.05")
        self.assertIn("alone-finetuned", table)
        report = read_json(os.path.join(out, "report.json"))
        names = [run["name"] for run in report["runs"]]
        self.assertEqual(names, ["alone-teacher", "alone-finetuned", "alone-scratch"])
        for key in ("name", "attention", "start", "tokens", "flops", "rank_seconds", "cost_share",
                    "loss", "perplexity_per_token", "perplexity_per_word", "bleu"):
            self.assertIn(key, report["runs"][0])
        self.assertEqual(report["baseline"], "alone-scratch")
        self.assertEqual(report["runs"][2]["cost_share"], 1)
        share = report["runs"][1]["flops"] / report["runs"][2]["flops"]
        self.assertAlmostEqual(report["runs"][1]["cost_share"], share, places=12)
        self.assertAlmostEqual(share, 8 / 24, delta=0.03)
        self.assertEqual(len(report["decoding"]), 6)
        self.assertEqual(set(report["decoding"][0]),
                         {"name", "length", "tokens_per_second", "state_bytes"})
        states = {(d["name"], d["length"]): d["state_bytes"] for d in report["decoding"]}
        self.assertEqual(states["alone-finetuned", 8], states["alone-finetuned", 32])
        self.assertLess(states["alone-teacher", 8], states["alone-teacher", 32])
        with open(os.path.join(out, "report.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertEqual(page.count("<svg"), 4)
        self.assertIsNone(re.search(r"(src|href)=", page), "the page must not load anything")
        self.assertNotIn("nan", page.lower().replace("finance", ""))
        check = TagBalance()
        check.feed(page)
        self.assertEqual(check.open, [])


class TagBalance(html.parser.HTMLParser):
    """Every element that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


if __name__ == "__main__":
    harness.main()
