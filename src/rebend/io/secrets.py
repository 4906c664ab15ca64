"""The keys and passwords that this process was given, and text without them.

Addresses and libraries may repeat what they were sent, in replies, complaints and tracebacks. What is kept or shown
goes through `without_keys` first.
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
_SHORTEST = 8  # characters; shorter ones are words like "none", for servers that ask for no key


def known_keys() -> list[str]:
    """Return what must not be written anywhere, longest first.

    These are the environment's variables named `…KEY`, `…TOKEN`, `…SECRET` or `…PASSWORD`, and of every address there
    (a server, a proxy) user and password, in the forms in which they are sent, and what its query says.
    """
    found: set[str] = set()
    for name, value in os.environ.items():
        if _NAMES.fullmatch(name):
            found.add(value.strip())
        elif "://" in value:
            found |= _of_address(value.strip())
    return sorted((key for key in found if len(key) >= _SHORTEST), key=len, reverse=True)


def without_keys(text: str) -> str:
    """Return the text with a mark in the place of each key."""
    for key in known_keys():
        text = text.replace(key, MARK)
    return text


def clear_of_keys(path: Path) -> None:
    """Put a mark in the place of each key in a file, which is left alone if there is none."""
    held = path.read_bytes()
    clean = held
    for key in known_keys():
        clean = clean.replace(key.encode(), MARK.encode())
    if clean != held:
        path.write_bytes(clean)


def show_without_keys(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nobody caught; for `sys.excepthook`."""
    sys.stderr.write(without_keys("".join(traceback.format_exception(kind, error, trace))))


def _of_address(value: str) -> set[str]:
    try:
        parts = urlsplit(value)
    except ValueError:
        return set()
    found = {part for pair in parse_qsl(parts.query) for part in (pair[1], quote(pair[1]))}
    if "@" in parts.netloc:
        pair = parts.netloc.rpartition("@")[0]
        plain = unquote(pair)
        found |= {pair, plain, base64.b64encode(plain.encode()).decode()}
        found |= {part.partition(":")[2] for part in (pair, plain)}
    return found
