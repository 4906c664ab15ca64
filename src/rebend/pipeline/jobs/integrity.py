"""Is a result still what its stage wrote? Every record holds the digests of its results; who reads them compares.

A flipped byte in weights is a number like any other: nothing but a digest shows it. A damaged result is put aside, so
that the next run makes it again, and only it and what needs it.
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

_READERS = 4  # files that are read at once; hashing one keeps one core busy
ASIDE = ".damaged"


def digests_of(results: Iterable[str | Path]) -> dict[str, str]:
    """Return the digest of every file among the results, and of every file in the folders among them."""
    files = [file for result in results for file in _files(Path(result))]
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(map(str, files), pool.map(file_digest, files), strict=True))


def recorded_digests(inputs: Iterable[str]) -> dict[str, str]:
    """Return the digests that the records of these results, or of the folders that they lie in, hold."""
    places = {place for name in inputs for place in (name, str(Path(name).parent))}
    known: dict[str, str] = {}
    for record in sorted({paths.record(place) for place in places}):
        if Path(record).is_file():
            known.update(read_json(record).get("digests", {}))
    return known


def check(inputs: Iterable[str], known: Mapping[str, str]) -> None:
    """Compare inputs with their `known` digests; what has none is left alone.

    A result that is damaged is put aside. Raises `DataError` that names the damaged files, and says what to do.
    """
    wrong = []
    for name in inputs:
        expected = {file: known[file] for file in map(str, _files(Path(name))) if file in known}
        lost = [file for file in known if file.startswith(f"{name}/") and not Path(file).exists()]
        found = digests_of(expected)
        if damaged := [file for file in expected if found[file] != expected[file]] + lost:
            wrong.append(f"{', '.join(damaged)} (now in {_put_aside(Path(name))})")
    if wrong:
        raise DataError(
            f"damaged, or changed since it was made: {'; '.join(wrong)}. Run again: only that is made again, and what "
            "needs it"
        )


def _put_aside(result: Path) -> Path:
    aside = result.with_name(result.name + ASIDE)
    if aside.is_dir():
        shutil.rmtree(aside)
    if result.exists():  # another job may have found it at the same time
        result.rename(aside)
    return aside


def _files(result: Path) -> Iterator[Path]:
    if result.is_dir():
        yield from sorted(file for file in result.rglob("*") if file.is_file())
    elif result.exists():
        yield result
