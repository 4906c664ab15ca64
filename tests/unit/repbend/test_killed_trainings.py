"""Trainings stopped by SIGTERM and SIGKILL resume and write the same bytes as undisturbed ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rebend.pipeline.jobs.warm_start import VARIABLE
from tests.conftest import ROOT
from tests.helpers.state_files import write_activations
from tests.helpers.training_parts import make_base
from tests.helpers.value_model_parts import responses
from tests.helpers.warm_server import warm_server

# Saved after every step, so that a kill is likely to fall into a save as well.
HEAD = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from rebend.pipeline.jobs.warm_start import hand_over
hand_over()
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
from rebend.io.checkpoints import Checkpoints
progress = Checkpoints("progress", every_seconds=0.0)
"""
TRAININGS = {
    "tiny_model": """
from rebend.models.tiny_model import train_tiny_model
from tests.helpers.tiny_parts import chats, settings
train_tiny_model(chats(), settings(steps=40), "result", progress)
""",
    "adapter": """
from rebend.repbend.train import train_adapter
from tests.helpers.training_parts import settings, tables
train_adapter("../base", "float32", settings(max_step=25), tables(), "result", progress)
""",
    "value": """
import torch
from rebend.recontrol.value_model.activation_store import Activations
from rebend.io.files import whole_directory
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.train import train_value_model
from tests.helpers.value_model_parts import SETTINGS, responses
labels, settings = Labels.of(responses(120)[1]), SETTINGS.model_copy(update={"epochs": 25})
with whole_directory("result") as folder:
    train_value_model(Activations("../activations"), labels, settings, folder, progress, torch.device("cpu"))
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of the trainings."""
    folder = tmp_path_factory.mktemp("trainings")
    make_base(folder / "base")
    write_activations(folder / "activations", responses(120)[0], shards=3, chunk=10)
    return folder


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[Path, str], subprocess.Popen[bytes]]]:
    """Starts a training in a folder, from a server that has imported the heavy packages."""
    with warm_server() as address:

        def begin(folder: Path, kind: str) -> subprocess.Popen[bytes]:
            folder.mkdir(exist_ok=True)
            (folder / "pid").unlink(missing_ok=True)
            (folder / "job.py").write_text(HEAD + TRAININGS[kind])
            return subprocess.Popen([sys.executable, "job.py"], cwd=folder, env={**os.environ, VARIABLE: address})

        yield begin


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", TRAININGS)
def test_training_killed_several_times_ends_in_the_same_bytes(place: Path, start: Callable, kind: str) -> None:
    assert start(place / f"{kind}-whole", kind).wait() == 0
    folder, rng = place / f"{kind}-killed", random.Random(kind)
    ends = [(signal.SIGTERM, 0.1), (signal.SIGKILL, 0.8), (signal.SIGKILL, 0.8), (signal.SIGTERM, 0.8)]
    for how, longest in ends:
        process = start(folder, kind)
        while not (folder / "pid").exists() or not (folder / "progress/state.pt").exists():
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, longest))
        with suppress(ProcessLookupError):
            os.kill(int((folder / "pid").read_text()), how)
        if process.wait() == 0:
            break  # the training ended first
    assert longest == 0.8  # at least the first end came in time
    assert start(folder, kind).wait() == 0
    assert contents(folder / "result") == contents(place / f"{kind}-whole/result")
