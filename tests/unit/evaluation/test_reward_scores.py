"""The text that a reward is of, where a response is cut for its reward alone."""

from __future__ import annotations

import pytest

from rebend.evaluation.reward_scores import cut_text, score_rows
from rebend.io.chunks import ChunkStore


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("Yes.\n\nHuman: and then?", ["human:"], "Yes.\n\n"),
        ("Yes.\nHUMAN: no user: here", ["User:", "Human:"], "Yes.\n"),
        ("a (b) c", ["(B)"], "a "),
        ("Yes. Human beings.", ["human:"], "Yes. Human beings."),
        ("Yes.\nHuman: a", [], "Yes.\nHuman: a"),
        (None, ["human:"], None),
    ],
)
def test_a_text_is_cut_before_the_first_stop_in_capitals_or_not(text, stop, expected):
    assert cut_text(text, stop) == expected


def test_only_the_reward_reads_the_cut_text():
    class Lengths:
        def score(self, messages, responses, parts):
            return [float(len(response)) for response in responses]

    rows = [{"row_id": "a", "messages": [], "response": "Yes. Human: no"}]
    assert score_rows(Lengths(), rows, "response", ChunkStore(None), ["human:"])["score"].to_pylist() == [5.0]
    assert score_rows(Lengths(), rows, "response", ChunkStore(None))["score"].to_pylist() == [14.0]
    assert rows[0]["response"] == "Yes. Human: no"
