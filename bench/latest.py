"""Read and write the figures of the last runs on this machine, `bench/latest.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LATEST = Path(__file__).with_name("latest.json")


def known_figures() -> dict[str, Any]:
    """Return the figures of earlier runs."""
    return json.loads(LATEST.read_text(encoding="utf-8")) if LATEST.exists() else {}


def keep(figures: Mapping[str, Any], forget: Iterable[str] = ()) -> None:
    """Add figures to the file, and delete those named in `forget`."""
    forgotten = set(forget)
    known = {name: value for name, value in known_figures().items() if name not in forgotten}
    LATEST.write_text(json.dumps({**known, **figures}, indent=2) + "\n", encoding="utf-8")
