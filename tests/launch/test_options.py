"""The options of every command, frozen; help, configuration files, and what is said about slips."""

import os
import re
import unittest

import harness
from harness import MODEL, WORK, ok, run, write

COMMANDS = ["prepare", "train", "import", "convert", "evaluate", "generate", "translate", "average", "export", "report", "doctor"]
FROZEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "options.txt")


def options_of(name):
    """Flags at the start of a line of the help; descriptions may name others."""
    return sorted(set(re.findall(r"^ +(?:-\w,|\w+,)?(--[a-z0-9-]+)", ok(name, "--help"), re.M)))


class Options(harness.Case):
    def test_frozen(self):
        """Whoever adds, renames or removes an option changes options.txt with it."""
        now = "".join(f"{name} {option}\n" for name in COMMANDS for option in options_of(name))
        with open(FROZEN, encoding="utf-8") as file:
            self.assertEqual(now, file.read())

    def test_help(self):
        text = ok("--help")
        for name in COMMANDS:
            self.assertIn(f"  {name} ", text)
        self.assertRegex(ok("--version"), r"^t2r \d+\.\d+\.\d+ \(.+\)\n$")

    def test_slips(self):
        for arguments, near in [
                (["trian"], "train"),
                (["train", "--learning-rat", "1"], "--learning-rate"),
                (["train", "--sequence_length=8"], "--sequence-length"),
                (["convert", "--feature-maps", "t2r"], "--feature-map"),
                (["report", "--base-line", "x"], "--baseline")]:
            sentence = self.assert_fails(*arguments, says=[near], status=(2,))
            self.assertIn("did you mean", sentence)
        for arguments in [[], ["xyzzyx"], ["train"], ["train", "--xyzzyx"], ["train", "stray"],
                          ["train", "--data", "x", "--out", "y", "--layers", "many"],
                          ["train", "--config", "/nonexistent.toml"],
                          ["convert", "--model", "x", "--out", "y", "--seed"]]:
            self.assert_fails(*arguments, status=(2,))

    def test_unknown_key(self):
        config = write(self.path("bad.toml"), 'layers = 2\nlerning-rate = 1e-3\n')
        self.assert_fails("train", "--config", config, "--data", self.data, "--out",
                          self.path("never"), "--steps", "1",
                          says=["lerning-rate", "learning-rate", "bad.toml"], status=(2,))
        self.assertFalse(os.path.exists(self.path("never")))

    def test_unknown_choices(self):
        for flag, value in [("--family", "bert"), ("--positions", "none"), ("--norm", "x"),
                            ("--activation", "x"), ("--schedule", "x"), ("--packing", "x"),
                            ("--precision", "fp8"), ("--device", "tpu"), ("--resume", "x"),
                            ("--decay", "x"), ("--keep-softmax", "9"), ("--feature-map", "x")]:
            sentence = self.assert_fails("train", "--data", self.data, "--out", self.path("never"),
                                         *WORK, *MODEL, "--steps", "1", "--feature-map", "t2r",
                                         flag, value, status=(2,))
            self.assertIn(value, sentence)

    def test_configuration_goes_round(self):
        """RUN/config.toml, passed back, makes the same run; a flag wins over it."""
        first = self.train("first", *MODEL, "--layers", "3", "--steps", "4", "--feature-map", "t2r",
                           "--keep-softmax", "0,2", "--feature-size", "4", "--tied", "false",
                           "--dropout", "0.1", "--check-collectives")
        config = os.path.join(first, "config.toml")
        with open(config, encoding="utf-8") as file:
            text = file.read()
        for line in ["steps = 4", "hidden-size = 32", 'keep-softmax = "0,2"', "layers = 3", "tied = false",
                     "check-collectives = true", 'positions = "sinusoidal"']:
            self.assertIn(line + "\n", text)
        ok("train", "--config", config, "--out", self.path("second"))
        ok("train", "--config", config, "--out", self.path("third"), "--seed", "2")
        losses = [[line["loss"] for line in harness.metrics(self.path(name))]
                  for name in ("first", "second", "third")]
        self.assertEqual(losses[0], losses[1])
        self.assertNotEqual(losses[0], losses[2])
        with open(os.path.join(self.path("second"), "config.toml"), encoding="utf-8") as file:
            self.assertEqual(file.read().replace("second", "first"), text)

    def test_doctor(self):
        for ranks in (1, 2):
            result = harness.ok_json("doctor", "--write-mib", "1", ranks=ranks)
            self.assertEqual(len(result["ranks"]), ranks)
            self.assertGreater(result["ranks"][0]["gemm_gflops"]["fp32"], 0)
            self.assertEqual([c["ranks"] for c in result["communicators"]], [ranks, ranks])
            self.assertTrue(all(c["checked"] for c in result["communicators"]))
            self.assertIn("mpi", result["libraries"])
        text = ok("doctor", "--write-mib", "1")
        self.assertIn("communicator", text)


if __name__ == "__main__":
    harness.main()
