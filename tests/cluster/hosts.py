"""Several hosts on one machine: namespaces (network, names, mounts, processes) on a bridge.

All of it lies within namespaces of the test itself, whose first process the test is: whatever a
test starts, daemons too, is gone when it ends, however it ends. Needs root and no other set-up.
"""

import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ENTER = os.path.join(HERE, "enter.sh")
SKIPPED = 77  # what ctest takes for "skipped"
INSIDE = "T2R_CLUSTER_INSIDE"
OWN = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc",
       "--kill-child"]
# Open MPI between the hosts: TCP over the bridge alone; a link that is cut is noticed in seconds.
MPI = {"OMPI_MCA_btl_tcp_if_include": "10.77.0.0/24", "OMPI_MCA_oob_tcp_if_include": "10.77.0.0/24",
       "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,vader,self"}


def skip(why):
    print(f"skipped: {why}", flush=True)
    sys.exit(SKIPPED)


def enter_namespaces(*programs):
    """Starts this script again in namespaces of its own, or ends it as skipped and says why."""
    if INSIDE in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["hostname", "head"], check=True)
        return
    if os.getuid() != 0:
        skip("hosts in namespaces need root")
    missing = [p for p in ("unshare", "nsenter", "ip", "hostname", *programs)
               if not shutil.which(p)]
    if missing:
        skip(f"not installed: {', '.join(missing)} (bash launch/install-dependencies.sh --with-tests)")
    probe = subprocess.run([*OWN, "ip", "link", "add", "probe", "type", "bridge"],
                           stderr=subprocess.PIPE, text=True)
    if probe.returncode != 0:
        skip("namespaces with a bridge are not granted here: " + " ".join(probe.stderr.split()))
    os.execvpe("unshare", [*OWN, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})


SET_UP = """
hostname "$1"; shift; hosts=$1; shift
mount --make-rprivate /
mount --bind "$hosts" /etc/hosts
mount -t tmpfs tmpfs /mnt
i=0; for share; do i=$((i + 1)); mkdir /mnt/$i; mount --bind "$share" /mnt/$i; done
mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /dev/shm
i=0; for share; do i=$((i + 1)); mkdir -p "$share"; mount --bind /mnt/$i "$share"; done
ip link set lo up
touch /dev/shm/ready
exec sleep infinity
"""


class Hosts:
    """n0, n1, ... with 10.77.0.1, 10.77.0.2, ...; this process is on "head", 10.77.0.254.

    Each has /tmp and /dev/shm of its own; of /tmp they share the folders `shares`.
    """

    def __init__(self, count, folder, shares=()):
        self.folder, self.shares = folder, [folder, *shares]
        self.processes = {}
        ip("link", "add", "bridge0", "type", "bridge")
        ip("addr", "add", "10.77.0.254/24", "dev", "bridge0")
        ip("link", "set", "bridge0", "up")
        self.names = [f"n{i}" for i in range(count)]
        with open(os.path.join(folder, "hosts"), "w", encoding="ascii") as file:
            file.write("127.0.0.1 localhost\n10.77.0.254 head\n")
            file.writelines(f"10.77.0.{i + 1} n{i}\n" for i in range(count))
        for name in self.names:
            self.start(name)

    def start(self, name):
        number = self.names.index(name)
        log = os.path.join(self.folder, f"{name}.log")
        with open(log, "w", encoding="utf-8") as errors:
            outer = subprocess.Popen(
                [*OWN, "bash", "-ec", SET_UP, "bash", name, os.path.join(self.folder, "hosts"),
                 *self.shares], stdin=subprocess.DEVNULL, stderr=errors)
        first = wait_for(lambda: children(outer.pid), 10, f"{name} does not start: see {log}")[0]
        wait_for(lambda: os.path.exists(f"/proc/{first}/root/dev/shm/ready"), 10,
                 f"{name} does not come up: see {log}")
        ip("link", "add", f"link{number}", "type", "veth", "peer", "name", "eth0", "netns",
           str(first))
        ip("link", "set", f"link{number}", "master", "bridge0", "up")
        self.processes[name] = (outer, first)
        with open(os.path.join(self.folder, f"{name}.pid"), "w", encoding="ascii") as file:
            file.write(str(first))
        self.run(name, "ip", "addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
        self.run(name, "ip", "link", "set", "eth0", "up")

    def command(self, name, *words):
        return [ENTER, name, *words]

    def environment(self):
        """For programs that use the hosts: enter.sh finds them, Open MPI starts through it."""
        return {"T2R_HOSTS": self.folder, "OMPI_MCA_plm_rsh_agent": ENTER, **MPI}

    def run(self, name, *words):
        subprocess.run(self.command(name, *words), env={**os.environ, **self.environment()},
                       check=True)

    def processes_on(self, name):
        if name not in self.processes:
            return []
        own, found = os.readlink(f"/proc/{self.processes[name][1]}/ns/pid"), []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == own:
                    found.append(int(entry))
            except FileNotFoundError:  # ended meanwhile
                pass
        return found

    def kill(self, name):
        """As a power cut: all its processes go at once, nobody is told."""
        outer, first = self.processes.pop(name)
        os.kill(first, 9)
        while outer.poll() is None:
            reap_strays()
            time.sleep(0.01)

    def cut(self, name):
        ip("link", "set", f"link{self.names.index(name)}", "down")

    def heal(self, name):
        ip("link", "set", f"link{self.names.index(name)}", "up")

    def limit(self, name, rate):
        """Rate of what it sends, such as 1gbit."""
        self.run(name, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate,
                 "burst", "128kb", "latency", "50ms")

    def close(self):
        for name in list(self.processes):
            self.kill(name)
        ip("link", "del", "bridge0")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def children(process):
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return []


def reap_strays():
    """A process that entered a host and lost its parent becomes a child of this one, the first of its
    own namespace, and its host does not end before it is waited for."""
    for child in children(os.getpid()):
        try:
            with open(f"/proc/{child}/status", encoding="utf-8", errors="replace") as file:
                inside = next(line for line in file if line.startswith("NSpid:")).split()[1:]
            if len(inside) > 1:
                os.waitpid(child, os.WNOHANG)
        except (FileNotFoundError, ProcessLookupError, ChildProcessError):  # gone meanwhile
            pass


def wait_for(condition, seconds, what):
    """The first value of `condition` that is true."""
    deadline = time.time() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.time() > deadline:
            raise AssertionError(f"{what() if callable(what) else what} (after {seconds} s)")
        time.sleep(0.05)
