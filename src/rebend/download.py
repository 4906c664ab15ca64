"""The file behind an address: downloaded whole, going on where an earlier attempt broke off."""

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
from rebend.storage import write_text

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
