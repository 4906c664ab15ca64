"""Digests of a study's results, without measured times, which differ in every run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd

# Columns of measured times; `on_frontier` and the order of rows depend on them.
TIMES = [
    "seconds_per_1000_tokens",
    "seconds_per_1000_tokens_low",
    "seconds_per_1000_tokens_high",
    "relative_time",
    "on_frontier",
]
TIMED_TABLES = ("frontier", "recontrol")
NOT_COMPARED = ("logs", "benchmarks", "progress", "judge_store")


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each result in a `results` folder, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest()
        for path in files
        if path.relative_to(folder).parts[0] not in NOT_COMPARED and not _has_times(path)
    }


def _has_times(path: Path) -> bool:
    """Return whether a file holds measured times: a record, the report, a figure, a formatted table with times."""
    if path.name == "report.html" or path.parent.name == "figures":
        return True
    if path.suffix == ".json":
        return "commit" in json.loads(path.read_text())
    return path.stem in TIMED_TABLES and path.suffix != ".csv"


def _content(path: Path) -> bytes:
    if path.stem in TIMED_TABLES:
        table = pd.read_csv(path).drop(columns=TIMES, errors="ignore")
        return table.sort_values(list(table.columns)).to_csv(index=False).encode()
    return path.read_bytes()
