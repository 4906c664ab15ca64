"""Replies of judges, each in a file named after all that it depends on: shared by all tables and studies.

A reply is kept as it came, with the tokens that were paid for, so that it can be read again in another way. Its key
is a digest of the request and of who was asked; which of two answers stood first is part of the request's text.
Files are whole or absent, and readable by their owner only. Two jobs that want the same reply wait for each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebend.errors import DataError
from rebend.io.files import read_json, whole_file
from rebend.io.locks import locked


@dataclass(frozen=True)
class KeptReply:
    """What a judge sent back, unread."""

    text: str
    finish: str | None  # "stop", "length", "content_filter" ...
    refusal: str | None  # the reason, where the address says that the model declined
    tokens_in: int | None  # None: the address did not say
    tokens_out: int | None
    served_by: str | None  # model id as the address gave it


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return 32 hex digits for all that a reply depends on (values that JSON can hold)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


class VerdictStore:
    """A folder of replies, `<2 hex digits>/<digest>.json`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, digest: str) -> KeptReply | None:
        """Return a reply, or None if it is not there; a damaged file is a `DataError` that names it."""
        path = self._path(digest)
        if not path.exists():
            return None
        try:
            return KeptReply(**read_json(path)["reply"])
        except (TypeError, KeyError) as error:
            raise DataError(f"{path}: not a judge's reply ({error}). Delete it and run again.") from error

    def write(self, digest: str, identity: Mapping[str, Any], reply: KeptReply) -> None:
        """Keep a reply together with what was asked."""
        write_private_json(self._path(digest), {"asked": dict(identity), "reply": asdict(reply)})

    @contextmanager
    def held(self, digest: str) -> Iterator[None]:
        """Keep others, in other jobs too, from asking for this reply inside the block."""
        with locked(self.folder / ".locks" / digest[:3], announce=False, private=True):
            yield

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"


def write_private_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all, that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
