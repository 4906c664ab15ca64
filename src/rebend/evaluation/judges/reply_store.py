"""Store of judge replies, one file per reply, shared by all tables and studies.

A reply is stored unparsed with its number of tokens, so that another parser needs no new request. The file name is a
digest of the request and the judge; the order of two answers is part of the request. Files are written completely or
not at all, and only their owner can read them. Of two jobs that need the same reply, one waits for the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebend.errors import DataError
from rebend.io.checksums import json_digest
from rebend.io.files import read_json, whole_file
from rebend.io.locks import locked


@dataclass(frozen=True)
class KeptReply:
    """A judge's reply before parsing."""

    text: str
    finish: str | None  # "stop", "length", "content_filter" ...
    refusal: str | None  # the reason, if the address reports that the model declined
    tokens_in: int | None  # None: not reported
    tokens_out: int | None
    served_by: str | None  # model id in the reply


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return 32 hex digits for everything that a reply depends on (JSON values)."""
    return json_digest(identity)[:32]


class ReplyStore:
    """A folder of replies, `<2 hex digits>/<digest>.json`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, digest: str) -> KeptReply | None:
        """Return a reply, or None without one. Raises `DataError` for a damaged file."""
        path = self._path(digest)
        if not path.exists():
            return None
        try:
            return KeptReply(**read_json(path)["reply"])
        except (TypeError, KeyError) as error:
            raise DataError(f"{path}: not a judge's reply ({error}). Delete it and run again.") from error

    def write(self, digest: str, identity: Mapping[str, Any], reply: KeptReply) -> None:
        """Write a reply together with its request."""
        write_private_json(self._path(digest), {"asked": dict(identity), "reply": asdict(reply)})

    @contextmanager
    def held(self, digest: str) -> Iterator[None]:
        """Hold the lock of a reply inside the block, so that other threads and jobs wait."""
        with locked(self.folder / ".locks" / digest[:3], announce=False, private=True):
            yield

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"


def write_private_json(path: Path, value: Any) -> None:
    """Write JSON completely or not at all, with permissions 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
