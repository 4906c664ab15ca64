"""The part of Snakemake's object that `rebend.pipeline.jobs.job.job` uses, for jobs without Snakemake."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]


class Outputs(list[str]):
    """Paths of results; the last is the record's."""

    @property
    def record(self) -> str:
        """Path of the record."""
        return self[-1]


class Params(dict[str, Any]):
    """Values by key and by attribute."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


def snakemake_job(
    folder: Path | str,
    *,
    rule: str = "s",
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    record: str = "r.json",
    log: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **params: Any,
) -> SimpleNamespace:
    """Return the object of a job with one thread; relative results lie in `folder`, as do log and progress."""
    files = [str(Path(folder) / path) for path in (*outputs, record)]
    common = {"settings": dict(settings or {}), "code": "abc", "progress": str(Path(folder) / "progress")}
    return SimpleNamespace(
        rule=rule,
        input=list(inputs),
        output=Outputs(files),
        params=Params(common, **params),
        log=[log or str(Path(folder) / "l.log")],
        threads=1,
        wildcards={},
        resources=Params(),
    )


def python_path() -> str:
    """Return a PYTHONPATH with which another process can import `tests`."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
