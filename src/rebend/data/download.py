"""The Hugging Face hub: its errors in one sentence, and its repositories at one commit, fetched into its cache."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
)
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import filter_repo_objects

from rebend.data.assets import Asset, token_mistake
from rebend.errors import DataError
from rebend.io.checksums import bytes_digest, file_digest
from rebend.io.files import write_text

# Weights in other formats would double the download.
_WANTED = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]


@dataclass(frozen=True)
class Snapshot:
    """Files in a folder, as they were at one commit."""

    folder: Path
    names: Sequence[str]
    commit: str | None = None
    gated: bool = False
    licence: str | None = None  # as the repository's card names it


def fetch_snapshot(asset: Asset, revision: str) -> Snapshot:
    """Return an asset of the hub at `revision`, downloading what is not in the hub's cache.

    A model is its repository without weights in a second format: `.bin` files only where there are no safetensors.
    Where the environment forbids the network (HF_HUB_OFFLINE), the cache has to have it. Raises `DataError`.
    """
    where = f"hub {asset.kind} {asset.where}, revision {asset.revision}"
    first = asset.files[0] if asset.kind == "dataset" else None
    if asset.gated and (mistake := token_mistake(where, asset.where, revision, first)):
        raise DataError(mistake)
    with _hub_errors(where, asset.page):
        told = _told(asset, revision)
        commit = told[0] if told else revision
        folder, names = _model(asset, commit) if asset.kind == "model" else _files(asset, commit)
    gated = told[1] if told else asset.gated
    return Snapshot(folder, names, folder.name, gated, _licence(folder))


def _told(asset: Asset, revision: str) -> tuple[str, bool] | None:
    """What the hub says about a revision: its commit, and whether a licence must be accepted; None if it is silent."""
    try:
        info = HfApi().repo_info(asset.where, repo_type=asset.kind, revision=revision)
    except HfHubHTTPError:
        raise
    except Exception:  # forbidden by the environment, or no connection, which each version tells in its own words
        return None
    return str(info.sha), bool(getattr(info, "gated", False))


def _model(asset: Asset, commit: str) -> tuple[Path, list[str]]:
    wanted = [*_WANTED, "*.py"] if asset.code else _WANTED
    folder = Path(snapshot_download(asset.where, revision=commit, allow_patterns=wanted))
    if not any(folder.glob("*.safetensors")):
        wanted = [*wanted, "*.bin"]
        folder = Path(snapshot_download(asset.where, revision=commit, allow_patterns=wanted))
    here = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    return folder, list(filter_repo_objects(here, allow_patterns=wanted))


def _files(asset: Asset, commit: str) -> tuple[Path, list[str]]:
    for name in asset.files:
        path = Path(hf_hub_download(asset.where, name, repo_type="dataset", revision=commit))
    with suppress(RemoteEntryNotFoundError, LocalEntryNotFoundError):  # the card, for its licence
        hf_hub_download(asset.where, "README.md", repo_type="dataset", revision=commit)
    return path.parents[name.count("/")], list(asset.files)


def _licence(folder: Path) -> str | None:
    """The licence in the front matter of a repository's card."""
    card = folder / "README.md"
    with suppress(ValueError, yaml.YAMLError):
        if card.is_file() and (found := (metadata_load(card) or {}).get("license")):
            return ", ".join(found) if isinstance(found, list) else str(found)
    return None


@contextmanager
def _hub_errors(where: str, page: str) -> Iterator[None]:
    """Turn what the hub's library raises into one sentence."""
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{where}: this repository is gated and the token in use has no access. Accept its licence at "
            f"{page} and set HF_TOKEN to a token of that account"
        ) from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE forbids the network" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise DataError(f"{where}: not in the local cache, and {why}") from error
    except HfHubHTTPError as error:
        raise DataError(f"{where}: the hub refused it ({str(error).splitlines()[0]})") from error


_TIMEOUT = 60  # seconds without an answer


def download(url: str, target: Path) -> None:
    """Write what lies behind `url` (http, https or file) to `target`.

    What has come is kept beside it until it is whole. A later call asks for the rest only, if the server tells that
    the file is still the same one. Raises `DataError` naming the address.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise DataError(f"{url}: '{scheme}' addresses are not read. Allowed: http, https, file")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, mark = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.mark")
    try:
        _receive(url, partial, mark)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is no such rest: what is here is of another file
            partial.unlink(missing_ok=True)
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    partial.replace(target)
    mark.unlink(missing_ok=True)


def _receive(url: str, partial: Path, mark: Path) -> None:
    had = partial.stat().st_size if partial.exists() else 0
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else None
    headers = {"Range": f"bytes={had}-", "If-Range": known} if had and known else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as answer:
        going_on = getattr(answer, "status", None) == 206 and _begins_at(answer, had)
        if not going_on:
            partial.unlink(missing_ok=True)  # first, or a kill here would leave old bytes under a new mark
        write_text(mark, json.dumps(_identity(answer)))
        with partial.open("ab" if going_on else "wb") as stream:
            shutil.copyfileobj(answer, stream)
            stream.flush()
            os.fsync(stream.fileno())
        promised = answer.headers.get("Content-Length")
    came, size = partial.stat().st_size - (had if going_on else 0), partial.stat().st_size
    if promised is not None and came != int(promised):
        raise DataError(f"{url}: the download broke off after {size} of {int(promised) + size - came} bytes; run again")


def _identity(answer: Any) -> str | None:
    """What a server calls this version of the file; a weak tag does not vouch for each byte."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _begins_at(answer: Any, place: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {place}-")


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
        "digest": bytes_digest(json.dumps(files, sort_keys=True).encode()),
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
