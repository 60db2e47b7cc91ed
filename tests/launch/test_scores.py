"""t2r evaluate --hypotheses: the scores of translations, and what is said about files that do not
fit."""

import os

import harness
from harness import ok, ok_json, write

SCORES = os.path.join(harness.SOURCE, "tests", "golden", "scores")


class Scores(harness.Case):
    def files(self, hypotheses, references):
        return ["--hypotheses", write(self.path("hypotheses"), hypotheses, "wb"),
                "--references", write(self.path("references"), references, "wb")]

    def test_golden(self):
        rows = harness.read_json(os.path.join(SCORES, "expected.json"))["scores"]
        for row in [r for r in rows if r["set"] in ("zh", "odd")]:
            flags = ["--tokenize", row["tokenize"]] + ["--lowercase"] * row["lowercase"]
            flags += ["--compound-split"] * row["compound_split"]
            result = ok_json("evaluate", "--hypotheses", os.path.join(SCORES, row["set"] + ".hyp"),
                             "--references", os.path.join(SCORES, row["set"] + ".ref"), *flags)
            self.assertEqual(list(result), ["bleu", "chrf", "signature", "chrf_signature", "sentences",
                                            "character_error_rate", "exact_match", "precisions",
                                            "brevity_penalty"])
            for key in ("bleu", "chrf", "brevity_penalty"):
                self.assertAlmostEqual(result[key], row[key], places=9)
            for got, expected in zip(result["precisions"], row["precisions"]):
                self.assertAlmostEqual(got, expected, places=9)
            for key in ("signature", "chrf_signature"):
                self.assertEqual(result[key], row[key])
            self.assertEqual(result["sentences"], 20 if row["set"] == "zh" else 18)

    def test_text(self):
        text = ok("evaluate", *self.files(b"a v w x y\n", b"a b c d e"))
        self.assertEqual(text.splitlines(), [
            "BLEU 10.68: precisions 20.0/12.5/8.3/6.2, brevity penalty 1.000, 5 tokens against 5, 1 "
            "sentences (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:t2r)",
            "chrF 4.00 (nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:t2r)",
            "character error rate 44.44 %, 0.00 % of the sentences without an error"])

    def test_lines_end_at_line_feeds_only(self):
        files = self.files(b"one two three four\r\nfive\x0csix\xc2\x85seven\r\n",
                           b"one two three four\nfive six seven\n")
        self.assertEqual(ok_json("evaluate", *files)["sentences"], 2)
        self.assertAlmostEqual(ok_json("evaluate", *files)["bleu"], 100)

    def refused(self, *arguments, says=(), status=(2,)):
        self.assert_fails("evaluate", *arguments, says=says, status=status)

    def test_bad_files(self):
        self.refused(*self.files(b"a\nb\n", b"a\nb\nc\n"), says=["2 lines", "3", "references"])
        self.refused(*self.files(b"", b""), says=["no sentences"])
        self.refused(*self.files(b"a\nb\xff\n", b"a\nb\n"), says=["line 2", "hypotheses", "UTF-8", "FF"])
        files = self.files(b"a\n", b"a\n")
        os.remove(self.path("references"))
        self.refused(*files, says=["references", "No such file"], status=(1, 2))
        self.refused("--hypotheses", self.folder, "--references", self.folder, says=[self.folder],
                     status=(1, 2))

    def test_flags_that_do_not_fit(self):
        files = self.files(b"a\n", b"a\n")
        self.refused(says=["--model", "--hypotheses"])
        self.refused(*files[:2], says=["--references"])
        self.refused(*files[2:], says=["--hypotheses"])
        self.refused(*files, "--model", "x", says=["--model"])
        self.refused(*files, "--tokenize", "14a", says=["14a", "intl"])
        self.refused(*files, "--compound-split", "--tokenize", "zh", says=["zh", "13a"])
        self.refused("--model", "x", "--data", "y", "--lowercase", says=["--lowercase"])
        self.refused("--model", "x", "--data", "y", "--compound-split", says=["--compound-split"])
        self.assert_fails("evaluate", *files, ranks=2, says=["evaluate --hypotheses"], status=(2,))


if __name__ == "__main__":
    harness.main()
