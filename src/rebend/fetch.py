"""Bring an asset in: from the hub into the hub's cache, from an address into a folder; and say what came."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rebend.assets import Asset
from rebend.download import download
from rebend.errors import DataError
from rebend.hub import Snapshot, fetch_snapshot
from rebend.storage import file_digest


def fetch_asset(asset: Asset, folder: Path, locked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fetch `asset`, or find it where it was fetched before, and return its manifest.

    Files behind addresses are put into `folder`. A `locked` entry says which commit a branch stands for. Raises
    `DataError` naming the asset where it cannot be had, is damaged, or is not what its digest says.
    """
    if asset.kind == "url":
        found = _from_address(asset, folder, locked)
    else:
        found = fetch_snapshot(asset, locked["commit"] if locked else asset.revision)
    files = {name: _facts(found.folder / name) for name in sorted(found.names)}
    return {
        "asset": asset.name,
        "kind": asset.kind,
        "where": asset.where,
        "revision": asset.revision,
        "commit": found.commit,
        "gated": found.gated,
        "licence": found.licence,
        "size": sum(facts["size"] for facts in files.values()),
        "files": files,
        "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "folder": str(found.folder.absolute()),
    }


def _from_address(asset: Asset, folder: Path, locked: Mapping[str, Any] | None) -> Snapshot:
    # The name keeps its ending, which tells the format, and gets the asset's: two may both be called test.jsonl.
    target = folder / f"{asset.name[-8:]}-{PurePosixPath(unquote(urlsplit(asset.where).path)).name}"
    wanted = asset.sha256.lower() if asset.sha256 else locked and locked["files"].get(target.name, {}).get("sha256")
    if wanted is None or not target.is_file() or file_digest(target) != wanted:
        download(asset.where, target)
    if asset.sha256 and (found := file_digest(target)) != wanted:
        target.unlink()
        raise DataError(f"{asset.where}: its SHA-256 is {found}, but the configuration says {wanted}")
    return Snapshot(folder, (target.name,))


def _facts(path: Path) -> dict[str, Any]:
    digest = file_digest(path)
    # Large files lie in the hub's cache under the digest that the hub promised.
    promised = path.resolve().name
    if len(promised) == 64 and set(promised) <= set("0123456789abcdef") and promised != digest:
        raise DataError(f"{path.resolve()}: is damaged, its SHA-256 is {digest}; delete it and fetch again")
    return {"size": path.stat().st_size, "sha256": digest}
