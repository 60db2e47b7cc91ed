"""launch/train.sbatch and experiments/recipe.sbatch on a real Slurm of two hosts: training to the
end, saving and going on by itself at the signal of the time limit, a host that dies, mix-ups."""

import os
import subprocess
import time

import hosts

if __name__ == "__main__":
    hosts.enter_namespaces("slurmctld", "slurmd", "srun", "sbatch", "mpirun")

import case  # noqa: E402
import harness  # noqa: E402
from harness import MODEL, WORK  # noqa: E402
from slurm import Slurm  # noqa: E402

LAUNCH = os.path.join(harness.SOURCE, "launch")
STEPS = 600


class SlurmTest(case.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.environ["T2R"] = harness.T2R
        os.environ["OMP_NUM_THREADS"] = "1"
        cls.slurm = Slurm(cls.hosts)

    def train_arguments(self, name, steps=STEPS):
        return ["--data", self.data, "--out", self.path(name), *WORK, *MODEL, "--precision", "fp64",
                "--dropout", "0.1", "--steps", str(steps), "--checkpoint-every", "100"]

    def submit(self, name, *options, steps=STEPS):
        self.log = self.path(name + ".log")
        return self.slurm.submit(*options, f"--output={self.log}",
                                 os.path.join(LAUNCH, "train.sbatch"),
                                 *self.train_arguments(name, steps))

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def end(self, job, seconds=60):
        """Waits until a job is complete; how often it had been put back into the queue."""
        last = self.slurm.wait_for_end(job, seconds, self.log)
        self.assertEqual(last["JobState"], "COMPLETED", self.said())
        return int(last["Restarts"])

    def wait_for_updates(self, name, count):
        hosts.wait_for(lambda: self.updates(name) >= count, 30,
                       lambda: f"{name} has {self.updates(name)} updates\n{self.said()}")

    def undisturbed(self):
        """The run on two hosts that the others are compared with."""
        if not os.path.exists(self.path("whole")):
            self.assertEqual(self.end(self.submit("whole", "--ntasks-per-node=1")), 0)
            self.assertIn("2 ranks", self.said())
            self.assertIn("several hosts", self.said())

    def test_same_losses_as_one_rank(self):
        self.undisturbed()
        harness.ok("train", *self.train_arguments("one"))
        self.assert_same_losses("whole", "one")

    def test_time_limit(self):
        """At its signal all ranks save, the job queues again and goes on, as often as it takes."""
        self.undisturbed()
        job = self.submit("limited", "--ntasks-per-node=1")
        for restart, updates in enumerate((60, 260)):
            self.wait_for_updates("limited", updates)
            self.assertEqual(int(self.slurm.job(job)["Restarts"]), restart)
            self.slurm.run("scancel", "--signal=USR1", "--batch", job)
            hosts.wait_for(lambda r=restart: int(self.slurm.job(job)["Restarts"]) > r, 30,
                           lambda: f"not queued again: {self.slurm.job(job)}\n{self.said()}")
        self.assertEqual(self.end(job), 2)
        said = self.said()
        self.assertEqual(said.count("stopped on request after update"), 2, said)
        self.assertEqual(said.count("resuming"), 2, said)
        self.assert_same_run("limited", "whole")

    def revive(self, name):
        if name not in self.hosts.processes:
            self.hosts.start(name)
            self.slurm.run(*self.hosts.command(name, "slurmd", "-f", self.slurm.conf, "-N", name))
        self.slurm.wait_until_idle()

    def test_host_that_dies(self):
        """The job queues again by itself, and goes on on what is left."""
        self.undisturbed()
        job = self.submit("halved", "--nodes=1-2")
        self.wait_for_updates("halved", 150)
        self.addCleanup(self.revive, "n1")
        self.hosts.kill("n1")
        start = time.time()
        restarts = self.end(job, 90)
        print(f"(complete {time.time() - start:.1f} s after a host died) ", end="", flush=True)
        self.assertEqual(restarts, 1, self.said())
        said = self.said()
        self.assertRegex(said, "4 ranks with 1 thread each on several hosts")
        self.assertRegex(said, "2 ranks with 1 thread each on n0")
        self.assertIn("resuming", said)
        self.assert_same_losses("halved", "whole")

    def test_recipe(self):
        """experiments/recipe.sbatch: the ranks of a script's training save at the signal too."""
        self.undisturbed()
        script = harness.write(self.path("recipe.sh"),
                               f"$T2R_LAUNCH {harness.T2R} train \"$@\" &\nstep=$!\n"
                               "trap 'kill -USR1 $step' USR1\n"
                               "while :; do wait $step; status=$?; "
                               "kill -0 $step 2>/dev/null || break; done\nexit $status\n")
        self.log = self.path("recipe.log")
        job = self.slurm.submit("--nodes=2", "--ntasks-per-node=1", f"--output={self.log}",
                                os.path.join(harness.SOURCE, "experiments", "recipe.sbatch"),
                                script, *self.train_arguments("recipe"))
        self.wait_for_updates("recipe", 60)
        self.slurm.run("scancel", "--signal=USR1", "--batch", job)
        self.assertEqual(self.end(job), 1)
        self.assert_same_run("recipe", "whole")

    def refused(self, *launcher):
        """What a wrong launch says; it may not begin to train."""
        done = subprocess.run([*launcher, harness.T2R, "train", *self.train_arguments("never", 1)],
                              env=self.slurm.environment, timeout=60, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertFalse(os.path.exists(self.path("never")), done.stderr)
        return done.returncode, [line for line in done.stderr.splitlines()
                                 if line.startswith("t2r: ")]

    def test_ranks_that_do_not_find_each_other(self):
        """N jobs of one rank would overwrite one another's files."""
        srun = ["srun", "--nodes=2", "--ntasks=2"]
        for launcher in ([], ["--mpi=none"]):
            self.assertEqual(self.refused(*srun, *launcher),
                             (2, ["t2r: srun started 2 tasks without a way for MPI to connect them: "
                                  "use `srun --mpi=pmix`"]))
        # Debian's Open MPI does not know this one, says so at length, and ends.
        self.assertEqual(self.refused(*srun, "--mpi=pmi2"), (1, []))
        # The mpiexec of another MPI in a job: variables of a launcher that MPI knows nothing of.
        self.assertEqual(self.refused("salloc", "--quiet", "--nodes=1", "env", "PMI_SIZE=2"),
                         (2, ["t2r: mpiexec (MPICH) started 2 processes, but MPI counts 1 rank: the "
                              "launcher belongs to another MPI than this program; use the mpirun of "
                              "the MPI it was built with (see `mpirun --version`)"]))

    def test_cancelled(self):
        """A job that its owner ends does not come back."""
        job = self.submit("cancelled", "--ntasks-per-node=1", steps=100000)
        self.wait_for_updates("cancelled", 20)
        self.slurm.run("scancel", job)
        last = self.slurm.wait_for_end(job, 30, self.log)
        time.sleep(3)
        self.assertEqual(self.slurm.job(job)["JobState"], "CANCELLED", self.said())
        self.assertEqual(last["Restarts"], "0")


if __name__ == "__main__":
    harness.main()
