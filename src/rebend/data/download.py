"""Download the file behind an address; a download that was interrupted continues where it stopped."""

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

    The bytes received so far lie beside `target` until the file is complete. After an interruption, the next call
    requests only the missing bytes, provided that the server confirms that the file has not changed.
    Raises `DataError` naming the address if it has another scheme or cannot be downloaded.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise DataError(f"{url}: '{scheme}' addresses are not read. Allowed: {', '.join(_SCHEMES)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, version = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.mark")
    try:
        _receive(url, partial, version)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:  # the bytes on this machine belong to another file
            partial.unlink(missing_ok=True)
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: cannot be downloaded ({error})") from error
    partial.replace(target)
    version.unlink(missing_ok=True)


def _receive(url: str, partial: Path, version: Path) -> None:
    """Download into `partial`, or append to it; the file `version` keeps the server's name of the file's version."""
    n_before = partial.stat().st_size if partial.exists() else 0
    known = json.loads(version.read_text(encoding="utf-8")) if version.exists() else None
    headers = {"Range": f"bytes={n_before}-", "If-Range": known} if n_before and known else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = getattr(response, "status", None) == _PARTIAL_CONTENT and _starts_at(response, n_before)
        if not resumed:
            n_before = 0
            partial.unlink(missing_ok=True)  # first: a kill after the next line would combine old bytes and new version
        write_text(version, json.dumps(_version_of(response)))
        with partial.open("ab" if resumed else "wb") as stream:
            shutil.copyfileobj(response, stream)
            stream.flush()
            os.fsync(stream.fileno())
        n_expected = response.headers.get("Content-Length")
    size = partial.stat().st_size
    if n_expected is not None and size != n_before + int(n_expected):
        raise DataError(f"{url}: the download broke off after {size} of {n_before + int(n_expected)} bytes; run again")


def _version_of(response: Any) -> str | None:
    """Return the server's name of this version of the file; a weak ETag does not guarantee equal bytes."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _starts_at(response: Any, offset: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")
