"""Time and size of earlier jobs, from their records beside the results and from Snakemake's benchmark files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebend.errors import DataError
from rebend.io.files import read_json
from rebend.pipeline.graph import paths

_WITHOUT_RECORDS = {"progress", "logs", "benchmarks", "judge_store", "tables", "figures"}
_CHECKPOINTS = {"models", "reward_models", "encoders", "judge_models"}  # folders of large files, some of them JSON


@dataclass(frozen=True)
class Measured:
    """One finished job."""

    stage: str
    settings: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    seconds: float
    device: str  # "cpu", or a GPU's name
    bytes: int
    notes: Mapping[str, Any]


def measured_jobs(root: str | Path = paths.ROOT) -> dict[str, list[Measured]]:
    """Return every job with a record below `root`, by stage."""
    jobs: dict[str, list[Measured]] = {}
    for record in job_records(Path(root)):
        jobs.setdefault(record["stage"], []).append(_measured(record))
    return jobs


def job_records(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the records below `root`; files that are no records are skipped."""
    for file in _record_files(root):
        try:
            record = read_json(file)
        except DataError:
            continue
        if isinstance(record, dict) and {"stage", "settings", "inputs", "seconds"} <= record.keys():
            yield record


def _record_files(root: Path) -> Iterator[Path]:
    """Yield the paths of files that may be records."""
    for folder, folders, files in os.walk(root):
        skipped = _WITHOUT_RECORDS if Path(folder) == root else set()
        folders[:] = sorted(set(folders) - skipped) if Path(folder).name not in _CHECKPOINTS else []
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".run.json"))


def _measured(record: Mapping[str, Any]) -> Measured:
    outputs = sorted(record.get("digests", {}))
    return Measured(
        record["stage"],
        record["settings"],
        record["inputs"],
        outputs,
        _benchmark(record.get("log")) or float(record["seconds"]),
        record.get("device", "cpu"),
        sum(Path(file).stat().st_size for file in outputs if Path(file).is_file()),
        record.get("notes", {}),
    )


def _benchmark(log: str | None) -> float | None:
    """Return the wall seconds in the benchmark file of a job, including the start of its process; None without one.

    The benchmark file has the name of the log.
    """
    if log is None:
        return None
    file = Path(log.replace("/logs/", "/benchmarks/", 1)).with_suffix(".tsv")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if len(lines) < 2:
        return None
    values = dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=False))
    try:
        return float(values["s"])
    except (KeyError, ValueError):
        return None
