"""An adapter's training as one job: in this process, or on several ranks that a launcher starts.

A rank is `python -m rebend.repbend.launch job.json` with torch's environment around it, as `torchrun` and `accelerate
launch` make it. Whoever has a launcher of his own (several machines, say) can give it the same module and file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebend.config.adapters import trained_adapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_json, read_parquet, write_json
from rebend.io.locks import held_descriptors
from rebend.io.schemas import CHAT, SAFETY
from rebend.pipeline.jobs.planned_version import check_same_sources
from rebend.repbend.train import train_adapter


@dataclass(frozen=True)
class TrainingJob:
    """All that a training depends on, as paths and plain values."""

    base: str
    examples: str
    paired_examples: str
    retain_chats: str
    out: str
    progress: str
    dtype: str
    adapter: Mapping[str, Any]  # settings of the block
    ranks: int = 1
    zero: Mapping[str, Any] | None = None  # DeepSpeed's configuration; None trains without it

    def run(self) -> dict[str, Any]:
        """Train in this process, alone or as one of the ranks; return facts for the record."""
        tables = (
            read_parquet(self.examples, SAFETY),
            read_parquet(self.paired_examples, SAFETY),
            read_parquet(self.retain_chats, CHAT),
        )
        checkpoints = Checkpoints(self.progress)
        return train_adapter(
            self.base, self.dtype, trained_adapter(self.adapter), tables, self.out, checkpoints, self.zero
        )


def run_training_job(job: TrainingJob, threads: int = 1) -> dict[str, Any]:
    """Run a job where its settings want it; return facts for the record.

    Ranks are told to stop when this process is: they save, and this process ends as they do. Raises `ModelError`
    if a rank failed; what it said is in the log.
    """
    if job.zero is None:
        return job.run()
    folder = Path(job.progress)
    description, facts = folder / "job.json", folder / "facts.json"
    write_json(description, asdict(job))
    command = launch_command(job.ranks, description)
    environment = {**os.environ, **_rank_environment(max(1, threads // job.ranks))}
    # Ranks that outlive a killed job keep its GPUs and its progress from the next one.
    process = subprocess.Popen(command, env=environment, pass_fds=held_descriptors())
    previous = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
        process.kill()
    if status:
        raise ModelError(f"training on {job.ranks} ranks ended with status {status}; see the log above")
    return read_json(facts)


def launch_command(ranks: int, description: Path) -> list[str]:
    """Return the command that starts the ranks of one machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*command, "-m", "rebend.repbend.launch", str(description)]


def _gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _rank_environment(threads: int) -> dict[str, str]:
    """Threads of one rank; and without a GPU, DeepSpeed must be told so."""
    return {"OMP_NUM_THREADS": str(threads), **({} if _gpus() else {"DS_ACCELERATOR": "cpu"})}


def main() -> None:
    """Run one rank of the job described by the file that is the argument."""
    check_same_sources("train_adapter")
    description = Path(sys.argv[1])
    job = TrainingJob(**json.loads(description.read_text(encoding="utf-8")))
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != job.ranks:
        raise ModelError(f"the launcher has started {started} ranks, and the job has {job.ranks}")
    facts = job.run()
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(description.with_name("facts.json"), facts)


if __name__ == "__main__":
    main()
