"""Ranks that hold a model together: the same losses, models and texts on every mesh."""

import harness
from harness import MODEL, WORK, metrics, ok, ok_json, read_json


class Mesh(harness.Case):
    def losses(self, run):
        return [line["loss"] for line in metrics(self.path(run))]

    def assert_same(self, run, other):
        mine, theirs = self.losses(run), self.losses(other)
        self.assertEqual(len(mine), len(theirs))
        for a, b in zip(mine, theirs):
            self.assertAlmostEqual(a, b, delta=1e-10)

    def test_training_and_what_follows(self):
        def options(steps):
            return [*MODEL, "--precision", "fp64", "--dropout", "0.1", "--feature-map", "t2r",
                    "--feature-size", "8", "--schedule", "constant", "--steps", steps]

        self.train("one", *options(6))
        self.train("parts", *options(6), "--tp", "2", ranks=4)
        self.assert_same("parts", "one")
        # Started in parts, gone on whole, and the reverse.
        self.train("mixed", *options(3), "--tp", "2", ranks=2)
        self.train("mixed", *options(6))
        self.assert_same("mixed", "one")
        self.train("other", *options(3))
        self.train("other", *options(6), "--tp", "2", "--dp", "1", ranks=2)
        self.assert_same("other", "one")

        evaluate = ["evaluate", "--data", self.data, "--model", self.path("one"), "--precision", "fp64"]
        loss = ok_json(*evaluate)["loss"]
        self.assertAlmostEqual(ok_json(*evaluate, "--tp", "2", ranks=4)["loss"], loss, delta=1e-10)
        generate = ["generate", "--model", self.path("one"), "--prompt", "the ", "a ", "--max-tokens",
                    "20", "--precision", "fp64", "--temperature", "0.9"]
        self.assertEqual(ok(*generate, "--tp", "2", ranks=2), ok(*generate))

    def test_tokens_shared_out(self):
        options = [*MODEL, "--precision", "fp64", "--dropout", "0.1", "--feature-map", "t2r",
                   "--feature-size", "8", "--keep-softmax", "0", "--decay", "learned", "--schedule",
                   "constant", "--steps"]
        self.train("alone", *options, "6")
        self.train("shared", *options, "6", "--cp", "2", ranks=2)
        self.assert_same("shared", "alone")
        summary = read_json(self.path("shared") + "/summary.json")
        self.assertEqual(summary["mesh"], {"dp": 1, "cp": 2, "tp": 1})
        self.train("both", *options, "3", "--cp", "2", "--tp", "2", ranks=4)
        self.train("both", *options, "6")
        self.assert_same("both", "alone")

        evaluate = ["evaluate", "--data", self.data, "--model", self.path("alone"), "--precision", "fp64"]
        self.assertAlmostEqual(ok_json(*evaluate, "--cp", "2", ranks=4)["loss"],
                               ok_json(*evaluate)["loss"], delta=1e-10)

    def test_equivalence(self):
        # Five language models on every mesh, a translation model on those without cp; each plain and
        # saving memory.
        for ranks, meshes, without_cp in ((1, 12, 6), (2, 6, 4), (4, 12, 6)):
            rows = ok_json("doctor", "--equivalence", ranks=ranks)
            self.assertEqual(len(rows), 5 * meshes + without_cp)
            self.assertEqual({row["cp"] for row in rows}, {1, 2} if ranks == 2 else {1, 2, 4})
            for row in rows:
                self.assertLessEqual(max(row["loss_difference"], row["parameter_difference"]), 1e-10)

    def test_meshes_that_cannot_be(self):
        run = ["train", "--data", self.data, "--out", self.path("x"), *WORK, *MODEL, "--steps", "1"]
        self.assert_fails(*run, "--tp", "3", ranks=3, says=["2 attention heads", "3"])
        self.assert_fails(*run, "--tp", "3", ranks=2, says=["3 ranks", "2"])
        self.assert_fails(*run, "--tp", "0", says=["at least 1"])
        self.assert_fails(*run, "--cp", "3", ranks=2, says=["3 ranks", "2"])
        self.assert_fails(*run, "--cp", "0", says=["at least 1"])
        self.train("lm", *MODEL, "--steps", "1")
        self.assert_fails("generate", "--model", self.path("lm"), "--prompt", "x", "--tp", "2", ranks=4,
                          says=["--tp"])


if __name__ == "__main__":
    harness.main()
