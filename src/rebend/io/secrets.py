"""Remove the keys and passwords in this process's environment from text, files and tracebacks.

Servers and libraries may repeat a key in replies, error messages and tracebacks. Text therefore passes through
`without_keys` before it is stored or shown.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MARK = "[the key]"
_NAMES = re.compile(r"(?:.*_)?(?:KEY|TOKEN|SECRET|PASSWORD)", re.IGNORECASE)
_MIN_LENGTH = 8  # characters; shorter values are words like "none", for servers that require no key


def known_keys() -> list[str]:
    """Return the keys that must not be stored or shown, longest first.

    These are the values of environment variables named `…KEY`, `…TOKEN`, `…SECRET` or `…PASSWORD`. For variables that
    hold an address (a server, a proxy), they are also the user and the password, plain and encoded as in a request, and
    the values in the query.
    """
    keys: set[str] = set()
    for name, value in os.environ.items():
        if _NAMES.fullmatch(name):
            keys.add(value.strip())
        elif "://" in value:
            keys |= _address_keys(value.strip())
    return sorted((key for key in keys if len(key) >= _MIN_LENGTH), key=len, reverse=True)


def without_keys(text: str) -> str:
    """Return `text` with `MARK` in place of each key."""
    for key in known_keys():
        text = text.replace(key, MARK)
    return text


def clear_of_keys(path: Path) -> None:
    """Replace each key in a file by `MARK`; a file without keys is not written."""
    original = path.read_bytes()
    clean = original
    for key in known_keys():
        clean = clean.replace(key.encode(), MARK.encode())
    if clean != original:
        path.write_bytes(clean)


def show_without_keys(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception without keys; for `sys.excepthook`."""
    sys.stderr.write(without_keys("".join(traceback.format_exception(kind, error, trace))))


def _address_keys(value: str) -> set[str]:
    """Return the user, the password and the query's values of an address."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return set()
    keys = {part for pair in parse_qsl(parts.query) for part in (pair[1], quote(pair[1]))}
    if "@" in parts.netloc:
        pair = parts.netloc.rpartition("@")[0]
        plain = unquote(pair)
        keys |= {pair, plain, base64.b64encode(plain.encode()).decode()}
        keys |= {part.partition(":")[2] for part in (pair, plain)}
    return keys
