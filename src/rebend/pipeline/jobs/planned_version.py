"""Jobs run what their run was planned with: an edit of code or configuration while it is going mixes no versions.

Snakemake decides what to run when it starts, and every job reads the code again, perhaps hours later (on a cluster the
configuration, too). So the run writes down, for each job, a digest of its settings and its code, and says in the
environment where. A job whose own differ refuses before it begins; one that has begun imports what it began with.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from rebend.errors import ChangedError
from rebend.io.files import read_json, write_json
from rebend.pipeline.jobs.code_digest import code_digest

VARIABLE = "REBEND_PLANNED"
SOURCES = "REBEND_SOURCES"
_PACKAGE = Path(__file__).parents[2]
_KEPT_DAYS = 30  # for jobs that outlive their Snakemake


def texts_digest(scripts: Path) -> str:
    """Return a digest of the library's text and of the stages' scripts, in the folder `scripts`."""
    return _digest({**_sources(), **{str(path): path.read_bytes() for path in sorted(scripts.glob("*.py"))}})


def remember(jobs: Mapping[str, tuple[str, Any]], texts: str, folder: str | Path) -> None:
    """Write down the code and the settings of each job, by the path of its record; later processes are told where.

    `texts` is the digest from before the code of the jobs was looked at: where it is the same in a job, nothing was
    edited. `folder` is that of the plans.
    """
    plan = {"jobs": {record: digest_of(code, settings) for record, (code, settings) in jobs.items()}, "texts": texts}
    name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    path = (Path(folder) / f"{name}.json").absolute()
    write_json(path, plan)
    os.environ[VARIABLE] = str(path)
    for old in path.parent.glob("*.json"):
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _KEPT_DAYS * 86400:
                old.unlink()


def check_planned(stage: str, record: str, code: str, settings: Any) -> None:
    """Refuse a job that is not the one that was planned; then pin the library's modules to what they are now.

    Outside a run, or where the environment does not reach the job, there is nothing to compare with. Raises
    `ChangedError`.
    """
    plan = os.environ.get(VARIABLE)
    if not plan or not Path(plan).is_file():
        return
    sources, known = _sources(), read_json(plan)
    planned = known["jobs"].get(record)
    if planned is not None and planned != digest_of(code, settings):
        raise _changed(stage, "the code or the configuration")
    script = Path(getattr(sys.modules["__main__"], "__file__", ""))
    # Where a text was edited: is it this stage's, and more than a comment?
    if script.is_file() and known["texts"] != texts_digest(script.parent) and code_digest(script) != code:
        raise _changed(stage, "the code")
    sys.meta_path.insert(0, _Pinned(sources))
    os.environ[SOURCES] = _digest(sources)


def check_same_sources(stage: str) -> None:
    """Refuse to be a part of a job (one of its ranks) that has begun with other modules. Raises `ChangedError`."""
    if os.environ.get(SOURCES, digest := _digest(_sources())) != digest:
        raise _changed(stage, "the code")


def digest_of(code: str, settings: Any) -> str:
    """Return 16 hex digits for a job's code and settings."""
    return hashlib.sha256(json.dumps([code, settings], sort_keys=True).encode()).hexdigest()[:16]


def _sources() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py"))}


def _digest(sources: Mapping[str, bytes]) -> str:
    return hashlib.sha256(b"".join(sources.values())).hexdigest()[:16]


def _changed(stage: str, what: str) -> ChangedError:
    return ChangedError(
        f"{stage}: {what} was edited while the run was going, and this job would mix two versions. It was not begun, "
        "and nothing is lost: let the run end or stop it, and start it again; it plans with what is there then"
    )


class _Pinned(importlib.abc.MetaPathFinder):
    """Finds modules of the library with the text that they had, if their file has another by now."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self.sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("rebend."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        file = str(spec.origin) if spec else ""
        source = self.sources.get(file)
        if spec is None or source is None or Path(file).read_bytes() == source:
            return spec
        inside = spec.submodule_search_locations
        loader = _Text(file, source)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


class _Text(importlib.abc.SourceLoader):
    """Loads a module from text."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str | bytes | os.PathLike[str]) -> bytes:
        return self.source
