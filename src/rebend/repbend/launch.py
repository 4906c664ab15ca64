"""The training of an adapter as one job: in this process, or on several ranks started by a launcher.

A rank is `python -m rebend.repbend.launch job.json` with torch's environment variables, as `torchrun` and `accelerate
launch` set them. Another launcher, for several machines, can run the same module with the same file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebend.config.adapters import trained_adapter
from rebend.errors import ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.files import read_json, read_parquet, write_json
from rebend.io.locks import held_descriptors
from rebend.io.schemas import CHAT, SAFETY
from rebend.repbend.train import objective_class, train_adapter

RANK_MODULE = "rebend.repbend.launch"


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a training depends on, as paths and plain values."""

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
    reinforced: str | None = None  # folder of the frozen adapter of WHP

    def run(self) -> dict[str, Any]:
        """Train in this process, alone or as one of the ranks; return facts for the record."""
        tables = (
            read_parquet(self.examples, SAFETY),
            read_parquet(self.paired_examples, SAFETY),
            read_parquet(self.retain_chats, CHAT),
        )
        checkpoints = Checkpoints(self.progress)
        settings = trained_adapter(self.adapter)
        return train_adapter(self.base, self.dtype, settings, tables, self.out, checkpoints, self.zero, self.reinforced)


def run_training_job(job: TrainingJob, threads: int = 1, wrapper: str | None = None) -> dict[str, Any]:
    """Run a job in this process, or on ranks if it has a DeepSpeed configuration; return facts for the record.

    The ranks inherit the locks of this process. SIGTERM to this process ends them; they save their progress first.
    `wrapper` is a module that calls `main` of this one with a check (`python -m wrapper rebend.repbend.launch
    job.json`). Raises `ModelError` if a rank failed; its output is in the log.
    """
    if job.zero is None:
        return job.run()
    folder = Path(job.progress)
    description, facts = folder / "job.json", folder / "facts.json"
    write_json(description, asdict(job))
    modules = [wrapper, RANK_MODULE] if wrapper else [RANK_MODULE]
    command = launch_command(job.ranks, [*modules, str(description)])
    environment = {**os.environ, **_rank_environment(max(1, threads // job.ranks))}
    # Ranks that outlive a killed job keep its locks: the next job must not use their GPUs and their progress.
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


def launch_command(ranks: int, module_and_arguments: Sequence[str]) -> list[str]:
    """Return the command that starts the ranks of one machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*command, "-m", *module_and_arguments]


def _gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _rank_environment(threads: int) -> dict[str, str]:
    """Return the threads of one rank, and DeepSpeed's variable for machines without a GPU."""
    return {"OMP_NUM_THREADS": str(threads), **({} if _gpus() else {"DS_ACCELERATOR": "cpu"})}


def main(check: Callable[[], None] | None = None) -> None:
    """Run one rank of the job in the file that is the argument; call `check` first, after importing the method."""
    description = Path(sys.argv[1])
    job = TrainingJob(**json.loads(description.read_text(encoding="utf-8")))
    objective_class(trained_adapter(job.adapter))
    if check:
        check()
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != job.ranks:
        raise ModelError(f"the launcher has started {started} ranks, and the job has {job.ranks}")
    facts = job.run()
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(description.with_name("facts.json"), facts)


if __name__ == "__main__":
    main()
