"""Orphans: jobs in a Slurm queue whose Snakemake was killed.

A killed Snakemake leaves its jobs in the queue. A new run would submit them a second time, and two jobs would write the
same result. So a run does not start while orphans exist; `python -m rebend.pipeline.jobs.slurm_orphans` cancels them.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rebend.errors import RebendError
from rebend.io.files import read_json

_RUN_NAME = re.compile(r"(.*_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the executor's name of all jobs of a run


class OrphanError(RebendError):
    """Jobs of an earlier run are still in the queue, or have left results of other code or settings."""


class Orphan(NamedTuple):
    """A job in the queue."""

    job: str
    state: str
    rule: str


def orphans(folder: Path) -> list[Orphan]:
    """Return the jobs in the queue that a run in `folder` submitted; [] without Slurm, or if `squeue` fails."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%A|%T|%j|%k|%Z"]
    try:
        listing = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    jobs = [line.split("|", 4) for line in listing.splitlines() if line.count("|") >= 4]
    return [
        Orphan(job, state, comment.removeprefix("rule_"))
        for job, state, name, comment, workdir in jobs
        if _RUN_NAME.fullmatch(name) and workdir == str(folder) and job != os.environ.get("SLURM_JOB_ID")
    ]


def refuse_orphans(folder: Path) -> None:
    """Raise `OrphanError` naming the jobs of an earlier run, if there are any."""
    if jobs := orphans(folder):
        listed = "\n  ".join(f"{job} {state} {rule}" for job, state, rule in jobs)
        raise OrphanError(
            f"an earlier run was killed and left jobs in the queue that work in this folder:\n  {listed}\n"
            "A new run would write the same files. Wait until these jobs have ended, or run `make resume`: it cancels "
            "them (their progress is kept) and unlocks the folder."
        )


def refuse_unlike(jobs: Mapping[str, tuple[str, Any]]) -> None:
    """Raise `OrphanError` naming the results that were built with other code or settings than their jobs have now.

    `jobs` is record path → (code version, settings) of results that orphans finished. Snakemake has no metadata of
    such results and would not detect the difference, so their records are compared.
    """
    different = [path for path, (code, settings) in jobs.items() if not _is_built_with(path, code, settings)]
    if different:
        listed = "\n  ".join(path.removesuffix(".run.json") for path in different)
        raise OrphanError(
            "Snakemake has no metadata of these results (their run was killed, or they were copied here), and their "
            f"records name other code or settings than the current ones:\n  {listed}\n"
            "Delete them; the next run builds them again."
        )


def _is_built_with(record: str, code: str, settings: Any) -> bool:
    facts = read_json(record)
    return bool(facts.get("code") == code and facts.get("settings") == json.loads(json.dumps(settings)))


def cancel_orphans(folder: Path, seconds: float = 300) -> list[Orphan]:
    """Cancel the jobs of an earlier run, wait until they have left the queue, and return them.

    Raises `OrphanError` if they are still in the queue after `seconds`, or if their run is still active.
    """
    if processes := _snakemakes(folder):
        raise OrphanError(f"a run is active in this folder (process {processes[0]}). Stop it first")
    cancelled = orphans(folder)
    if cancelled:
        subprocess.run(["scancel", *(orphan.job for orphan in cancelled)], check=True, timeout=60)
    end = time.monotonic() + seconds
    while remaining := orphans(folder):
        if time.monotonic() > end:
            names = ", ".join(orphan.job for orphan in remaining)
            raise OrphanError(f"cancelled, but still in the queue after {seconds:.0f} s: {names}")
        time.sleep(1)
    return cancelled


def _snakemakes(folder: Path) -> list[int]:
    """Return the processes on this machine that control a run in `folder`, without the Snakemake of each job."""
    numbers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, workdir = (process / "cmdline").read_bytes().split(b"\0"), (process / "cwd").resolve(strict=True)
        except OSError:
            continue
        program = {word.rpartition(b"/")[2] for word in command[:3]}  # snakemake, python snakemake, python -m snakemake
        if workdir == folder and b"snakemake" in program and b"--target-jobs" not in command:
            numbers.append(int(process.name))
    return numbers


def main() -> None:
    """Cancel the jobs that a killed run left in the queue for the current folder."""
    try:
        cancelled = cancel_orphans(Path.cwd())
    except RebendError as error:
        sys.exit(f"rebend: {error}")
    for job, state, rule in cancelled:
        print(f"rebend: cancelled {job} ({state}, {rule})")
    print("rebend: no job of an earlier run is in the queue")


if __name__ == "__main__":
    main()
