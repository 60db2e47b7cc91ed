"""What the end-to-end tests share: running t2r alone or under mpirun, tiny texts and models."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
T2R = os.environ.get("T2R", os.path.join(SOURCE, "build", "bin", "t2r"))

# A model and a batch that train in a second.
MODEL = ["--layers", "2", "--hidden-size", "32", "--heads", "2", "--ffn-size", "64",
         "--positions", "sinusoidal"]
WORK = ["--sequence-length", "32", "--batch-size", "8", "--learning-rate", "3e-3", "--threads", "1"]


def environment():
    env = dict(os.environ)
    env.update(OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="true",
               OMPI_MCA_hwloc_base_binding_policy="none",
               OMPI_MCA_mpi_yield_when_idle="1")  # waiting ranks leave a busy processor to others
    return env


def largest_file(limit):
    """For preexec_fn: writes past `limit` bytes of a file fail, as on a full disk."""
    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return apply


def command(*arguments, ranks=1):
    words = [T2R] + [str(a) for a in arguments]
    return words if ranks == 1 else ["mpirun", "-np", str(ranks)] + words


def run(*arguments, ranks=1, timeout=120, preexec_fn=None):
    return subprocess.run(command(*arguments, ranks=ranks), env=environment(), timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace",  # a byte model may draw half a character
                          preexec_fn=preexec_fn)


def ok(*arguments, **options):
    """Runs t2r, which must succeed; returns what it printed."""
    done = run(*arguments, **options)
    if done.returncode != 0:
        raise AssertionError(f"t2r {' '.join(map(str, arguments))}: exit status {done.returncode}\n"
                             f"{done.stdout}\n{done.stderr}")
    return done.stdout


def ok_json(*arguments, **options):
    return json.loads(ok(*arguments, "--json", **options))


def write(path, text, mode="w"):
    with open(path, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
        file.write(text)
    return path


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def metrics(run_folder):
    with open(os.path.join(run_folder, "metrics.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def documents(count, seed):
    """Documents of a small grammar: something to learn within a few updates."""
    rng = random.Random(seed)
    words = ["the", "cell", "range", "sheet", "opens", "holds", "a", "value", "and", "formula"]
    return "\n\n".join(
        "\n".join(" ".join(rng.choice(words) for _ in range(rng.randint(3, 12))) + "."
                  for _ in range(rng.randint(1, 5))) for _ in range(count)) + "\n"


class Case(unittest.TestCase):
    """A test in a folder of its own, which goes when it passed; the dataset is made once a class."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="t2r-test-")
        cls.failed = False
        cls.text = {split: write(os.path.join(cls.folder, split + ".txt"), documents(count, seed))
                    for seed, (split, count) in enumerate([("train", 120), ("valid", 8), ("test", 8)])}
        cls.data = os.path.join(cls.folder, "dataset")
        ok("prepare", "--text", cls.text["train"], "--valid", cls.text["valid"], "--test",
           cls.text["test"], "--tokenizer", "bytes", "--shards", "2", "--workers", "1", "--out",
           cls.data)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def train(self, name, *arguments, ranks=1, **options):
        ok("train", "--data", self.data, "--out", self.path(name), *WORK, *arguments, ranks=ranks,
           **options)
        return self.path(name)

    def assert_fails(self, *arguments, says=(), status=(1, 2), **options):
        """t2r ends with one sentence that names each of `says`. Returns it."""
        done = run(*arguments, **options)
        sentences = [line for line in done.stderr.splitlines() if line.startswith("t2r: ")]
        self.assertIn(done.returncode, status, done.stderr)
        self.assertEqual(len(sentences), 1, f"one sentence expected:\n{done.stderr}")
        self.assertNotIn("terminate called", done.stderr)
        self.assertEqual(done.stdout, "")
        for word in says:
            self.assertIn(word, sentences[0])
        return sentences[0]


def main():
    unittest.main(verbosity=2, argv=sys.argv)
