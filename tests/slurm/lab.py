"""A temporary Slurm on this machine: two node daemons, each with two cores and one simulated GPU (or two).

It has its own ports, and writes state, logs and records to one folder only. It trusts every local process
(`auth/none`), so it listens on the loopback interface only and runs no longer than the tests.

    .venv/bin/python -m tests.slurm.lab up /tmp/lab      # prints the environment for a shell
    .venv/bin/python -m tests.slurm.lab down /tmp/lab
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.slurm.accounting import CLUSTER, Accounting
from tests.slurm.accounting import PACKAGES as ACCOUNTING_PACKAGES
from tests.slurm.accounting import PROGRAMS as ACCOUNTING_PROGRAMS

NODES = ("n1", "n2")
CORES = 2  # per node
DAEMONS = ("slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct")
INSTALL = "REBEND_INSTALL_SLURM"  # 1 or accounting; `make test` alone installs no packages of the system
PACKAGES = ("slurmctld", "slurmd", "slurm-client")

# Fast scheduling. Records of finished jobs stay, because the tests read them.
SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={port}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=20
KillWait=5
MinJobAge=86400
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
{accounting}\
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs={cores} RealMemory=200000 Gres=gpu:fake:{gpus} State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second}
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=2880 PriorityTier=1 State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=2880 PriorityTier=1 State=UP
PartitionName=urgent Nodes=n[1-2] MaxTime=2880 PriorityTier=10 State=UP
"""
GRES_CONF = "AutoDetect=off\nNodeName=n[1-2] Name=gpu Type=fake Count={gpus} File={files}\n"
DEVICES = ("/dev/null", "/dev/zero")  # each simulated GPU needs a device file

NO_ACCOUNTING = """\
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""

# Slurm removes its variables before a job starts its steps, SLURM_CONF included; this `srun` sets it again.
SRUN = '#!/bin/sh\nexport SLURM_CONF="{folder}/slurm.conf"\nexec "{srun}" "$@"\n'


def missing(*, accounting: bool = False) -> str | None:
    """Return None if Slurm is installed, else the reason. Installs it first if REBEND_INSTALL_SLURM allows that."""
    programs = (*DAEMONS, *CLIENTS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    packages = (*PACKAGES, *(ACCOUNTING_PACKAGES if accounting else ()))
    if _installed(programs):
        return None
    value = "accounting" if accounting else "1"
    may_install = os.environ.get(INSTALL) in ("accounting", value)
    if not may_install or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"Slurm is not installed (Debian: {', '.join(packages)}; root may set {INSTALL}={value})"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["apt-get", *options, *command], env=environment, capture_output=True, timeout=300)
    return None if _installed(programs) else "Slurm is not installed, and apt-get could not install it"


def _installed(programs: Sequence[str]) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return all(shutil.which(name, path=path) for name in programs)


class Job(NamedTuple):
    """Slurm's record of a job; of its last run, if it was requeued."""

    job: str
    name: str
    comment: str
    state: str
    partition: str
    cpus: int
    mem_mb: int
    gpus: int


class JobRun(NamedTuple):
    """One run of a job on a node; a requeued job has several runs."""

    job: str
    state: str
    node: str
    start: float
    end: float


def max_concurrent(job_runs: Sequence[JobRun]) -> int:
    """Return the largest number of runs at one time. Slurm's times are whole seconds, so an end precedes a start."""
    events = sorted(
        [(run.start, 1) for run in job_runs if run.start] + [(run.end, -1) for run in job_runs if run.start]
    )
    return max((sum(step for _, step in events[: n + 1]) for n in range(len(events))), default=0)


@dataclass(frozen=True)
class Lab:
    """A Slurm whose files are all in `folder`."""

    folder: Path
    gpus_per_node: int = 1
    accounting: bool = False  # without it, users need no account, as on many small clusters

    @property
    def gpus(self) -> int:
        """Number of GPUs of all nodes."""
        return self.gpus_per_node * len(NODES)

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, gpus_per_node: int = 1, *, accounting: bool = False) -> Iterator[Lab]:
        """Start Slurm, and stop it at the end of the block, also after an exception."""
        lab = cls(folder, gpus_per_node, accounting)
        try:
            lab.up()
            yield lab
        finally:
            lab.down()

    def up(self) -> None:
        """Write the configuration, start the daemons and wait until both nodes accept jobs."""
        for name in ("run", "state", "log", "bin", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        port = _free_ports(5)
        accounting = Accounting(self.folder, port + 3, port + 4)
        text = SLURM_CONF.format(
            cluster=CLUSTER,
            accounting=accounting.slurm_conf() if self.accounting else NO_ACCOUNTING,
            folder=self.folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            port=port,
            first=port + 1,
            second=port + 2,
            cores=CORES,
            gpus=self.gpus_per_node,
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            GRES_CONF.format(gpus=self.gpus_per_node, files=",".join(DEVICES[: self.gpus_per_node]))
        )
        wrapper = self.folder / "bin/srun"
        wrapper.write_text(SRUN.format(folder=self.folder, srun=shutil.which("srun")))
        wrapper.chmod(0o755)
        if self.accounting:
            accounting.up()
        self.call("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def down(self) -> None:
        """End all jobs and daemons."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--user", getpass.getuser(), "--full", check=False)
            self.call("scontrol", "shutdown", check=False)
        for pid_file in (self.folder / "run").glob("*.pid"):
            _end(pid_file)
        for node in NODES:
            self._kill_steps(node)

    def environment(self) -> dict[str, str]:
        """Return the environment in which commands and jobs find this Slurm."""
        path = os.pathsep.join([str(self.folder / "bin"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def call(self, *command: str, check: bool = True) -> str:
        """Run a Slurm command and return its output. Raises `RuntimeError` if it fails, unless `check` is false."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def queue(self, states: str = "RUNNING") -> list[tuple[str, str, str]]:
        """Return (job, comment, node) of the jobs in these states, oldest first."""
        lines = self.call("squeue", "--noheader", f"--states={states}", "--sort=i", "--format=%i|%k|%N").splitlines()
        return [(job, comment, node) for job, comment, node in (line.split("|") for line in lines)]

    def jobs(self) -> list[Job]:
        """Return all submitted jobs, oldest first."""
        lines = self.call("scontrol", "--oneliner", "show", "job").splitlines()
        return sorted((_job(line) for line in lines if line.startswith("JobId=")), key=lambda job: int(job.job))

    def job_runs(self) -> list[JobRun]:
        """Return all ended runs of jobs, oldest first, from Slurm's log of completed jobs."""
        log = self.folder / "log/jobs.txt"
        return [_job_run(line) for line in log.read_text().splitlines()] if log.exists() else []

    def start_node(self, node: str) -> None:
        """Start a node's daemon. The node's name in its environment marks all processes that it starts."""
        environment = {**self.environment(), "SLURMD_NODENAME": node}
        subprocess.run(["slurmd", "-N", node], env=environment, check=True, timeout=60)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all of its processes, like a power failure."""
        _end(self.folder / f"run/slurmd.{node}.pid", signal.SIGKILL)
        self._kill_steps(node)
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def return_node(self, node: str) -> None:
        """Start a killed node again."""
        self.start_node(node)
        self.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)

    def wait_for_nodes(self, seconds: float = 60) -> None:
        """Wait until every node accepts jobs. Raises `TimeoutError` after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = self.call("sinfo", "--noheader", "--Node", "--format=%N %t", check=False).split()[1::2]
            if states and set(states) <= {"idle", "mix", "alloc", "comp"}:
                return
            time.sleep(0.2)
        log = self.folder / "log/slurmctld.log"
        raise TimeoutError(
            f"the nodes are {states}; {log} ends with\n{log.read_text()[-2000:] if log.exists() else ''}"
        )

    def _kill_steps(self, node: str) -> None:
        """Kill all processes with the node's name and this folder in their environment."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if f"SLURMD_NODENAME={node}\0".encode() in environment and str(self.folder).encode() in environment:
                    os.kill(int(process.name), signal.SIGKILL)


def _free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports."""
    for port in range(21000 + os.getpid() % 2000 * count, 60000, count):
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for number in range(port, port + count):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port
    raise RuntimeError(f"no {count} free ports in a row")


def _end(pid_file: Path, number: signal.Signals = signal.SIGTERM) -> None:
    """Stop the daemon that a pid file names, and wait until it has ended."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, number)
    except (OSError, ValueError):
        return
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def _facts(line: str) -> dict[str, str]:
    """Parse Slurm's key=value pairs, separated by spaces; values may contain spaces."""
    return dict(re.findall(r"([\w/:]+)=(.*?)(?= [\w/:]+=|\s*$)", line))


def _job(line: str) -> Job:
    facts = _facts(line)
    tres = dict(pair.split("=") for pair in facts["TRES"].split(",") if "=" in pair)
    gpus = re.fullmatch(r"gres:gpu:(\d+)", facts.get("TresPerJob", ""))
    return Job(
        job=facts["JobId"],
        name=facts["JobName"],
        comment=facts.get("Comment", ""),
        state=facts["JobState"],
        partition=facts["Partition"],
        cpus=int(facts["NumCPUs"].split("-")[0]),
        mem_mb=_megabytes(tres.get("mem", "0M")),
        gpus=int(gpus.group(1)) if gpus else 0,
    )


def _megabytes(text: str) -> int:
    return round(float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]])


def _job_run(line: str) -> JobRun:
    facts = _facts(line)
    return JobRun(
        facts["JobId"], facts["JobState"], facts["NodeList"], _seconds(facts["StartTime"]), _seconds(facts["EndTime"])
    )


def _seconds(text: str) -> float:
    """Return Slurm's local time in seconds; 0 for a job that never started."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0


if __name__ == "__main__":
    action, lab = sys.argv[1], Lab(Path(sys.argv[2]).resolve())
    if reason := missing():
        sys.exit(reason)
    if action == "up":
        lab.up()
        print(f"export SLURM_CONF={lab.folder}/slurm.conf PATH={lab.folder}/bin:$PATH:/usr/sbin")
    else:
        lab.down()
