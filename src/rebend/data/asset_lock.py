"""The lock file of assets: commit and digests of each asset, from its first fetch.

It is a file beside the configuration, for version control: while it has an entry, a branch such as `main` in a block
means the commit in the entry, on every machine. Entries are sorted and contain neither times nor paths of a machine,
so that the same bytes give the same file.
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
    """Return the entries by the assets' names; an empty dict if there is no lock file."""
    return dict(read_json(path)) if Path(path).exists() else {}


def entry_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a manifest that are the same on every machine."""
    return {key: value for key, value in manifest.items() if key not in _ONLY_IN_MANIFEST}


def add_to_lock(path: str | Path, manifest: Mapping[str, Any]) -> None:
    """Add an asset's entry. Raises `DataError` if the lock file has an entry with other bytes.

    Safe to call from several processes at a time.
    """
    path = Path(path)
    with locked(path.parent / f".{path.name}.guard", announce=False):
        entries = read_lock(path)
        name, entry = manifest["asset"], entry_of(manifest)
        if name in entries:
            check_entry(path, name, entries[name], entry)
        else:
            write_json(path, dict(sorted({**entries, name: entry}.items())))


def check_entry(path: str | Path, name: str, locked: Mapping[str, Any], fetched: Mapping[str, Any]) -> None:
    """Raise `DataError` with the first difference between the fetched and the locked files."""
    if locked.get("commit") != fetched.get("commit"):
        difference = f"commit {fetched.get('commit')}, locked is {locked.get('commit')}"
    elif locked["digest"] != fetched["digest"]:
        difference = _difference(locked["files"], fetched["files"])
    else:
        return
    raise DataError(
        f"{fetched['where']}: the fetched files differ from {path}: {difference}. To accept the new files, delete the "
        f"entry '{name}' there and run `snakemake fetch --forcerun fetch_asset`"
    )


def lock_mistakes(path: str | Path, manifests: Iterable[str | Path]) -> list[str]:
    """Return a message for each fetched asset that differs from its entry in the lock file."""
    entries = read_lock(path)
    mistakes = []
    for file in manifests:
        if Path(file).exists():
            manifest = read_json(file)
            name = manifest["asset"]
            try:
                if name in entries:
                    check_entry(path, name, entries[name], entry_of(manifest))
            except DataError as mistake:
                mistakes.append(str(mistake))
    return mistakes


def _difference(locked: Mapping[str, Any], fetched: Mapping[str, Any]) -> str:
    for name in sorted({*locked, *fetched}):
        before, now = locked.get(name), fetched.get(name)
        if before is None or now is None:
            return f"file {name} is {'new' if before is None else 'missing'}"
        if before["sha256"] != now["sha256"]:
            return f"file {name} has SHA-256 {now['sha256']}, locked is {before['sha256']}"
    return "the order of the files"
