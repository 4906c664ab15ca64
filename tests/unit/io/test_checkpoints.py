"""Checkpoints: a state is saved, loaded and deleted; SIGTERM saves it; damage is detected."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch

from rebend.io.checkpoints import Checkpoints


def test_saved_state_is_loaded_and_deleted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.load() is None
    checkpoints.save({"step": 3, "weights": torch.ones(2)})
    assert Checkpoints(tmp_path / "c").load()["step"] == 3
    checkpoints.clear()
    assert checkpoints.load() is None


def test_after_step_saves_only_after_every_seconds(tmp_path: Path) -> None:
    rare = Checkpoints(tmp_path / "a", every_seconds=1000)
    rare.after_step(lambda: {"step": 1})
    assert rare.load() is None
    frequent = Checkpoints(tmp_path / "b", every_seconds=0)
    frequent.after_step(lambda: {"step": 1})
    assert frequent.load() == {"step": 1}


def test_sigterm_saves_the_state_after_the_step_and_exits(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", every_seconds=1000)
    with pytest.raises(SystemExit, match="the state is saved"), checkpoints.on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        step = 7  # SIGTERM does not interrupt the step
        checkpoints.after_step(lambda: {"step": step})
    assert checkpoints.load() == {"step": 7}


def test_signal_handler_is_restored_after_the_block(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoints(tmp_path).on_signal():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("seed", range(30))
def test_state_with_a_flipped_bit_is_reported_unless_it_is_unchanged(tmp_path: Path, seed: int, capsys) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = {"step": 3, "weights": torch.arange(500.0), "metrics": [{"loss": 0.5, "rank": None}]}
    checkpoints.save(state)
    raw, rng = bytearray(checkpoints.path.read_bytes()), random.Random(seed)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    checkpoints.path.write_bytes(raw)
    loaded = checkpoints.load()
    if loaded is None:
        assert "state.pt: is damaged" in capsys.readouterr().err
    else:
        assert torch.equal(loaded.pop("weights"), state.pop("weights"))
        assert loaded == state
