"""Assets: names, manifests and the files of sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.config.datasets import DataSource
from rebend.data.assets import Asset, asset_files, source_asset, source_file
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from tests.helpers.hub_assets import BODY, address_asset, fetch_from_hub, write_manifest
from tests.helpers.hub_server import COMMIT, Hub


def test_source_file_joins_files_of_a_repository_in_their_order(tmp_path: Path, hub: Hub) -> None:
    source = DataSource(
        hub={"repo": "open/data", "revision": COMMIT, "file": ["b/rows.jsonl", "a/rows.jsonl"]}  # type: ignore[arg-type]
    )
    asset = source_asset(source)
    assert asset is not None
    manifest = fetch_from_hub(hub, tmp_path, asset)
    assert manifest["licence"] is None
    found = source_file(source, [write_manifest(tmp_path, manifest)], tmp_path / "joined")
    assert found is not None and found.read_bytes() == BODY[:160] + BODY


def test_asset_files_names_a_missing_or_truncated_file(tmp_path: Path, hub: Hub) -> None:
    manifest = write_manifest(tmp_path, fetch_asset(address_asset(hub), tmp_path / "files"))
    ((_, path),) = asset_files(manifest).items()
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="has 1 bytes, not 16000; fetch it again"):
        asset_files(manifest)
    path.unlink()
    with pytest.raises(DataError, match="no longer exists; fetch it again: `snakemake fetch"):
        asset_files(manifest)


def test_error_for_a_source_without_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not fetched yet, and this job has no network; run `snakemake fetch`"):
        source_file(DataSource(url="https://host/x.jsonl"), [], tmp_path)


def test_source_file_of_a_local_path_and_of_the_tiny_world(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(BODY)
    assert source_file(DataSource(local=str(path)), [], tmp_path) == path
    with pytest.raises(DataError, match="there is no such file"):
        source_file(DataSource(local=str(tmp_path / "b.jsonl")), [], tmp_path)
    world = DataSource(world={"part": "test", "rows": 3})  # type: ignore[arg-type]
    assert source_file(world, [], tmp_path) is None


def test_asset_name_is_no_path_and_differs_by_repository_and_revision() -> None:
    odd = Asset("model", "../../etc/passwd", "main")
    assert "/" not in odd.name and ".." not in odd.name
    names = {
        Asset("model", "a/b", "main").name,
        Asset("model", "a/b", "1" * 40).name,
        Asset("model", "a-b", "main").name,
    }
    assert len(names) == 3
    assert Asset("model", "a/b", "main", gated=True).name in names  # the same bytes
