"""Refuse to start a job whose code or settings changed after the run was planned.

Snakemake plans once, when it starts. Each job reads the code again (on a cluster also the configuration), perhaps hours
later. So the run writes a digest of the settings and the code of each job to a plan file, and exports the path of this
file. A job with another digest refuses to start. A job that starts imports all modules that it reaches at once, so that
later edits do not affect it.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rebend.errors import ChangedError
from rebend.io.checksums import json_digest
from rebend.io.files import read_json, write_json
from rebend.pipeline.jobs.code_version import code_version, reached_modules, sources, sources_digest, texts_digest

VARIABLE = "REBEND_PLANNED"
SOURCES = "REBEND_SOURCES"
_KEPT_DAYS = 30  # jobs of a cluster may still run after their Snakemake was killed


def write_plan(jobs: Mapping[str, tuple[str, Any]], texts: str, folder: str | Path) -> None:
    """Write code and settings of each job to a file in `folder`, and export its path to later processes.

    `jobs` is record path → (code version, settings). `texts` is the digest of all source files, taken before the code
    versions: a job that computes the same digest need not compute its code version. Plans older than 30 days are
    deleted.
    """
    plan = {"jobs": {record: digest_of(code, settings) for record, (code, settings) in jobs.items()}, "texts": texts}
    name = json_digest(plan)[:16]
    path = (Path(folder) / f"{name}.json").absolute()
    write_json(path, plan)
    os.environ[VARIABLE] = str(path)
    for old in path.parent.glob("*.json"):
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _KEPT_DAYS * 86400:
                old.unlink()


def check_planned(stage: str, record: str, code: str, settings: Any, entries: Sequence[str] = ()) -> None:
    """Import all modules that the job reaches. Raises `ChangedError` if code or settings are not the planned ones.

    `entries` are the import paths of the methods that the stage uses ("module:attribute"). Does nothing outside a run,
    or if the job does not inherit the environment of the run.
    """
    plan = os.environ.get(VARIABLE)
    if not plan or not Path(plan).is_file():
        return
    before, known = sources(), read_json(plan)
    planned = known["jobs"].get(record)
    if planned is not None and planned != digest_of(code, settings):
        raise _changed(stage, "the code or the configuration")
    script = Path(getattr(sys.modules["__main__"], "__file__", ""))
    if script.is_file():
        # An edit matters only if it changes the code version of this stage: comments and other stages do not.
        if known["texts"] != texts_digest(script.parents[1]) and _version(script, entries) != code:
            raise _changed(stage, "the code")
        _import_all(reached_modules(script, *entries))
    # The same for edits during these imports.
    if sources() != before and not (script.is_file() and _version(script, entries) == code):
        raise _changed(stage, "the code")
    os.environ[SOURCES] = sources_digest(before)


def check_same_sources(stage: str) -> None:
    """Raise `ChangedError` if the library's files differ from those of the job that launched this rank."""
    if os.environ.get(SOURCES, digest := sources_digest(sources())) != digest:
        raise _changed(stage, "the code")


def digest_of(code: str, settings: Any) -> str:
    """Return 16 hex digits for a job's code and settings."""
    return json_digest([code, settings])[:16]


def _version(script: Path, entries: Sequence[str]) -> str | None:
    """Return the current code version of a script; None if an entry no longer exists."""
    try:
        return code_version(script, *entries)
    except ValueError:
        return None


def _import_all(modules: set[str]) -> None:
    for name in sorted(modules):
        with suppress(ImportError):  # some methods need packages that are not installed everywhere
            importlib.import_module(name)


def _changed(stage: str, edited: str) -> ChangedError:
    return ChangedError(
        f"{stage}: {edited} was edited during the run, so this job was not started: it would mix two versions. "
        "Finished results are kept. Let the run end or stop it, then start it again; the new run uses the edited files"
    )
