"""Reward endpoints of the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.reward_server import RewardServer, endpoints_on_call


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardServer]]:
    with endpoints_on_call(monkeypatch) as start:
        yield start
