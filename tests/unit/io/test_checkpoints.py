"""Progress survives a kill, and asking to stop saves first."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch

from rebend.io.checkpoints import Checkpoints


def test_what_is_saved_is_loaded_and_cleared(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.load() is None
    checkpoints.save({"step": 3, "weights": torch.ones(2)})
    assert Checkpoints(tmp_path / "c").load()["step"] == 3
    checkpoints.clear()
    assert checkpoints.load() is None


def test_after_a_step_it_saves_only_when_it_is_time(tmp_path: Path) -> None:
    patient = Checkpoints(tmp_path / "a", every_seconds=1000)
    patient.after_step(lambda: {"step": 1})
    assert patient.load() is None
    eager = Checkpoints(tmp_path / "b", every_seconds=0)
    eager.after_step(lambda: {"step": 1})
    assert eager.load() == {"step": 1}


def test_sigterm_lets_the_step_end_then_saves_and_exits(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", every_seconds=1000)
    with pytest.raises(SystemExit, match="progress is kept"), checkpoints.on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        step = 7  # the step goes on to its end
        checkpoints.after_step(lambda: {"step": step})
    assert checkpoints.load() == {"step": 7}


def test_outside_the_block_the_old_handler_is_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoints(tmp_path).on_signal():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("seed", range(30))
def test_a_state_with_a_flipped_bit_is_the_same_or_none_and_said(tmp_path: Path, seed: int, capsys) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = {"step": 3, "weights": torch.arange(500.0), "metrics": [{"loss": 0.5, "rank": None}]}
    checkpoints.save(state)
    raw, rng = bytearray(checkpoints.path.read_bytes()), random.Random(seed)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    checkpoints.path.write_bytes(raw)
    found = checkpoints.load()
    if found is None:
        assert "state.pt: is damaged" in capsys.readouterr().err
    else:
        assert torch.equal(found.pop("weights"), state.pop("weights"))
        assert found == state
