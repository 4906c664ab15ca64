"""Very small models trained on generated chats, and checkpoints that interrupt a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rebend.config.models import TinyModel
from rebend.data.tiny_world.generate import generate
from rebend.io.checkpoints import Checkpoints
from rebend.models.chat import Message
from rebend.models.tiny_model import train_tiny_model


class Stopped(BaseException):
    """Raised instead of ending the process."""


class StoppedAt(Checkpoints):
    """Saves after step `step` and raises `Stopped`."""

    def __init__(self, directory: Path, step: int) -> None:
        super().__init__(directory)
        self.steps_left = step

    def after_step(self, make_state: Callable[[], dict[str, Any]]) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.save(make_state())
            raise Stopped


def chats(rows: int = 300) -> list[list[Message]]:
    return [row["messages"] for row in generate("dialogues", rows, 0)]


def settings(**changed: Any) -> TinyModel:
    small = {
        "vocab_size": 400,
        "hidden_size": 32,
        "n_layers": 2,
        "n_heads": 2,
        "context": 96,
        "steps": 12,
        "batch_size": 16,
        "lr": 5e-3,
        "loss": "all",
    }
    return TinyModel(datasets=["dialogues"], **{**small, **changed})


def make_model(folder: Path, **changed: Any) -> Path:
    train_tiny_model(chats(), settings(**changed), folder / "model", Checkpoints(folder / "progress"))
    return folder / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
