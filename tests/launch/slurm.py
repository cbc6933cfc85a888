"""A real SLURM on this machine: munged, slurmctld and one slurmd, all of them in one folder.

Needs the Debian packages slurm-wlm and munge, and root. Nothing outside the folder is touched, no
service is installed, no SLURM that runs here already is disturbed. For tests only: one node of two
CPUs, and no accounting.
"""

import contextlib
import os
import pathlib
import random
import shutil
import socket
import subprocess
import time

NEEDED = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "scontrol",
    "squeue",
    "scancel",
    "sinfo",
)
SBIN = "/usr/sbin"

# cred_expire is also how long a requeued job is held back: 120 s where it is not set. Jobs of `high`
# take the node from those of `low`, which have GraceTime to go by themselves.
CONFIG = """
ClusterName=gsjax
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
FirstJobId={first}
NodeName={node} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes={node} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=high Nodes={node} PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> list[str]:
    """What this machine lacks to run it."""
    lacks = [name for name in NEEDED if not shutil.which(name, path=_path())]
    return lacks + ([] if os.geteuid() == 0 else ["root"])


def _path() -> str:
    return f"{os.environ['PATH']}:{SBIN}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """The running cluster; its commands get ``environment`` added to their own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def run(self, *words, environment=None, cwd=None) -> str:
        """What a command of SLURM prints; fails with its complaint."""
        done = subprocess.run(
            list(map(str, words)),
            env={**(environment or os.environ), **self.environment},
            cwd=cwd, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *words, environment=None, cwd=None) -> str:
        """The number of the job that sbatch makes of its arguments."""
        found = self.run("sbatch", "--parsable", *words, environment=environment, cwd=cwd)
        return found.split(";")[0]

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ..., of a job that ended less than MinJobAge (300 s) ago."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def field(self, job: str, name: str) -> str:
        """One field of `scontrol show job`."""
        words = self.run("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)[name]

    def wait(self, condition, what: str, seconds: float = 180.0) -> None:
        """Polls until ``condition()``; fails with the daemons' last words."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"--- {p.name}\n{p.read_text()[-1500:]}" for p in self.folder.glob("*.log")]
                raise AssertionError(f"no {what} after {seconds} s\n" + "\n".join(logs))
            time.sleep(0.2)


def _end_jobs(here: Cluster) -> None:
    """Ends what still runs, by SIGKILL: nothing may outlive the daemons."""
    env = {**os.environ, **here.environment}
    for _ in range(100):
        listed = subprocess.run(["squeue", "--noheader"], env=env, capture_output=True, text=True)
        if not listed.stdout.strip():
            return
        subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=env)
        subprocess.run(["scancel", "--user=root"], env=env)
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(folder: pathlib.Path):
    """Starts the cluster in a folder that is there, and ends it."""
    folder = pathlib.Path(folder)
    node = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(random.randbytes(128))
    key.chmod(0o400)
    # JAX takes the coordinator's port from the job's number, modulo 4096.
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            node=node, folder=folder, port=_free_port(), node_port=_free_port(),
            first=random.randrange(10_000, 60_000),
        )
    )  # fmt: skip
    here = Cluster(folder)
    munged = [
        "munged", "--foreground", "--force", f"--key-file={key}",
        f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    daemons = []

    def start(*words):
        with open(folder / f"{pathlib.Path(words[0]).name}.out.log", "ab") as out:
            daemons.append(
                subprocess.Popen(
                    words, env={**os.environ, **here.environment}, stdout=out, stderr=out
                )
            )

    try:
        start(*munged)
        here.wait((folder / "munge.socket").exists, "socket of munged", 20)
        start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        start("slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", node)

        def idle():
            done = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"],
                env={**os.environ, **here.environment}, capture_output=True, text=True,
            )  # fmt: skip
            return "idle" in done.stdout

        here.wait(idle, "idle node", 60)
        yield here
    finally:
        _end_jobs(here)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
