"""launch/mpirun.sh on two hosts over TCP: the same losses as one rank, and what happens when a rank
dies or hangs, or a link or a host is gone."""

import os
import signal
import subprocess
import time

import hosts

if __name__ == "__main__":
    hosts.enter_namespaces("mpirun")

import case  # noqa: E402
import harness  # noqa: E402
from harness import MODEL, WORK  # noqa: E402
from test_faults import alive, ranks_below  # noqa: E402

SCRIPT = os.path.join(harness.SOURCE, "launch", "mpirun.sh")
TIMEOUT = 4  # --collective-timeout, seconds


class Hosts(case.Case):
    def setUp(self):
        self.errors = self.path(self.id().rsplit(".", 1)[1] + ".errors")

    def start(self, name, *arguments, ranks=2):
        """Starts training on both hosts, half of the ranks on each."""
        slots = harness.write(self.path("hostfile"),
                              "".join(f"n{i} slots={ranks // 2}\n" for i in range(2)))
        words = ["bash", SCRIPT, "--hostfile", slots, str(ranks), "train", "--data", self.data,
                 "--out", self.path(name), *WORK, *MODEL, "--precision", "fp64", *arguments]
        with open(self.errors, "w", encoding="utf-8") as errors:
            job = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors,
                                   env={**harness.environment(), **self.hosts.environment(),
                                        "T2R": harness.T2R})
        self.addCleanup(self.end, job)
        return job

    def end(self, job):
        if job.poll() is None:
            job.kill()
            job.wait()
        for host in self.hosts.names:
            for process in self.ranks(host).values():
                os.kill(process, signal.SIGKILL)

    def ranks(self, host):
        """The ranks on a host by number."""
        found = {}
        for process in self.hosts.processes_on(host):
            found.update({n: p for n, p in ranks_below(process).items() if alive(p)})
        return found

    def start_endless(self, name, *arguments, ranks=2):
        job = self.start(name, "--steps", "1000000", "--checkpoint-every", "50",
                         "--collective-timeout", str(TIMEOUT), *arguments, ranks=ranks)
        hosts.wait_for(lambda: self.updates(name) >= 60 or job.poll() is not None, 30, self.said)
        self.assertIsNone(job.poll(), self.said())
        return job

    def said(self):
        with open(self.errors, encoding="utf-8", errors="replace") as file:
            return file.read()

    def sentence(self, job, seconds):
        """Waits until a job ends; the one sentence that it ends with, and how long that took."""
        start = time.time()
        try:
            job.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {seconds} s:\n{self.said()}")
        took = time.time() - start
        hosts.wait_for(lambda: not any(self.ranks(h) for h in self.hosts.names), 30,
                       "ranks outlive the job")
        self.assertNotIn(job.returncode, (0, 75), self.said())
        sentences = [line for line in self.said().splitlines() if line.startswith("t2r: ")]
        self.assertEqual(len(sentences), 1, self.said())
        print(f"({took:.1f} s) ", end="", flush=True)
        return sentences[0]

    def test_same_losses_as_one_rank(self):
        steps = ["--steps", "40", "--dropout", "0.1"]
        job = self.start("four", *steps, "--tp", "2", ranks=4)
        self.assertEqual(job.wait(timeout=60), 0, self.said())
        self.assertIn("4 ranks with 1 thread each on several hosts", self.said())
        self.train("one", *MODEL, "--precision", "fp64", *steps)
        self.assert_same_losses("four", "one")

    def test_killed_rank(self):
        job = self.start_endless("killed")
        os.kill(self.ranks("n1")[1], signal.SIGKILL)
        self.assertEqual(self.sentence(job, 10),
                         "t2r: rank 1 on n1 was ended by signal 9 (Killed), and the job with it; a "
                         "training goes on from its last checkpoint with the same command")

    def test_stopped_rank(self):
        job = self.start_endless("stopped")
        os.kill(self.ranks("n1")[1], signal.SIGSTOP)
        self.assertRegex(self.sentence(job, TIMEOUT + 10),
                         r"^t2r: rank 1 on n1 has not arrived at collective number \d+, .*; "
                         "rank 0 waits$")

    def test_link_that_is_cut(self):
        job = self.start_endless("cut", "--collective-timeout", "60")
        self.hosts.cut("n1")
        self.addCleanup(self.hosts.heal, "n1")
        self.assertIn("the host n1 does not answer any more", self.sentence(job, 40))

    def test_link_that_is_cut_and_watched(self):
        """The watchdog, where it is quicker than mpirun."""
        job = self.start_endless("watched")
        self.hosts.cut("n1")
        self.addCleanup(self.hosts.heal, "n1")
        self.assertIn("n1", self.sentence(job, 40))

    def test_host_that_dies(self):
        job = self.start_endless("dead")
        self.hosts.kill("n1")
        self.addCleanup(self.hosts.start, "n1")
        # mpirun sees the end of its connection or of its remote shell, whichever is first.
        self.assertRegex(self.sentence(job, 15), "t2r: (the host n1 does not answer|a host could not)")


if __name__ == "__main__":
    harness.main()
