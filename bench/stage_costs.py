"""What each stage of a finished study took: jobs, processor time, peak memory, tokens per second.

    python bench/stage_costs.py results > costs.md

The records beside the results are read, so the figures are those of the run itself. Tokens are those of the responses;
the time to read the prompts counts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from rebend.pipeline.cost.history import job_records

DECODING = ("attack", "decode", "extract_activations")  # stages whose record counts the tokens of responses


def costs(jobs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row per stage, the most expensive first; times in seconds of one processor core, memory in MiB."""
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for job in jobs:
        by_stage.setdefault(job["stage"], []).append(job)
    rows = [{"stage": stage, **_row(members)} for stage, members in by_stage.items()]
    return pd.DataFrame(rows).sort_values("minutes in all", ascending=False)


def _row(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [job["cpu_seconds"] for job in jobs]
    counted = [job for job in jobs if job["stage"] in DECODING and job["notes"].get("tokens")]
    rates = [job["notes"]["tokens"] / job["cpu_seconds"] for job in counted]
    return {
        "jobs": len(jobs),
        "median s": round(median(seconds), 1),
        "longest s": round(max(seconds), 1),
        "minutes in all": round(sum(seconds) / 60, 1),
        "peak MiB": round(max(job["peak_mib"] for job in jobs)),
        "tokens per second": f"{median(rates):.0f}" if rates else "",
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    table = costs([record for record in job_records(folder) if "cpu_seconds" in record])
    print(table.to_markdown(index=False))
    print(f"\n{table['minutes in all'].sum():.0f} minutes of one core in all")
