"""Download the file behind an address; an interrupted download resumes at its last byte."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from rebend.errors import DataError
from rebend.io.files import write_text

_TIMEOUT = 60  # seconds without an answer
_SCHEMES = ("http", "https", "file")
_RANGE_NOT_SATISFIABLE, _PARTIAL_CONTENT = 416, 206  # HTTP status codes


def download(url: str, target: Path) -> None:
    """Write the file behind `url` (http, https or file) to `target`.

    A partial file beside `target` holds the received bytes until the download is complete. After an interruption, the
    next call requests only the missing bytes, if the server confirms that the file has not changed.
    Raises `DataError` if the address has another scheme or cannot be downloaded.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise DataError(f"{url}: '{scheme}' addresses are not supported. Allowed: {', '.join(_SCHEMES)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, version = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.mark")
    try:
        _receive(url, partial, version)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:  # the partial file is of another version
            partial.unlink(missing_ok=True)
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    partial.replace(target)
    version.unlink(missing_ok=True)


def _receive(url: str, partial: Path, version: Path) -> None:
    """Download into `partial`, or append to it; the file `version` holds the ETag or the date of the partial file."""
    n_before = partial.stat().st_size if partial.exists() else 0
    partial_version = json.loads(version.read_text(encoding="utf-8")) if version.exists() else None
    headers = {"Range": f"bytes={n_before}-", "If-Range": partial_version} if n_before and partial_version else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = getattr(response, "status", None) == _PARTIAL_CONTENT and _starts_at(response, n_before)
        if not resumed:
            n_before = 0
            partial.unlink(
                missing_ok=True
            )  # before the next line, so that a kill leaves no old bytes with the new version
        write_text(version, json.dumps(_version_of(response)))
        with partial.open("ab" if resumed else "wb") as stream:
            shutil.copyfileobj(response, stream)
            stream.flush()
            os.fsync(stream.fileno())
        n_expected = response.headers.get("Content-Length")
    size = partial.stat().st_size
    if n_expected is not None and size != n_before + int(n_expected):
        raise DataError(f"{url}: the download stopped after {size} of {n_before + int(n_expected)} bytes; run again")


def _version_of(response: Any) -> str | None:
    """Return a strong ETag or else the date of the last change; a weak ETag does not guarantee equal bytes."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _starts_at(response: Any, offset: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")
