"""The lock file of assets: which bytes the names of the configuration stood for when they were fetched first.

It lies beside the configuration, to be committed with it: a branch such as `main` in a block means the commit in the
lock file, here and for everybody else, until its entry is deleted. Entries are sorted and hold no time and no path of
a machine, so that the same bytes give the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rebend.errors import DataError
from rebend.io.files import read_json, write_json
from rebend.io.locks import locked

_ONLY_IN_MANIFEST = ("folder", "asset")


def read_lock(path: str | Path) -> dict[str, Any]:
    """Return the entries by the assets' names; none where there is no lock file yet."""
    return dict(read_json(path)) if Path(path).exists() else {}


def entry_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a manifest that is the same on every machine."""
    return {key: value for key, value in manifest.items() if key not in _ONLY_IN_MANIFEST}


def keep_in_lock(path: str | Path, manifest: Mapping[str, Any]) -> None:
    """Add an asset's entry, or raise `DataError` if the one that is there tells of other bytes.

    Several processes may do this at a time.
    """
    path = Path(path)
    with locked(path.parent / f".{path.name}.guard", announce=False):
        entries = read_lock(path)
        name, entry = manifest["asset"], entry_of(manifest)
        if name in entries:
            check_entry(path, name, entries[name], entry)
        else:
            write_json(path, dict(sorted({**entries, name: entry}.items())))


def check_entry(path: str | Path, name: str, locked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise `DataError` naming the first thing in which fetched bytes differ from the locked ones."""
    if locked.get("commit") != found.get("commit"):
        what = f"commit {found.get('commit')}, locked is {locked.get('commit')}"
    elif locked["digest"] != found["digest"]:
        what = _difference(locked["files"], found["files"])
    else:
        return
    raise DataError(
        f"{found['where']}: other bytes than those in {path}: {what}. If the new ones are wanted, delete the entry "
        f"'{name}' there and run `snakemake fetch --forcerun fetch_asset`"
    )


def lock_mistakes(path: str | Path, manifests: Iterable[str | Path]) -> list[str]:
    """Return a sentence per asset that was fetched here and is not what the lock file says."""
    entries = read_lock(path)
    found = []
    for file in manifests:
        if Path(file).exists():
            manifest = read_json(file)
            name = manifest["asset"]
            try:
                if name in entries:
                    check_entry(path, name, entries[name], entry_of(manifest))
            except DataError as mistake:
                found.append(str(mistake))
    return found


def _difference(locked: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    for name in sorted({*locked, *found}):
        before, now = locked.get(name), found.get(name)
        if before is None or now is None:
            return f"file {name} is {'new' if before is None else 'gone'}"
        if before["sha256"] != now["sha256"]:
            return f"file {name} has SHA-256 {now['sha256']}, locked is {before['sha256']}"
    return "the order of the files"
