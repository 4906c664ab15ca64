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

from tests.slurm.lab import Job, JobRun, Lab
from tests.workflow.checkout import Checkout

WRAPPER = Path(__file__).with_name("fast_polling.py")


@dataclass
class Run:
    """A Snakemake process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Return the exit status; after `seconds`, kill the process and raise `AssertionError`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not done after {seconds:.0f} s:\n{self.output()[-3000:]}") from None

    def wait_until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until a condition is true; raise `AssertionError` if the process ends first or `seconds` pass."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.output()[-3000:]}"
            assert time.monotonic() < end, f"waited too long:\n{self.output()[-3000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill Snakemake; its submitted jobs continue."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Interrupt Snakemake, which cancels its jobs; kill it if it has not ended after a minute."""
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
    others: set[str] = field(init=False)  # jobs that were submitted before

    def __post_init__(self) -> None:
        """Record the jobs that were submitted before."""
        self.others = {job.job for job in self.lab.jobs()}

    def jobs(self) -> list[Job]:
        """Return the jobs of this checkout, oldest first."""
        return [job for job in self.lab.jobs() if job.job not in self.others]

    def job_runs(self) -> list[JobRun]:
        """Return the ended runs of this checkout's jobs, oldest first."""
        return [run for run in self.lab.job_runs() if run.job not in self.others]

    def start(self, *arguments: str) -> Run:
        """Start Snakemake with the profile, but with faster polling."""
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
        """Return the options of a user, with a short latency wait because the file system is local."""
        return ["--profile", "profiles/slurm", "--latency-wait", "5", *arguments]

    def resume(self) -> None:
        """Cancel the jobs of a killed run and unlock the folder, as `make resume` does."""
        self.call(sys.executable, "-m", "rebend.pipeline.jobs.slurm_orphans")
        command = self.checkout.command("--unlock", study=self.study, change=self.change)
        self.call(*command)

    def call(self, *command: str) -> str:
        """Run a command in the checkout and return its output; raise `AssertionError` if it fails."""
        done = subprocess.run(
            command, cwd=self.checkout.folder, env=self.environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment with the checkout's library, the lab's Slurm and one thread."""
        lab = self.lab.environment()
        return {
            **self.checkout.environment(),
            **{key: lab[key] for key in ("SLURM_CONF", "PATH")},
            "OMP_NUM_THREADS": "1",
        }

    def end(self) -> None:
        """Interrupt all runs and cancel all jobs."""
        for run in self.runs:
            run.interrupt()
        self.lab.call("scancel", "--user", os.environ.get("USER", "root"), check=False)
