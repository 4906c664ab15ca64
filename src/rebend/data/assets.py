"""Assets: repositories of the hub, files of Python packages, and files behind addresses, each with a unique name.

An asset is fetched once, on a machine with a network. Its manifest, a small JSON file, holds the commit, the licence,
the files with their digests, and their folder. All other jobs read the manifest and need no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from rebend.config.base import Block
from rebend.config.datasets import DataSource
from rebend.config.models import HubModel, PackageFile
from rebend.errors import DataError
from rebend.io.files import read_json, whole_file

FETCH_AGAIN = "fetch it again: `snakemake fetch --forcerun fetch_asset`"


@dataclass(frozen=True)
class Asset:
    """A model repository, files of a repository, a file of a Python package, or the file behind an address."""

    kind: Literal["model", "dataset", "package", "url"]
    where: str  # owner/name, the package's name, or the address
    revision: str = ""  # from the configuration; `fetch` resolves a branch to its commit; a package's version
    files: tuple[str, ...] = ()  # of a data set repository; of a model repository or a package, one GGUF file
    gated: bool = False
    sha256: str | None = None  # expected digest of the file behind an address, or of the package's file
    code: bool = False  # of a model repository: fetch its Python files, too

    @property
    def name(self) -> str:
        """A readable file name that is unique for kind, address, revision and files."""
        identity = json.dumps([self.kind, self.where, self.revision, self.files, *(["code"] if self.code else [])])
        words = self.where if self.kind != "url" else PurePosixPath(unquote(urlsplit(self.where).path)).name
        readable = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:60]
        return f"{self.kind}-{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @property
    def page(self) -> str:
        """The web page with the description and the licence."""
        return self.where if self.kind == "url" else f"https://huggingface.co/{self.repository}"

    @property
    def repository(self) -> str:
        """The path of the repository below the hub's address."""
        return f"datasets/{self.where}" if self.kind == "dataset" else self.where

    def settings(self) -> dict[str, Any]:
        """Return the asset as plain values."""
        return {**asdict(self), "files": list(self.files)}

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> Asset:
        """Return the asset of these `settings`."""
        return cls(**{**values, "files": tuple(values["files"])})


def model_asset(hub: HubModel) -> Asset:
    """Return the asset of a model block's `hub`."""
    file = getattr(hub, "file", None)
    files = (file,) if file else ()
    return Asset("model", hub.repo, hub.revision, files, gated=hub.gated, code=hub.trust_remote_code)


def package_asset(package: PackageFile) -> Asset:
    """Return the asset of a model block's `package`."""
    return Asset("package", package.name, package.version, (package.file,), sha256=package.sha256)


def source_asset(source: DataSource) -> Asset | None:
    """Return the asset of a source; None for local files and the tiny world."""
    if source.hub is not None:
        return Asset("dataset", source.hub.repo, source.hub.revision, tuple(source.hub.files), source.hub.gated)
    return Asset("url", source.url, sha256=source.sha256) if source.url is not None else None


def block_assets(block: Block) -> list[Asset]:
    """Return all assets of a block of the catalogue, in the order of its keys."""
    hub, package = getattr(block, "hub", None), getattr(block, "package", None)
    model = model_asset(hub) if isinstance(hub, HubModel) else None
    packaged = package_asset(package) if isinstance(package, PackageFile) else None
    values = [getattr(block, key, None) for key in ("source", "reference", "examples")]
    sources = [source for value in values for source in (value if isinstance(value, list) else [value])]
    assets = [source_asset(source) for source in sources if isinstance(source, DataSource)]
    return [asset for asset in (model, packaged, *assets) if asset is not None]


def asset_files(manifest: str | Path) -> dict[str, Path]:
    """Return the paths of the files in a manifest, by name.

    Raises `DataError` if a file is missing or has another size.
    """
    entries = read_json(manifest)
    paths = {}
    for name, facts in entries["files"].items():
        path = Path(entries["folder"], name)
        if not path.is_file():
            raise DataError(f"{entries['where']}: {path} no longer exists; {FETCH_AGAIN}")
        if path.stat().st_size != facts["size"]:
            raise DataError(
                f"{entries['where']}: {path} has {path.stat().st_size} bytes, not {facts['size']}; {FETCH_AGAIN}"
            )
        paths[name] = path
    return paths


def model_folder(manifest: str | Path) -> Path:
    """Return the folder of a fetched model repository; its name is the commit."""
    asset_files(manifest)
    return Path(read_json(manifest)["folder"])


def gguf_file(manifest: str | Path) -> Path:
    """Return the fetched GGUF file of a package or of a model repository. Raises `DataError` if it is gone."""
    return next(path for name, path in asset_files(manifest).items() if name.endswith(".gguf"))


def source_file(source: DataSource, manifests: Iterable[str], folder: Path) -> Path | None:
    """Return the file of `source`: a local file, or the fetched file of a manifest; None for the tiny world.

    Several files of a repository are joined in `folder`. Raises `DataError` if the file does not exist.
    """
    if source.local is not None:
        if not Path(source.local).is_file():
            raise DataError(f"{source.local}: there is no such file")
        return Path(source.local)
    asset = source_asset(source)
    if asset is None:
        return None
    manifest = next((path for path in manifests if Path(path).stem == asset.name), None)
    if manifest is None:
        raise DataError(f"{asset.where}: not fetched yet, and this job has no network; run `snakemake fetch`")
    fetched = asset_files(manifest)
    parts = [fetched[name] for name in asset.files or fetched]
    return parts[0] if len(parts) == 1 else _join(parts, folder)


def _join(parts: list[Path], folder: Path) -> Path:
    """Concatenate files; this is valid for files of lines and for gzip members."""
    with whole_file(folder / parts[0].name) as temporary, temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, joined)
    return folder / parts[0].name


def token_mistake(where: str, repo: str, revision: str, file: str | None = None) -> str | None:
    """Return a message if a gated hub repository is not in the cache and no token is set; else None.

    `file` is a file of a data set; None means a model repository.
    """
    home = Path(os.environ.get("HF_HOME") or Path(_cache_home(), "huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    kind = "models" if file is None else "datasets"
    if Path(cache, f"{kind}--{repo.replace('/', '--')}", "snapshots", revision, file or "").exists():
        return None
    stored = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    if os.environ.get("HF_TOKEN", "").strip() or stored.is_file():
        return None
    page = repo if file is None else f"datasets/{repo}"
    return (
        f"{where}: {repo} is gated and no hub token was found (HF_TOKEN is not set, {stored} does not exist). "
        f"Accept its licence at https://huggingface.co/{page} and set HF_TOKEN, or log in with `hf auth login`"
    )


def _cache_home() -> str:
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"
