"""A real Slurm over hosts in namespaces: one controller on head, a daemon on each host."""

import os
import subprocess

import hosts

PROGRAMS = ["slurmctld", "slurmd", "srun", "sbatch"]

# auth/none: all of it is one machine's root. cred_expire: else a requeued job waits for 120 s.
# config_overrides: hosts have the processors that are said here, whatever the machine has.
CONFIGURATION = """
ClusterName=t2r
SlurmctldHost=head(10.77.0.254)
SlurmctldPort=26817
SrunPortRange=30000-30100
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=5
SlurmdTimeout=5
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=n[0-{last}] NodeAddr=10.77.0.[1-{count}] Port=26818 CPUs=4 CoresPerSocket=4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    def __init__(self, cluster):
        self.cluster = cluster
        folder = cluster.folder
        os.mkdir(os.path.join(folder, "state"))
        self.conf = os.path.join(folder, "slurm.conf")
        with open(self.conf, "w", encoding="ascii") as file:
            file.write(CONFIGURATION.format(folder=folder, count=len(cluster.names),
                                            last=len(cluster.names) - 1))
        self.environment = {**os.environ, **cluster.environment(), "SLURM_CONF": self.conf}
        self.run("slurmctld", "-f", self.conf)
        for name in cluster.names:
            self.run(*cluster.command(name, "slurmd", "-f", self.conf, "-N", name))
        self.wait_until_idle()

    def wait_until_idle(self):
        hosts.wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T").strip() == "idle", 30,
                       lambda: "the hosts do not become idle:\n" + self.logs())

    def logs(self):
        texts = []
        for name in ["slurmctld.log", *(f"slurmd-{n}.log" for n in self.cluster.names)]:
            path = os.path.join(self.cluster.folder, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    texts.append(f"--- {name}\n" + "".join(file.readlines()[-30:]))
        return "\n".join(texts)

    def run(self, *words, **options):
        return subprocess.run(words, env=self.environment, check=True, **options)

    def ask(self, *words):
        return self.run(*words, stdout=subprocess.PIPE, text=True).stdout

    def submit(self, *words):
        """sbatch, on hosts that are all free; the number of the job."""
        self.wait_until_idle()
        return self.ask("sbatch", "--parsable", *words).strip()

    def job(self, number):
        """What scontrol says about a job: JobState, Restarts, ExitCode, NodeList, ..."""
        text = self.ask("scontrol", "show", "job", "-o", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for_end(self, number, seconds, log):
        """Until a job is over; its last description."""
        def over():
            job = self.job(number)
            return job if job["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT",
                                              "NODE_FAIL", "OUT_OF_MEMORY") else None

        def why():
            text = open(log, encoding="utf-8", errors="replace").read() if os.path.exists(log) else ""
            return f"job {number} does not end: {self.job(number)}\n{text}\n{self.logs()}"

        return hosts.wait_for(over, seconds, why)
