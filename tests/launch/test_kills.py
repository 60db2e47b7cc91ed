"""Random ranks of a run are killed at random moments, and the same command is started again until it
is done: the run equals one that nobody disturbed, bit for bit.

T2R_KILLS: how many (3). T2R_SEED: which moments and ranks (1). tests/launch/soak_kills.sh does more.
"""

import os
import random
import signal
import subprocess
import time

import harness
from harness import MODEL, WORK
from test_faults import ranks_below

KILLS, SEED = int(os.environ.get("T2R_KILLS", "3")), int(os.environ.get("T2R_SEED", "1"))
STEPS = int(os.environ.get("T2R_STEPS", "400"))
RANKS = 4


def curve(run):
    """What metrics.jsonl says of each update, the last word where it says several."""
    return [{key: line[key] for key in ("step", "tokens", "loss", "learning_rate", "grad_norm")}
            for line in {line["step"]: line for line in harness.metrics(run)}.values()]


class Kills(harness.Case):
    def command(self, name):
        return harness.command("train", "--data", self.data, "--out", self.path(name), *WORK, *MODEL,
                               "--dropout", "0.1", "--tp", "2", "--steps", STEPS,
                               "--checkpoint-every", "20", "--resume", "auto", ranks=RANKS)

    def test_kills(self):
        done = subprocess.run(self.command("whole"), env=harness.environment(), timeout=120,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        rng, killed, starts = random.Random(SEED), [], 0
        while True:
            starts += 1
            self.assertLess(starts, 3 * KILLS + 3, "no progress")
            with open(self.path("errors"), "w", encoding="utf-8") as errors:
                job = subprocess.Popen(self.command("killed"), env=harness.environment(),
                                       stdout=subprocess.DEVNULL, stderr=errors)
            try:
                if len(killed) < KILLS:
                    killed += self.kill_one(job, rng)
                status = job.wait(timeout=120)
            finally:
                if job.poll() is None:
                    job.kill()
                    job.wait()
            with open(self.path("errors"), encoding="utf-8") as errors:
                said = errors.read()
            if status == 0:
                break
            self.assertEqual(status, 128 + signal.SIGKILL, said)
        print(f"(seed {SEED}: killed {', '.join(killed)}; {starts} starts) ", end="", flush=True)
        self.assertGreaterEqual(len(killed), min(KILLS, 1))
        self.assertEqual(curve(self.path("killed")), curve(self.path("whole")))
        self.assertEqual(len(curve(self.path("whole"))), STEPS)
        models = []
        for run in ("killed", "whole"):
            with open(os.path.join(self.path(run), "model", "model.safetensors"), "rb") as file:
                models.append(file.read())
        self.assertTrue(models[0] == models[1], "the models differ")

    def updates(self):
        """The last update that the run has written down."""
        try:
            return harness.metrics(self.path("killed"))[-1]["step"]
        except (FileNotFoundError, ValueError, IndexError):
            return 0

    def kill_one(self, job, rng):
        """Kills a rank of a job at a moment of its life, in a quarter of the cases while it starts."""
        rank, early = rng.randrange(RANKS), rng.random() < 0.25
        until = self.updates() + rng.uniform(1, STEPS / (KILLS + 1))
        wait, start = rng.uniform(0, 1.5 if early else 0.02), time.time()
        while not early and self.updates() < until and job.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        process = ranks_below(job.pid).get(rank)
        while process is None and job.poll() is None:  # it is not there yet
            process = ranks_below(job.pid).get(rank)
        if process is None:
            return []
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return []
        return [f"rank {rank} after {time.time() - start:.2f} s near update {self.updates()}"]


if __name__ == "__main__":
    harness.main()
