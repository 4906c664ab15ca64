"""Preference pairs: how they are cut, which are left out, and the parts of a training."""

from __future__ import annotations

import pytest

from rebend.config.rewards import TrainedReward
from rebend.data.tiny_world.generate import generate
from rebend.errors import DataError
from rebend.models.loading import load_tokenizer
from rebend.models.rewards.pairs import divide, encode_pairs
from tests.helpers.tiny_parts import make_model

ROWS = generate("preferences", 60, 0)
OTHERS = generate("preferences", 30, 5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return load_tokenizer(make_model(tmp_path_factory.mktemp("base"), steps=1))


def settings(**changed: object) -> TrainedReward:
    return TrainedReward(model="m", dataset="d", **changed)


def test_long_conversations_are_cut_at_their_beginning(tokenizer):
    (whole,), (short,) = encode_pairs(tokenizer, ROWS[:1], 1000), encode_pairs(tokenizer, ROWS[:1], 10)
    assert short.chosen == whole.chosen[-10:] and short.rejected == whole.rejected[-10:]
    assert short.longer_by == whole.longer_by == len(whole.chosen) - len(whole.rejected)


def test_pairs_that_are_alike_after_cutting_are_left_out_and_counted(tokenizer):
    same_end = [{**row, "chosen": "Yes. " + row["rejected"]} for row in ROWS[:20]]
    context = min(len(pair.rejected) for pair in encode_pairs(tokenizer, same_end, 1000)) // 4
    parts = divide(tokenizer, [*same_end, *ROWS[20:]], None, settings(), context)
    assert parts.alike >= 20
    assert len(parts.train) + len(parts.held_out) + parts.alike == 60
    assert all(pair.chosen != pair.rejected for pair in (*parts.train, *parts.held_out))


def test_parts_share_no_pair(tokenizer):
    parts = divide(tokenizer, ROWS, None, settings(held_out_share=0.2, eval_every=5, choice_share=0.3), 96)
    assert [len(part) for part in parts[:3]] == [30, 18, 12]
    assert sorted(map(str, [*parts.train, *parts.choice, *parts.held_out])) == sorted(
        map(str, encode_pairs(tokenizer, ROWS, 96))
    )


def test_pairs_of_one_prompt_are_in_one_part(tokenizer):
    """SHP has several pairs per post: 60 pairs of 12 prompts, which differ in case and white space too."""

    def shouted(row):
        return {**row, "messages": [{**turn, "content": f" {turn['content'].upper()}"} for turn in row["messages"]]}

    spaced = [shouted(row) for row in ROWS[:12]]
    longer = [{**row, "chosen": row["chosen"] + " x" * n} for n in (1, 2, 3) for row in ROWS[:12]]
    rows = [*ROWS[:12], *spaced, *longer]
    parts = divide(tokenizer, rows, None, settings(held_out_share=0.2, eval_every=5, choice_share=0.2), 96)
    prompts = [{pair.prompt for pair in part} for part in parts[:3]]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 12 and all(prompts)
    assert len(parts.held_out) >= 12 and sum(map(len, parts[:3])) == 60
    with pytest.raises(DataError, match="12 prompts of the reward model's `held_out`"):
        divide(tokenizer, ROWS[:12], spaced, settings(held_out="h"), 96)


def test_balanced_training_pairs_prefer_the_longer_answer_as_often_as_the_shorter(tokenizer):
    plain = divide(tokenizer, ROWS, None, settings(), 96)
    longer, shorter = (sum(pair.longer_by * sign > 0 for pair in plain.train) for sign in (1, -1))
    assert longer != shorter and min(longer, shorter) > 3
    balanced = divide(tokenizer, ROWS, None, settings(balance_length=True), 96)
    for sign in (1, -1):
        assert sum(pair.longer_by * sign > 0 for pair in balanced.train) == min(longer, shorter)
    assert balanced.unbalanced == abs(longer - shorter) == len(plain.train) - len(balanced.train)
    assert balanced.held_out == plain.held_out
    assert [pair for pair in plain.train if pair in balanced.train] == balanced.train


def test_pairs_of_one_kind_cannot_be_balanced(tokenizer):
    rows = [{**row, "chosen": row["rejected"] + " Good luck!"} for row in ROWS]
    with pytest.raises(DataError, match="in all pairs to train on the longer answer is preferred"):
        divide(tokenizer, rows, None, settings(balance_length=True), 96)


def test_held_out_data_set_is_used_whole_and_chooses_nothing(tokenizer):
    apart = [row for row in OTHERS if row["messages"] not in [other["messages"] for other in ROWS]]
    assert len(apart) > 5
    parts = divide(tokenizer, ROWS, apart, settings(held_out="h", eval_every=5), 96)
    assert parts.held_out == encode_pairs(tokenizer, apart, 96)
    assert len(parts.choice) == 6 and len(parts.train) == 54


def test_prompts_in_both_data_sets_are_refused(tokenizer):
    with pytest.raises(DataError, match="1 prompts of the reward model's `held_out`"):
        divide(tokenizer, ROWS, ROWS[:1], settings(held_out="h"), 96)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"held_out": "d"}, "held_out is 'd', the same as `dataset`"),
        ({"held_out_share": 0.6, "choice_share": 0.5, "eval_every": 3}, "no pair is left to train on"),
        ({"n_blocks": 4, "frozen_blocks": 4}, "frozen_blocks 4 leaves none of the 4 blocks"),
    ],
)
def test_settings_that_leave_nothing_are_refused(keys, expected):
    with pytest.raises(ValueError, match=expected):
        settings(**keys)
