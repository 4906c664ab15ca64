"""Rewards are read from a file of scores."""

from __future__ import annotations

import pytest

from rebend.errors import DataError
from rebend.io.files import write_parquet
from rebend.io.scores import score_table
from rebend.recontrol.value_model.labels import Labels
from tests.helpers.value_model_parts import SETTINGS, train


def test_responses_that_were_not_scored_are_counted_and_left_out_of_training(labelled, tmp_path):
    folder, rewards = labelled
    names = list(rewards)
    scores = [None if i == 0 else float("nan") if i == 1 else rewards[name] for i, name in enumerate(names)]
    write_parquet(tmp_path / "rewards.parquet", score_table(names, scores))
    labels = Labels.read(tmp_path / "rewards.parquet")
    assert (len(labels.keys), labels.not_scored) == (118, 2)
    facts = train((folder, labels), tmp_path / "v", tmp_path / "c", SETTINGS.model_copy(update={"epochs": 1}))
    assert facts["not_scored"] == 2
    assert facts["responses"] + facts["held_out_responses"] == 118


def test_a_damaged_file_of_rewards_is_named(tmp_path):
    (tmp_path / "damaged.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"damaged.parquet"):
        Labels.read(tmp_path / "damaged.parquet")
