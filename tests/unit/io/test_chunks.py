"""Chunks are computed once; a damaged chunk is computed again."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from rebend.io.chunks import ChunkStore


@pytest.mark.parametrize("stored", [False, True])
def test_each_computed_chunk_is_reported_once(tmp_path: Path, stored: bool) -> None:
    made: list[str] = []
    store = ChunkStore(tmp_path if stored else None, lambda: made.append("x"))
    for name in ("a", "b", "b"):
        store.get_or_make(name, lambda: 1)
    store.within("folder").get_or_make("a", lambda: 1)
    assert len(made) == (3 if stored else 4)


VALUE = [{"text": "yes", "value": 0.1 + 0.2, "none": None}, math.inf]


def test_chunk_is_computed_once_and_read_back_exactly(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        chunk = ChunkStore(tmp_path).get_or_make("a", lambda: calls.append(1) or [*VALUE, math.nan])
        assert chunk[:2] == VALUE
        assert math.isnan(chunk[2])
    assert calls == [1]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_chunk_is_computed_again(tmp_path: Path, seed: int, capsys) -> None:
    ChunkStore(tmp_path).get_or_make("a", lambda: VALUE)
    file, rng = tmp_path / "a.json", random.Random(seed)
    raw = bytearray(file.read_bytes())
    if seed % 4 == 0:
        raw = raw[: rng.randrange(len(raw) - 1)]
    else:
        raw[rng.randrange(len(raw) - 1)] ^= 1 << rng.randrange(8)
    file.write_bytes(raw)
    assert ChunkStore(tmp_path).get_or_make("a", lambda: VALUE) == VALUE
    assert "a.json: is damaged and is computed again" in capsys.readouterr().err


def test_store_within_has_its_own_chunks_and_is_cleared_with_its_parent(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "p")
    assert store.within("x").get_or_make("a", lambda: 1) == 1
    assert store.get_or_make("a", lambda: 2) == 2
    store.clear()
    assert not (tmp_path / "p").exists()


def test_nothing_is_stored_without_a_folder() -> None:
    store = ChunkStore(None).within("x")
    assert [store.get_or_make("a", lambda i=i: i) for i in range(2)] == [0, 1]
