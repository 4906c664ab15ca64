"""Replies of reward endpoints without rewards: errors inside a status 200, rejected texts, and the first warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rebend.errors import ModelError
from rebend.io.chunks import ChunkStore
from tests.helpers.json_server import Reply
from tests.helpers.reward_server import (
    QUESTIONS,
    TEXTS,
    by_model,
    model_at,
    rewards_reply,
)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((200, b'{"error": {"message": "CUDA out of memory", "code": 500}}', {}), "status 200: CUDA out of memory"),
        ((200, b'{"error": "busy", "rewards": []}', {}), "status 200: busy"),
        ((200, b'{"detail": "no worker is left"}', {}), "status 200: no worker is left"),
    ],
)
def test_error_inside_a_status_200_has_the_reason_and_is_not_stored(
    serve: Any, tmp_path: Path, reply: Reply, reason: str
) -> None:
    broken = [True]
    server = serve(lambda body, times: reply if broken[0] else None)
    chunks = ChunkStore(tmp_path)
    with pytest.raises(ModelError, match=reason):
        model_at(server, batch_size=7).score(QUESTIONS, TEXTS, chunks)
    broken[0] = False
    assert model_at(server, batch_size=7).score(QUESTIONS, TEXTS, chunks) == by_model(server)


@pytest.mark.parametrize(
    ("status", "words"), [(400, b"maximum context length is 9"), (413, b"big"), (400, b"content_filter")]
)
def test_text_that_alone_is_rejected_is_not_scored_and_the_others_are(
    serve: Any, capsys: pytest.CaptureFixture, status: int, words: bytes
) -> None:
    server = serve(lambda body, times: (status, words, {}) if any("lamp 3" in text for text in body["query"]) else None)
    rewards = model_at(server, batch_size=4).score(QUESTIONS, TEXTS)
    expected = by_model(server)
    assert rewards[3] != rewards[3] and [*rewards[:3], *rewards[4:]] == [*expected[:3], *expected[4:]]
    assert f"prompt 3 is not scored: the reward model 'tiny-2026-01-01' at its address {words.decode()}" in (
        capsys.readouterr().err
    )


def test_first_replies_without_a_reward_cause_a_warning(serve: Any, capsys: pytest.CaptureFixture) -> None:
    server = serve(lambda body, times: rewards_reply([None] * len(body["query"])))
    model_at(server, batch_size=1).score(QUESTIONS, TEXTS)
    assert "none of the first 5 replies can be used. One of them: rewards [nan]" in capsys.readouterr().err
    model_at(serve(), batch_size=1).score(QUESTIONS, TEXTS)
    assert "WARNING" not in capsys.readouterr().err
