"""Fetching an asset: manifest, digest and cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebend.config.datasets import DataSource
from rebend.data.assets import Asset, source_file
from rebend.data.fetch import fetch_asset
from rebend.errors import DataError
from tests.helpers.hub_assets import BODY, DIGEST, address_asset, fetch_from_hub, write_manifest
from tests.helpers.hub_server import COMMIT, Hub


def test_fetch_of_an_address_returns_its_manifest(tmp_path: Path, hub: Hub) -> None:
    asset = address_asset(hub)
    manifest = fetch_asset(asset, tmp_path)
    (name,) = manifest["files"]
    assert name.endswith("-rows.jsonl") and manifest["files"][name] == {"size": 16000, "sha256": DIGEST}
    assert manifest["size"] == 16000 and manifest["commit"] is None and not manifest["gated"]
    source = DataSource(url=asset.where)
    found = source_file(source, [write_manifest(tmp_path, manifest)], tmp_path)
    assert found is not None and found.read_bytes() == BODY
    assert fetch_asset(asset, tmp_path) == manifest


def test_file_with_the_configured_digest_is_not_fetched_again(tmp_path: Path) -> None:
    origin = tmp_path / "a b.jsonl.gz"
    origin.write_bytes(BODY)
    good = Asset("url", origin.as_uri(), sha256=DIGEST.upper())
    manifest = fetch_asset(good, tmp_path / "got")
    assert next(iter(manifest["files"])).endswith("a b.jsonl.gz")
    origin.unlink()
    assert fetch_asset(good, tmp_path / "got") == manifest


def test_file_with_another_digest_is_refused_and_deleted(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(DataError, match=f"its SHA-256 is {DIGEST}, but the configuration states 00ff"):
        fetch_asset(address_asset(hub, sha256="00ff"), tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_damaged_weights_in_the_cache_are_named(tmp_path: Path, hub: Hub) -> None:
    asset = Asset("model", "open/model", COMMIT)
    manifest = fetch_from_hub(hub, tmp_path, asset)
    blob = (Path(manifest["folder"]) / "model.safetensors").resolve()
    blob.write_bytes(b"y" + BODY[1:])
    message = fetch_from_hub(hub, tmp_path, asset)
    assert str(blob) in message and "is damaged" in message
