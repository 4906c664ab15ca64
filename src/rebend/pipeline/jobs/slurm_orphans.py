"""Jobs that a Slurm queue still holds though the Snakemake that sent them there is gone.

Snakemake that is killed leaves its jobs behind; started again, it sends them a second time, and two jobs write one
result. So a run that finds such jobs does not start, and `python -m rebend.pipeline.jobs.slurm_orphans` cancels them.
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

_OURS = re.compile(r"(.*_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # how the executor names all jobs of a run


class OrphanError(RebendError):
    """Jobs of an earlier run still work in this folder."""


class Orphan(NamedTuple):
    """A job in the queue."""

    job: str
    state: str
    what: str


def orphans(folder: Path) -> list[Orphan]:
    """Jobs in the queue that a Snakemake sent from `folder`; none where there is no Slurm, or none that answers."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%A|%T|%j|%k|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    jobs = [line.split("|", 4) for line in done.stdout.splitlines() if line.count("|") >= 4]
    return [
        Orphan(job, state, what.removeprefix("rule_"))
        for job, state, name, what, place in jobs
        if _OURS.fullmatch(name) and place == str(folder) and job != os.environ.get("SLURM_JOB_ID")
    ]


def refuse_orphans(folder: Path) -> None:
    """Raise `OrphanError` that names the jobs of an earlier run, if there are any."""
    if found := orphans(folder):
        listed = "\n  ".join(f"{job} {state} {what}" for job, state, what in found)
        raise OrphanError(
            f"an earlier run was killed and left jobs in the queue that work in this folder:\n  {listed}\n"
            "Started again they would write the same files twice. Wait until they have ended, or say `make resume`: "
            "it cancels them (what they have done so far is kept) and unlocks the folder."
        )


def refuse_unlike(jobs: Mapping[str, tuple[str, Any]]) -> None:
    """Raise `OrphanError` where a result was made with other code or settings than its job has now.

    For results that orphans finished: Snakemake was no longer there to note what they were made with, so it would never
    see the difference. Their own records tell. `jobs`: the code and the settings of each, by the path of its record.
    """
    unlike = [path for path, (code, settings) in jobs.items() if not _made_with(path, code, settings)]
    if unlike:
        listed = "\n  ".join(path.removesuffix(".run.json") for path in unlike)
        raise OrphanError(
            "Snakemake has no notes of these results (a killed run left their jobs behind, or they were copied here), "
            f"and their records tell of other code or settings than there are now:\n  {listed}\n"
            "Delete them, and they are made again."
        )


def _made_with(record: str, code: str, settings: Any) -> bool:
    told = read_json(record)
    return bool(told.get("code") == code and told.get("settings") == json.loads(json.dumps(settings)))


def cancel_orphans(folder: Path, seconds: float = 300) -> list[Orphan]:
    """Cancel the jobs of an earlier run, wait until they are gone, and return them; `OrphanError` if they stay."""
    if alive := _snakemakes(folder):
        raise OrphanError(f"a run is going in this folder (process {alive[0]}); its jobs are no orphans. Stop it first")
    found = orphans(folder)
    if found:
        subprocess.run(["scancel", *(orphan.job for orphan in found)], check=True, timeout=60)
    end = time.monotonic() + seconds
    while left := orphans(folder):
        if time.monotonic() > end:
            raise OrphanError(
                f"cancelled, but still in the queue after {seconds:.0f} s: {', '.join(o.job for o in left)}"
            )
        time.sleep(1)
    return found


def _snakemakes(folder: Path) -> list[int]:
    """Processes of this machine that steer a run in `folder`; not the Snakemake that each job starts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (process / "cmdline").read_bytes().split(b"\0"), (process / "cwd").resolve(strict=True)
        except OSError:
            continue
        program = {word.rpartition(b"/")[2] for word in words[:3]}  # snakemake, python snakemake, python -m snakemake
        if place == folder and b"snakemake" in program and b"--target-jobs" not in words:
            found.append(int(process.name))
    return found


def main() -> None:
    """Cancel what a killed run left in the queue for the current folder."""
    try:
        cancelled = cancel_orphans(Path.cwd())
    except RebendError as error:
        sys.exit(f"rebend: {error}")
    for job, state, what in cancelled:
        print(f"rebend: cancelled {job} ({state}, {what})")
    print("rebend: no job of an earlier run is left in the queue" if not cancelled else "rebend: all of them are gone")


if __name__ == "__main__":
    main()
