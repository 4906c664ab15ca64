"""What a cluster does to a run: jobs cancelled, preempted, requeued, nodes that die and return, Snakemake killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster

OF_EACH_KIND = 5


class Chaos:
    """A run of a study under a shuffled deck of disturbances; what struck when is in the file `diary`."""

    def __init__(self, cluster: Cluster, seed: int, diary: Path, seconds: float, every: int) -> None:
        self.cluster = cluster
        self.every = every  # jobs done between two strikes, so that they are spread over the whole run
        self.lab = cluster.lab
        self.diary = diary
        self.dice = random.Random(seed)
        self.begin = time.monotonic()
        self.seconds = seconds
        self.struck: list[str] = []
        self.gave_up = 0
        kinds: list[Callable[[str, str], str]] = [
            self._cancel,
            self._requeue,
            self._preempt,
            self._kill_node,
            self._kill_snakemake,
        ]
        self.deck = kinds * OF_EACH_KIND
        self.dice.shuffle(self.deck)
        self.run = cluster.start()

    def to_the_end(self) -> int:
        """Strike with everything in the deck while the study runs; return Snakemake's last status."""
        while self.run.process.poll() is None or self.run.process.returncode != 0:
            assert time.monotonic() - self.begin < self.seconds, f"not done in time; see {self.diary}"
            if self.run.process.poll() is not None:
                self._start_again()
            elif self.deck and (target := self._target()):
                kind = self.deck.pop()
                self._write(f"{len(self.struck) + 1:2d} {kind(*target)}")
                self.struck.append(kind.__name__)
                time.sleep(self.dice.uniform(1, 4))
            time.sleep(0.2)
        self._write(f"done after {len(self.struck)} disturbances; gave up and was started again {self.gave_up} times")
        return self.run.process.returncode

    def _target(self) -> tuple[str, str] | None:
        """A running job and what it does, when enough has been done since the last strike to be worth one."""
        done = sum(stay.state == "COMPLETED" for stay in self.cluster.stays())
        running = [(job, what) for job, what, _ in self.lab.queue() if what.startswith("rule_")]
        if done < self.every * len(self.struck) or not running:
            return None
        return self.dice.choice(running)

    def _cancel(self, job: str, what: str) -> str:
        self.lab.ask("scancel", job, check=False)
        return f"cancelled {job} {what}"

    def _requeue(self, job: str, what: str) -> str:
        self.lab.ask("scontrol", "requeue", job, check=False)
        return f"requeued {job} {what}"

    def _preempt(self, job: str, what: str) -> str:
        """An urgent job takes the whole node that a job runs on."""
        node = self._node(job)
        log = self.lab.folder / "log/urgent.txt"
        urgent = ["--partition=urgent", "--exclusive", f"--nodelist={node}", "--job-name=urgent", f"--output={log}"]
        self.lab.ask("sbatch", *urgent, "--wrap=sleep 3")
        return f"preempted {job} {what} and all on {node}"

    def _kill_node(self, job: str, what: str) -> str:
        """A node dies, with everything on it, and returns after a while."""
        node = self._node(job)
        self.lab.kill_node(node)
        time.sleep(self.dice.uniform(1, 4))
        self.lab.return_node(node)
        return f"killed {node}, on which {job} {what} ran"

    def _kill_snakemake(self, job: str, what: str) -> str:
        self.run.kill()
        time.sleep(self.dice.uniform(0, 3))
        self.cluster.resume()
        self.run = self.cluster.start()
        return f"killed Snakemake while {job} {what} ran, resumed"

    def _start_again(self) -> None:
        """A job failed more often than the profile tries it: what a user does then."""
        self.gave_up += 1
        self._write(f"   Snakemake gave up (status {self.run.process.returncode}); started again")
        self.cluster.resume()
        self.run = self.cluster.start()

    def _node(self, job: str) -> str:
        """The node of a job, or the first one if it has just ended."""
        return next((node for number, _, node in self.lab.queue() if number == job), "n1") or "n1"

    def _write(self, line: str) -> None:
        with self.diary.open("a") as file:
            file.write(f"{time.monotonic() - self.begin:6.0f} s  {line}\n")
