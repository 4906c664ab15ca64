"""Digests of what a study found, without what no two runs have in common: how long things took, and when."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd

# What is measured by the clock; from it follow the order of rows and whether one is on the frontier of reward and time.
TIMES = ["seconds_per_1000_tokens", "relative_time", "on_frontier"]
TIMED_TABLES = ("frontier", "recontrol")
ASIDE = ("logs", "benchmarks", "progress", "judge_store")


def digests(folder: Path) -> dict[str, str]:
    """Digest of every result in a `results` folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(_content(path)).hexdigest()
        for path in files
        if path.relative_to(folder).parts[0] not in ASIDE and not _tells_times(path)
    }


def _tells_times(path: Path) -> bool:
    """Records, the report, and the layouts and pictures of tables that are compared as CSV without their times."""
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
