"""A finished part is made once; a damaged one is made again."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from rebend.io.chunks import ChunkStore

MADE = [{"text": "yes", "value": 0.1 + 0.2, "none": None}, math.inf]


def test_a_part_is_made_once_and_comes_back_exactly(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(2):
        found = ChunkStore(tmp_path).get_or_make("a", lambda: calls.append(1) or [*MADE, math.nan])
        assert found[:2] == MADE
        assert math.isnan(found[2])
    assert calls == [1]


@pytest.mark.parametrize("seed", range(20))
def test_a_part_with_a_flipped_bit_or_a_lost_end_is_made_again(tmp_path: Path, seed: int, capsys) -> None:
    ChunkStore(tmp_path).get_or_make("a", lambda: MADE)
    file, rng = tmp_path / "a.json", random.Random(seed)
    raw = bytearray(file.read_bytes())
    if seed % 4 == 0:
        raw = raw[: rng.randrange(len(raw) - 1)]
    else:
        raw[rng.randrange(len(raw) - 1)] ^= 1 << rng.randrange(8)
    file.write_bytes(raw)
    assert ChunkStore(tmp_path).get_or_make("a", lambda: MADE) == MADE
    assert "a.json: is damaged, and made again" in capsys.readouterr().err


def test_parts_within_are_apart_and_go_with_the_whole(tmp_path: Path) -> None:
    parts = ChunkStore(tmp_path / "p")
    assert parts.within("x").get_or_make("a", lambda: 1) == 1
    assert parts.get_or_make("a", lambda: 2) == 2
    parts.clear()
    assert not (tmp_path / "p").exists()


def test_without_a_folder_nothing_is_kept() -> None:
    parts = ChunkStore(None).within("x")
    assert [parts.get_or_make("a", lambda i=i: i) for i in range(2)] == [0, 1]
