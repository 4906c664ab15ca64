"""Download one commit of a Hugging Face repository into the hub's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

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

# Weights in a second format would double the download.
_TERMS = ["README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"]
_MODEL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", *_TERMS]


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit, of one version of a package, or of one address, in a folder."""

    folder: Path
    names: Sequence[str]  # paths of the files below `folder`
    commit: str | None = None  # a package's version; None for a file behind an address
    gated: bool = False
    licence: str | None = None  # from the repository's card, or the package's metadata


def fetch_snapshot(asset: Asset, revision: str) -> Snapshot:
    """Return the files of a hub asset at `revision`; download those that are not in the hub's cache.

    A model's `.bin` weights are downloaded only if the repository has no safetensors. If HF_HUB_OFFLINE forbids the
    network, or there is no connection, all files must be in the cache. Raises `DataError` if the repository or a file
    does not exist, cannot be reached, or needs a token.
    """
    where = f"hub {asset.kind} {asset.where}, revision {asset.revision}"
    first = asset.files[0] if asset.kind == "dataset" else None
    if asset.gated and (mistake := token_mistake(where, asset.where, revision, first)):
        raise DataError(mistake)
    with _hub_errors(where, asset.page):
        info = _commit_and_gated(asset, revision)
        commit, gated = info or (revision, asset.gated)
        if asset.kind == "dataset":
            folder, names = _dataset_files(asset, commit)
        else:
            folder, names = _gguf(asset, commit) if asset.files else _model(asset, commit)
    return Snapshot(folder, names, folder.name, gated, _licence(folder))


def _commit_and_gated(asset: Asset, revision: str) -> tuple[str, bool] | None:
    """Return the commit of a revision and whether its licence must be accepted; None if the hub does not answer."""
    try:
        info = HfApi().repo_info(asset.where, repo_type=asset.kind, revision=revision)
    except HfHubHTTPError:
        raise
    except Exception:  # offline mode or no connection; the exception's type depends on the library's version
        return None
    return str(info.sha), bool(getattr(info, "gated", False))


def _model(asset: Asset, commit: str) -> tuple[Path, list[str]]:
    patterns = [*_MODEL_FILES, "*.py"] if asset.code else _MODEL_FILES
    folder = Path(snapshot_download(asset.where, revision=commit, allow_patterns=patterns))
    if not any(folder.glob("*.safetensors")):
        patterns = [*patterns, "*.bin"]
        folder = Path(snapshot_download(asset.where, revision=commit, allow_patterns=patterns))
    return folder, _names(folder, patterns)


def _gguf(asset: Asset, commit: str) -> tuple[Path, list[str]]:
    """Download one GGUF file of a repository, with card and licence. Raises `DataError` unless exactly one matches."""
    patterns = [*asset.files, *_TERMS]
    folder = Path(snapshot_download(asset.where, revision=commit, allow_patterns=patterns))
    found = _names(folder, list(asset.files))
    if len(found) != 1:
        known = found
        with suppress(Exception):  # without a connection, the repository's files are not known
            known = found or HfApi().list_repo_files(asset.where, revision=commit)
        files = ", ".join(name for name in known if name.endswith(".gguf")) or "none"
        raise DataError(
            f"hub model {asset.where}, revision {asset.revision}: {len(found)} files match '{asset.files[0]}', one is "
            f"needed; its GGUF files: {files}"
        )
    return folder, _names(folder, patterns)


def _names(folder: Path, patterns: list[str]) -> list[str]:
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    return list(filter_repo_objects(names, allow_patterns=patterns))


def _dataset_files(asset: Asset, commit: str) -> tuple[Path, list[str]]:
    for name in asset.files:
        path = Path(hf_hub_download(asset.where, name, repo_type="dataset", revision=commit))
    with suppress(RemoteEntryNotFoundError, LocalEntryNotFoundError):  # the card states the licence
        hf_hub_download(asset.where, "README.md", repo_type="dataset", revision=commit)
    return path.parents[name.count("/")], list(asset.files)


def _licence(folder: Path) -> str | None:
    """Return the licence in the front matter of a repository's card; None if the card names none."""
    card = folder / "README.md"
    with suppress(ValueError, yaml.YAMLError):
        if card.is_file() and (licence := (metadata_load(card) or {}).get("license")):
            return ", ".join(licence) if isinstance(licence, list) else str(licence)
    return None


@contextmanager
def _hub_errors(where: str, page: str) -> Iterator[None]:
    """Convert errors of the hub's library inside the block to a `DataError` with a message of one sentence."""
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{where}: this repository is gated and the token in use has no access. Accept its licence at "
            f"{page} and set HF_TOKEN to a token of that account"
        ) from error
    except LocalEntryNotFoundError as error:
        reason = (
            "HF_HUB_OFFLINE forbids the network" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        )
        raise DataError(f"{where}: not in the local cache, and {reason}") from error
    except HfHubHTTPError as error:
        raise DataError(f"{where}: the hub refused the request ({str(error).splitlines()[0]})") from error
