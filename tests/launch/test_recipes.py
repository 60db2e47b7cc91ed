"""The translation recipes at their tiny scale on real WMT texts; arguments; a stop in between."""

import glob
import os
import signal
import subprocess
import tempfile
import unittest

import harness

EXPERIMENTS = os.path.join(harness.SOURCE, "experiments")
RECIPES = ["wmt14-en-de", "wmt14-en-fr", "wmt17-zh-en"]
ROWS = ["teacher", "t2r-converted", "t2r-scratch-short", "elu-converted", "rfa-converted",
        "t2r-every-2nd-converted", "t2r-scratch"]
SHARED = os.environ.get("T2R_SHARED", os.path.join(harness.SOURCE, os.pardir, "shared"))
TEXTS = os.environ.get("T2R_WMT_DATA", os.path.join(SHARED, "data", "wmt"))


def environment(**more):
    env = harness.environment()
    for name in ("RESULTS", "TOKENS", "PRECISION", "T2R_LAUNCH", "T2R_ARCHIVES"):
        env.pop(name, None)
    env.update(T2R_BUILD=os.path.dirname(os.path.dirname(harness.T2R)), THREADS="1", **more)
    return env


def command(recipe, *arguments):
    return ["bash", os.path.join(EXPERIMENTS, recipe, "run.sh"), *arguments]


def recipe(name, *arguments, **more):
    return subprocess.run(command(name, *arguments), env=environment(**more), timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def table(path):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


class Scripts(unittest.TestCase):
    def test_syntax(self):
        scripts = glob.glob(os.path.join(EXPERIMENTS, "*.sh")) + glob.glob(
            os.path.join(EXPERIMENTS, "*.sbatch")) + glob.glob(
                os.path.join(EXPERIMENTS, "*", "run.sh"))
        self.assertGreaterEqual(len(scripts), 8)
        for script in scripts:
            done = subprocess.run(["bash", "-n", script], stderr=subprocess.PIPE, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), script)

    def test_arguments(self):
        bad = {name: [[], ["--scale"], ["--scale", "huge"], ["--scale", "tiny"], ["--fast", "out"],
                      ["--scale", "tiny", "/no/such/folder"], ["one", "two"]] for name in RECIPES}
        bad["multi30k-en-de"] = [["--fast"], ["one", "two", "three"]]
        bad["lohelp-zh-en"] = [["--fast"], ["one", "two", "three"]]
        for name, calls in bad.items():
            for arguments in calls:
                done = recipe(name, *arguments)
                self.assertEqual(done.returncode, 2, f"{name} {arguments}\n{done.stderr}")
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            done = recipe(name, "--help")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"experiments/{name}/run.sh", done.stdout)
            self.assertNotIn("#", done.stdout)


@unittest.skipUnless(os.path.isdir(TEXTS), f"{TEXTS} is missing: T2R_WMT_DATA names another place")
class TinyScale(harness.Case):
    @classmethod
    def setUpClass(cls):  # no dataset of its own
        cls.folder = tempfile.mkdtemp(prefix="t2r-test-")

    def tiny(self, name, **more):
        return recipe(name, "--scale", "tiny", TEXTS, self.path(name), **more)

    def check(self, name, **more):
        done = self.tiny(name, **more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        results = self.path(os.path.join(name, "results.tsv"))
        header, *lines = table(results)
        self.assertEqual([line[0] for line in lines], ROWS)
        for line in lines:
            self.assertEqual(len(line), len(header), line)
        share = {line[0]: line[header.index("share")] for line in lines}
        self.assertEqual(share["teacher"], "100.0%")
        self.assertEqual("test BLEU, compounds split" in header, name == "wmt14-en-de")
        for row in ROWS:
            for file in ("averaged/config.json", "test.out", "scores.json"):
                self.assertTrue(os.path.exists(self.path(os.path.join(name, row, file))), file)
        self.assertFalse(os.path.exists(self.path(os.path.join(name, "archives"))))
        again = self.tiny(name, **more)
        self.assertEqual((again.returncode, again.stdout, again.stderr), (0, "", ""))
        self.assertEqual(table(results), [header, *lines])
        return lines

    def test_english_german(self):
        self.check("wmt14-en-de")

    def test_english_french_on_two_ranks(self):
        self.check("wmt14-en-fr", T2R_LAUNCH="mpirun -np 2")

    def test_stopped_chinese_english_goes_on(self):
        name = "wmt17-zh-en"
        script = subprocess.Popen(command(name, "--scale", "tiny", TEXTS, self.path(name)),
                                  env=environment(), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        try:
            for line in script.stderr:  # the first training of a converted model
                if line.startswith("run t2r-converted"):
                    break
            script.send_signal(signal.SIGUSR1)
            _, rest = script.communicate(timeout=60)
        finally:
            script.kill()
        self.assertEqual(script.returncode, 75, rest)
        self.assertEqual(len(table(self.path(os.path.join(name, "results.tsv")))), 2)
        self.check(name)


if __name__ == "__main__":
    harness.main()
