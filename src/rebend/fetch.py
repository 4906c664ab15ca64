"""The file behind a source: a local path, an address with a digest, or a file of the hub at a pinned revision."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from rebend.config.sources import DataSource, HubFile
from rebend.errors import DataError
from rebend.preflight_data import token_mistake
from rebend.storage import whole_file

_TIMEOUT = 60  # seconds without an answer


def fetch(source: DataSource, folder: Path) -> Path | None:
    """Return the local file behind `source`; None for the tiny world, which has none.

    What lies behind an address is kept under its own name in `folder`; hub files stay in the hub's cache.
    Raises `DataError` naming the source where it cannot be had or is not what its digest says.
    """
    if source.local is not None:
        return _local(Path(source.local))
    if source.url is not None:
        return _downloaded(source.url, source.sha256, folder)
    if source.hub is not None:
        return _from_hub(source.hub, folder)
    return None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _local(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    return path


def _downloaded(url: str, sha256: str | None, folder: Path) -> Path:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https", "file"):
        raise DataError(f"{url}: '{parts.scheme}' addresses are not read. Allowed: http, https, file")
    # The name keeps its ending, which tells the format, and gets a mark of the whole address: two sources
    # may both be called test.jsonl.
    name = Path(urllib.parse.unquote(parts.path)).name
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if sha256 is not None and target.is_file() and file_digest(target) == sha256.lower():
        return target
    with whole_file(target) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, temporary.open("wb") as stream:
                shutil.copyfileobj(answer, stream)
                promised = answer.headers.get("Content-Length")
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise DataError(f"{url}: cannot be downloaded ({error})") from error
        size = temporary.stat().st_size
        if promised is not None and int(promised) != size:
            raise DataError(f"{url}: the download broke off after {size} of {promised} bytes")
        found = file_digest(temporary)
        if sha256 is not None and found != sha256.lower():
            raise DataError(f"{url}: its SHA-256 is {found}, but the configuration says {sha256}")
    return target


def _from_hub(hub: HubFile, folder: Path) -> Path:
    parts = [_hub_part(hub, name) for name in hub.files]
    if len(parts) == 1:
        return parts[0]
    # Lines, and gzip members, stay readable when they are put end to end.
    with whole_file(folder / parts[0].name) as temporary, temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, joined)
    return folder / parts[0].name


def _hub_part(hub: HubFile, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    from rebend.hub import hub_errors

    where = f"hub data set {hub.repo}, file {name}, revision {hub.revision}"
    if hub.gated and (mistake := token_mistake(where, hub.repo, hub.revision, name)):
        raise DataError(mistake)
    with hub_errors(where, f"datasets/{hub.repo}", DataError):
        return Path(hf_hub_download(hub.repo, name, repo_type="dataset", revision=hub.revision))
