"""Allowed names in messages: all of a few, the nearest of many, and no name per training seed."""

from __future__ import annotations

from rebend.errors import allowed_names

DATA = [f"data_{letter}{digit}" for letter in "abcdefghij" for digit in range(15)]


def test_a_few_names_are_all_listed_with_the_likely_typo() -> None:
    assert allowed_names("smal", ["small", "tiny"]) == "Allowed: small, tiny. Did you mean 'small'?"
    assert allowed_names("other", ["small"] * 12) == "Allowed: small."
    assert allowed_names("any", []) == "Allowed: none."


def test_of_many_names_the_likely_typo_comes_first_and_then_the_nearest() -> None:
    message = allowed_names("data_c77", DATA)
    assert message.startswith("Did you mean 'data_c7'? Allowed: data_c7, ")
    assert message.endswith(" and 145 more, see config/config.yaml.")
    assert message.count("data_") == 6
    far = allowed_names("zzz", DATA, "config/README.md")
    assert far.startswith("Allowed: ") and far.endswith(" and 145 more, see config/README.md.")


def test_blocks_of_one_training_seed_are_listed_as_their_block() -> None:
    seeds = [f"repbend_seed_{n}" for n in range(20)]
    assert allowed_names("rmu", ["repbend", "sft", *seeds]) == "Allowed: repbend, sft."
    assert allowed_names("rmu", [*seeds, "sft"]) == "Allowed: repbend, sft."
    assert "Did you mean 'repbend_seed_1'?" in allowed_names("rebend_seed_1", ["repbend", *seeds])
