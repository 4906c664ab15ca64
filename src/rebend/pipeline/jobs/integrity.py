"""Check that the inputs of a job are the files that their stages wrote, by the digests in their records.

A flipped bit in weights gives another valid number, so only a digest detects it. A damaged result is renamed; the next
run builds it and its dependents again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rebend.errors import DataError
from rebend.io.checksums import file_digest
from rebend.io.files import read_json
from rebend.pipeline.graph import paths

_READERS = 4  # files that are read at once; each keeps one core busy
SUFFIX = ".damaged"


def digests_of(results: Iterable[str | Path]) -> dict[str, str]:
    """Return the digest of every file among the results, and of every file in the folders among them."""
    files = [file for result in results for file in _files(Path(result))]
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(map(str, files), pool.map(file_digest, files), strict=True))


def recorded_digests(inputs: Iterable[str]) -> dict[str, str]:
    """Return the digests in the records of these results and of the folders that contain them."""
    places = {place for name in inputs for place in (name, str(Path(name).parent))}
    known: dict[str, str] = {}
    for record in sorted({paths.record(place) for place in places}):
        if Path(record).is_file():
            known.update(read_json(record).get("digests", {}))
    return known


def check(inputs: Iterable[str], known: Mapping[str, str]) -> None:
    """Compare inputs with their `known` digests; files without a digest are not checked.

    Renames damaged results to `<name>.damaged`, and raises `DataError` naming the damaged files and the remedy.
    """
    mistakes = []
    for name in inputs:
        expected = {file: known[file] for file in map(str, _files(Path(name))) if file in known}
        missing = [file for file in known if file.startswith(f"{name}/") and not Path(file).exists()]
        actual = digests_of(expected)
        if damaged := [file for file in expected if actual[file] != expected[file]] + missing:
            mistakes.append(f"{', '.join(damaged)} (moved to {_move_aside(Path(name))})")
    if mistakes:
        raise DataError(f"Checksum mismatch: {'; '.join(mistakes)}. Run again to rebuild it and its dependents.")


def _move_aside(result: Path) -> Path:
    aside = result.with_name(result.name + SUFFIX)
    if aside.is_dir():
        shutil.rmtree(aside)
    if result.exists():  # false if another job has moved it in the meantime
        result.rename(aside)
    return aside


def _files(result: Path) -> Iterator[Path]:
    if result.is_dir():
        yield from sorted(file for file in result.rglob("*") if file.is_file())
    elif result.exists():
        yield result
