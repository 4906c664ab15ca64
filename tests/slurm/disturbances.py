"""Disturbances of a run: jobs cancelled, requeued or preempted, nodes killed and returned, Snakemake killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster

OF_EACH_KIND = 5


class Chaos:
    """A run of a study with disturbances in random order; the file `log` lists them with their times."""

    def __init__(self, cluster: Cluster, seed: int, log: Path, seconds: float, every: int) -> None:
        self.cluster = cluster
        self.every = every  # finished jobs between two disturbances, which spreads them over the whole run
        self.lab = cluster.lab
        self.log = log
        self.rng = random.Random(seed)
        self.begin = time.monotonic()
        self.seconds = seconds
        self.done: list[str] = []
        self.n_restarts = 0
        kinds: list[Callable[[str, str], str]] = [
            self._cancel,
            self._requeue,
            self._preempt,
            self._kill_node,
            self._kill_snakemake,
        ]
        self.disturbances = kinds * OF_EACH_KIND
        self.rng.shuffle(self.disturbances)
        self.run = cluster.start()

    def to_the_end(self) -> int:
        """Apply all disturbances while the study runs; return Snakemake's last status."""
        while self.run.process.poll() is None or self.run.process.returncode != 0:
            assert time.monotonic() - self.begin < self.seconds, f"not done in time; see {self.log}"
            if self.run.process.poll() is not None:
                self._start_again()
            elif self.disturbances and (target := self._target()):
                kind = self.disturbances.pop()
                self._write(f"{len(self.done) + 1:2d} {kind(*target)}")
                self.done.append(kind.__name__)
                time.sleep(self.rng.uniform(1, 4))
            time.sleep(0.2)
        self._write(
            f"done after {len(self.done)} disturbances; Snakemake gave up and was started again {self.n_restarts} times"
        )
        return self.run.process.returncode

    def _target(self) -> tuple[str, str] | None:
        """Return a running job and its comment; None until enough jobs have ended since the last disturbance."""
        n_done = sum(run.state == "COMPLETED" for run in self.cluster.job_runs())
        running = [(job, comment) for job, comment, _ in self.lab.queue() if comment.startswith("rule_")]
        if n_done < self.every * len(self.done) or not running:
            return None
        return self.rng.choice(running)

    def _cancel(self, job: str, comment: str) -> str:
        self.lab.call("scancel", job, check=False)
        return f"cancelled {job} {comment}"

    def _requeue(self, job: str, comment: str) -> str:
        self.lab.call("scontrol", "requeue", job, check=False)
        return f"requeued {job} {comment}"

    def _preempt(self, job: str, comment: str) -> str:
        """Submit an urgent job that takes the whole node of the job."""
        node = self._node(job)
        log = self.lab.folder / "log/urgent.txt"
        urgent = ["--partition=urgent", "--exclusive", f"--nodelist={node}", "--job-name=urgent", f"--output={log}"]
        self.lab.call("sbatch", *urgent, "--wrap=sleep 3")
        return f"preempted {job} {comment} and all on {node}"

    def _kill_node(self, job: str, comment: str) -> str:
        """Kill the job's node with all its processes, and return the node after some seconds."""
        node = self._node(job)
        self.lab.kill_node(node)
        time.sleep(self.rng.uniform(1, 4))
        self.lab.return_node(node)
        return f"killed {node}, on which {job} {comment} ran"

    def _kill_snakemake(self, job: str, comment: str) -> str:
        self.run.kill()
        time.sleep(self.rng.uniform(0, 3))
        self.cluster.resume()
        self.run = self.cluster.start()
        return f"killed Snakemake while {job} {comment} ran, resumed"

    def _start_again(self) -> None:
        """Start Snakemake again, as a user does after a job has failed more often than the profile retries it."""
        self.n_restarts += 1
        self._write(f"   Snakemake gave up (status {self.run.process.returncode}); started again")
        self.cluster.resume()
        self.run = self.cluster.start()

    def _node(self, job: str) -> str:
        """Return the node of a job, or the first node if the job has just ended."""
        return next((node for number, _, node in self.lab.queue() if number == job), "n1") or "n1"

    def _write(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{time.monotonic() - self.begin:6.0f} s  {line}\n")
