"""Best of n: the best sample is picked, discarded samples are counted, and a larger n only adds samples."""

from __future__ import annotations

import pytest

from rebend.config.controls import BestOfNBlock
from rebend.config.decoding import Decoding
from rebend.generation.generate import generate
from rebend.io.chunks import ChunkStore
from rebend.recontrol.methods.best_of_n import BestOfN, pick
from tests.helpers.reward_models import make_reward
from tests.helpers.small_policy import make_policy, prompt_rows

SAMPLED = Decoding(max_new_tokens=12, temperature=1.0, batch_size=6)
ROWS = prompt_rows()


def block(n: int) -> BestOfNBlock:
    return BestOfNBlock(method="best_of_n", n=n, reward="r", decoding=SAMPLED)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def reward():
    return make_reward()


def test_the_best_of_the_samples_is_returned_and_all_of_them_are_counted(policy, reward):
    table, notes = BestOfN(block(3), reward).decode(policy, ROWS, ChunkStore(None))
    assert table["row_id"].to_pylist() == [row["row_id"] for row in ROWS]
    generated = 0
    for row, line in zip(ROWS, table.to_pylist(), strict=True):
        keys = [f"{row['row_id']}/{i}" for i in range(3)]
        samples = generate(policy, [row["messages"]] * 3, SAMPLED, keys=keys)
        rewards = reward.score([row["messages"]] * 3, [sample.text for sample in samples])
        best = samples[rewards.index(max(rewards))]
        assert (line["response"], line["n_tokens"]) == (best.text, len(best.token_ids))
        generated += sum(len(sample.token_ids) for sample in samples)
    assert notes["tokens_generated"] == generated > notes["tokens"] == sum(table["n_tokens"].to_pylist())
    assert (notes["samples"], notes["candidates_scored"], notes["picked_without_reward"]) == (3 * len(ROWS), 0, 0)


def test_more_samples_never_lower_the_reward(policy, reward):
    scores = []
    for n in (2, 4):
        table, _ = BestOfN(block(n), reward).decode(policy, ROWS, ChunkStore(None))
        scores.append(reward.score([row["messages"] for row in ROWS], table["response"].to_pylist()))
    assert all(more >= fewer - 1e-5 for fewer, more in zip(*scores, strict=True))
    assert scores[0] != scores[1]


def test_finished_samples_are_not_sampled_again_after_a_kill(policy, reward, tmp_path, monkeypatch):
    whole, notes = BestOfN(block(2), reward).decode(policy, ROWS, ChunkStore(None))
    monkeypatch.setattr(type(reward), "score", _killed)
    with pytest.raises(KeyboardInterrupt):
        BestOfN(block(2), reward).decode(policy, ROWS, ChunkStore(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(policy.model, "generate", _killed)
    again, notes_again = BestOfN(block(2), reward).decode(policy, ROWS, ChunkStore(tmp_path))
    assert (again.to_pylist(), notes_again) == (whole.to_pylist(), notes)


def _killed(*arguments, **options):
    raise KeyboardInterrupt


def test_a_non_finite_reward_is_never_picked(policy, reward):
    assert pick([1.0, 3.0, 3.0, 2.0]) == 1
    assert pick([None, float("nan"), -2.0]) == 2
    assert pick([None, float("nan"), float("inf")]) is None

    class Broken:
        def score(self, messages, responses, parts):
            return [float("nan")] * len(responses)

    table, notes = BestOfN(block(2), Broken()).decode(policy, ROWS, ChunkStore(None))
    first = generate(policy, [row["messages"] for row in ROWS], SAMPLED, keys=[f"{r['row_id']}/0" for r in ROWS])
    assert table["response"].to_pylist() == [sample.text for sample in first]
    assert notes["picked_without_reward"] == len(ROWS)


def test_a_prompt_without_room_has_no_response(policy, reward):
    long = {"row_id": "long", "messages": [{"role": "user", "content": "word " * 300}]}
    table, notes = BestOfN(block(2), reward).decode(policy, [*ROWS[:1], long], ChunkStore(None))
    assert table["response"].to_pylist()[1] is None
    assert (notes["prompts_without_room"], notes["picked_without_reward"]) == (1, 0)


def test_greedy_samples_are_refused():
    with pytest.raises(ValueError, match="greedy responses are equal"):
        BestOfNBlock(method="best_of_n", n=2, reward="r", decoding=Decoding())
