"""The Hugging Face hub: its errors in one sentence, and its repositories at one commit, fetched into its cache."""

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

from rebend.assets import Asset
from rebend.errors import DataError
from rebend.preflight_data import token_mistake

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
