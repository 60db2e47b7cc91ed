"""A rank that hangs, is slow or dies: what the others do, and how soon."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time

import harness
from harness import MODEL, WORK

TIMEOUT = 4  # --collective-timeout, seconds


SCRIPT = os.path.join(harness.SOURCE, "launch", "mpirun.sh")


def ranks_below(process):
    """The ranks that descend from a process, by number."""
    try:
        with open(f"/proc/{process}/environ", encoding="utf-8", errors="replace") as file:
            found = re.search("\0OMPI_COMM_WORLD_RANK=(\\d+)\0", "\0" + file.read())
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
            children = [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return {}
    if found:
        return {int(found[1]): process}
    return {number: rank for child in children for number, rank in ranks_below(child).items()}


class Job:
    """A training run of several ranks that does not end by itself, past its first updates."""

    def __init__(self, case, name, ranks, *arguments, script=False):
        self.case, self.folder, self.ranks = case, case.path(name), {}
        self.errors = tempfile.TemporaryFile(mode="w+")
        command = harness.command("train", "--data", case.data, "--out", self.folder, *WORK, *MODEL,
                                  "--steps", 1000000, "--collective-timeout", TIMEOUT, *arguments,
                                  ranks=ranks)
        if script:
            command = ["bash", SCRIPT, str(ranks), *command[command.index(harness.T2R) + 1:]]
        self.process = subprocess.Popen(command, env={**harness.environment(), "T2R": harness.T2R},
                                        stdout=subprocess.DEVNULL, stderr=self.errors)
        case.addCleanup(self.end)
        self.wait_for_updates(20)
        self.ranks = ranks_below(self.process.pid)
        case.assertEqual(sorted(self.ranks), list(range(ranks)))

    def updates(self):
        path = os.path.join(self.folder, "metrics.jsonl")
        return len(harness.metrics(self.folder)) if os.path.exists(path) else 0

    def wait_for_updates(self, count, seconds=60):
        deadline = time.time() + seconds
        while True:
            try:
                if self.updates() >= count:
                    return
            except ValueError:  # half a line was read
                pass
            self.case.assertIsNone(self.process.poll(), "the job ended too early:\n" + self.said())
            self.case.assertLess(time.time(), deadline, self.said())
            time.sleep(0.05)

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def send(self, number, rank):
        os.kill(self.ranks[rank], number)

    def end_within(self, seconds):
        """Its exit status, what it said, and how long it took."""
        start = time.time()
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.case.fail(f"still running after {seconds} s:\n{self.said()}")
        deadline = time.time() + 5  # mpirun does not see its kills through
        for number, process in self.ranks.items():
            while alive(process):
                self.case.assertLess(time.time(), deadline, f"rank {number} outlives the job")
                time.sleep(0.05)
        return status, self.said(), time.time() - start

    def end(self):
        if self.process.poll() is None:
            for process in self.ranks.values():
                os.kill(process, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.errors.close()


def alive(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Faults(harness.Case):
    def assert_names(self, said, missing, waiting):
        sentences = [line for line in said.splitlines() if line.startswith("t2r: ")]
        self.assertEqual(len(sentences), 1, said)
        host = re.escape(socket.gethostname())
        self.assertRegex(
            sentences[0],
            rf"^t2r: rank {missing} on {host} has not arrived at collective number \d+, "
            rf"\w+(\(.*\))?, after {TIMEOUT} s: it hangs, is stopped or computes for longer than "
            rf"--collective-timeout allows; {waiting}$")

    def test_stopped_rank(self):
        for ranks, stopped, waiting in [(2, 0, "rank 1 waits"), (3, 1, "ranks 0, 2 wait")]:
            with self.subTest(ranks=ranks):
                job = Job(self, f"stopped-{ranks}", ranks)
                job.send(signal.SIGSTOP, stopped)
                status, said, seconds = job.end_within(TIMEOUT + 10)
                self.assertEqual(status, 1, said)
                self.assertGreater(seconds, TIMEOUT - 1)
                self.assert_names(said, stopped, waiting)

    def test_slow_rank(self):
        """Stopped for less than the time limit, twice; and all of them for longer than it."""
        job = Job(self, "slow", 3)
        for stopped, seconds in [([1], 0.7 * TIMEOUT), ([0], 0.7 * TIMEOUT),
                                 ([0, 1, 2], 1.5 * TIMEOUT)]:
            for rank in stopped:
                job.send(signal.SIGSTOP, rank)
            time.sleep(seconds)
            for rank in stopped:
                job.send(signal.SIGCONT, rank)
            job.wait_for_updates(job.updates() + 20)
        job.send(signal.SIGSTOP, 2)  # and then it still watches
        status, said, _ = job.end_within(TIMEOUT + 10)
        self.assertEqual(status, 1, said)
        self.assert_names(said, 2, "ranks 0-1 wait")

    def test_no_limit(self):
        job = Job(self, "unlimited", 2, "--collective-timeout", "0")
        job.send(signal.SIGSTOP, 1)
        time.sleep(TIMEOUT + 4)
        self.assertIsNone(job.process.poll(), job.said())
        job.send(signal.SIGCONT, 1)
        job.wait_for_updates(job.updates() + 20)

    def test_killed_rank(self):
        """mpirun notices this one: its message names rank and host."""
        for script in (False, True):
            with self.subTest(script=script):
                job = Job(self, f"killed-{script}", 3, script=script)
                job.send(signal.SIGKILL, 1)
                status, said, _ = job.end_within(10)
                self.assertEqual(status, 128 + signal.SIGKILL, said)
                self.assertRegex(" ".join(said.split()),
                                 rf"process rank 1 with PID \d+ on node {socket.gethostname()} "
                                 r"exited on signal 9 \(Killed\)")

    def test_script_saves(self):
        """launch/mpirun.sh makes of a SIGTERM the signal that leaves ranks the time to save."""
        job = Job(self, "script", 2, script=True)
        job.process.send_signal(signal.SIGTERM)
        status, said, _ = job.end_within(60)
        self.assertEqual(status, 75, said)
        self.assertIn("stopped on request", said)

    def test_ranks_of_different_commands(self):
        def together(first, second):
            common = [harness.T2R, "train", *WORK, *MODEL]
            done = subprocess.run(["mpirun", "-np", "1", *common, *first, ":", "-np", "1", *common,
                                   *second], env=harness.environment(), timeout=60, text=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            return done.returncode, [line for line in done.stderr.splitlines()
                                     if line.startswith("t2r: ")]

        other = self.path("other-dataset")
        harness.ok("prepare", "--text", self.text["test"], "--tokenizer", "bytes", "--workers", "1",
                   "--out", other)
        usual = ["--data", self.data, "--out", self.path("apart"), "--steps", "3"]
        for second, says in [(["--steps", "4"], "rank 1 has steps = 4, rank 0 has steps = 3"),
                             (["--seed", "9"], "rank 1 has seed = 9, rank 0 has seed = 1"),
                             (["--data", other], "the ranks disagree on the dataset")]:
            status, sentences = together(usual, [*usual, *second])
            self.assertEqual((status, len(sentences)), (2, 1), sentences)
            self.assertIn(says, sentences[0])
        # What may differ between hosts.
        status, sentences = together(usual, [*usual, "--threads", "2"])
        self.assertEqual((status, sentences), (0, []))

    def test_wrong_limit(self):
        for limit in ("-1", "nan", "inf", "soon"):
            self.assert_fails("train", "--data", self.data, "--out", self.path("never"), *WORK,
                              *MODEL, "--steps", "1", "--collective-timeout", limit,
                              says=["--collective-timeout"], status=(2,))


if __name__ == "__main__":
    harness.main()
