"""A run that is stopped by a signal and started again equals one that was not, bit for bit."""

import os
import signal
import subprocess
import time

import harness
from harness import MODEL, WORK

STEPS = 400


def without_times(line):
    return {key: line[key] for key in ("step", "tokens", "loss", "learning_rate", "grad_norm")}


class Resume(harness.Case):
    def arguments(self, name):
        return ["train", "--data", self.data, "--out", self.path(name), *WORK, *MODEL, "--dropout",
                "0.1", "--steps", str(STEPS), "--checkpoint-every", "100"]

    def stop_and_go_on(self, name, sent, ranks):
        process = subprocess.Popen(harness.command(*self.arguments(name), ranks=ranks),
                                   env=harness.environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        path = os.path.join(self.path(name), "metrics.jsonl")
        deadline = time.time() + 60
        while not (os.path.exists(path) and os.path.getsize(path) > 2000):
            self.assertIsNone(process.poll(), "the run ended too early")
            self.assertLess(time.time(), deadline)
            time.sleep(0.01)
        process.send_signal(sent)
        _, messages = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, messages)
        self.assertIn("stopped on request", messages)
        self.assertLess(len(harness.metrics(self.path(name))), STEPS)
        harness.ok(*self.arguments(name), ranks=ranks)

    def assert_same_run(self, one, two):
        a, b = (list(map(without_times, harness.metrics(self.path(n)))) for n in (one, two))
        self.assertEqual(len(a), STEPS)
        self.assertEqual(a, b)
        with open(os.path.join(self.path(one), "model", "model.safetensors"), "rb") as first, \
                open(os.path.join(self.path(two), "model", "model.safetensors"), "rb") as second:
            self.assertEqual(first.read(), second.read())

    def test_stop_and_go_on(self):
        harness.ok(*self.arguments("whole"))
        self.stop_and_go_on("stopped", signal.SIGTERM, ranks=1)
        self.assert_same_run("whole", "stopped")

    def test_two_ranks(self):
        # mpirun hands SIGUSR1 on to its ranks; at SIGTERM it would end them after a second.
        harness.ok(*self.arguments("whole-2"), ranks=2)
        self.stop_and_go_on("stopped-2", signal.SIGUSR1, ranks=2)
        self.assert_same_run("whole-2", "stopped-2")


if __name__ == "__main__":
    harness.main()
