"""Runs of a study on the lab's Slurm, through `profiles/slurm` as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.lab import Job, Lab, Stay
from tests.workflow.checkout import Checkout

WRAPPER = Path(__file__).with_name("fast_polling.py")


@dataclass
class Run:
    """A Snakemake that steers a run, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Its exit status; it is killed, and the test fails, if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not done after {seconds:.0f} s:\n{self.said()[-3000:]}") from None

    def wait_until(self, true: Callable[[], bool], seconds: float = 240) -> None:
        """Return once something is true; it must become so while the run goes on."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"ended too early:\n{self.said()[-3000:]}"
            assert time.monotonic() < end, f"waited too long:\n{self.said()[-3000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill Snakemake; what it has sent to the cluster goes on."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ask it to end, with its jobs; kill it if it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class Cluster:
    """A checkout whose jobs go to the lab."""

    lab: Lab
    checkout: Checkout
    study: str
    change: Mapping[str, Any]
    runs: list[Run] = field(default_factory=list)
    others: set[str] = field(init=False)  # jobs of whoever used the lab before

    def __post_init__(self) -> None:
        """Know what is not of this checkout."""
        self.others = {job.job for job in self.lab.jobs()}

    def jobs(self) -> list[Job]:
        """All jobs submitted since, oldest first."""
        return [job for job in self.lab.jobs() if job.job not in self.others]

    def stays(self) -> list[Stay]:
        """Every stay of such a job on a node that has ended, oldest first."""
        return [stay for stay in self.lab.stays() if stay.job not in self.others]

    def start(self, *arguments: str) -> Run:
        """Start Snakemake; only the pace of its polling is not the profile's."""
        command = self.checkout.command(*self.options(*arguments), study=self.study, change=self.change)
        log = self.checkout.folder / f"run-{len(self.runs)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(WRAPPER), *command[1:]],
                cwd=self.checkout.folder,
                env=self.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.runs.append(Run(process, log))
        return self.runs[-1]

    def options(self, *arguments: str) -> list[str]:
        """What a user says, and no waiting for a file system that is not shared."""
        return ["--profile", "profiles/slurm", "--latency-wait", "5", *arguments]

    def resume(self) -> None:
        """What `make resume` does: cancel what a killed run left behind, unlock the folder."""
        self.call(sys.executable, "-m", "rebend.pipeline.jobs.slurm_orphans")
        command = self.checkout.command("--unlock", study=self.study, change=self.change)
        self.call(*command)

    def call(self, *command: str) -> str:
        """Run a command in the checkout; it must succeed."""
        done = subprocess.run(
            command, cwd=self.checkout.folder, env=self.environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The checkout's library, the lab's Slurm, one thread."""
        lab = self.lab.environment()
        return {
            **self.checkout.environment(),
            **{key: lab[key] for key in ("SLURM_CONF", "PATH")},
            "OMP_NUM_THREADS": "1",
        }

    def end(self) -> None:
        """Leave nothing behind, whatever a test did."""
        for run in self.runs:
            run.interrupt()
        self.lab.ask("scancel", "--user", os.environ.get("USER", "root"), check=False)
