"""Tiny classifiers: one trained, one with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.small_judge import save_judge


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge") / "model", steps=180)


@pytest.fixture(scope="session")
def random_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge") / "random", steps=0)
