"""Rows of the tiny world: schemas, seeds, balance, and nothing shared between training, validation and test."""

import itertools
import random

import pyarrow as pa
import pytest

from rebend.config.datasets import WorldPart
from rebend.data.readers.world import WORLD
from rebend.data.tiny_world.generate import generate
from rebend.data.tiny_world.request import parse_request
from rebend.data.tiny_world.words import reply, things
from rebend.errors import DataError
from rebend.io.schemas import KINDS

PARTS = WorldPart.model_fields["part"].annotation.__args__


def user_text(row):
    return next(turn["content"] for turn in row["messages"] if turn["role"] == "user")


@pytest.mark.parametrize("part", PARTS)
def test_rows_of_each_part_have_the_columns_of_their_schema(part):
    schema = KINDS[WORLD.parts[part]]
    schema = schema.remove(schema.get_field_index("row_id"))
    rows = generate(part, 64, 0)
    assert len(rows) == 64
    assert set(rows[0]) == set(schema.names)
    assert pa.Table.from_pylist(rows, schema=schema).num_rows == 64


@pytest.mark.parametrize("part", PARTS)
def test_rows_depend_only_on_the_seed_and_differ_from_each_other(part):
    rows = generate(part, 200, 1)
    assert rows == generate(part, 200, 1)
    assert rows[:100] == generate(part, 100, 1)
    assert rows != generate(part, 200, 2)
    assert len({repr(row) for row in rows}) == 200


def test_training_validation_and_test_share_no_thing():
    held_out = {"validation": {"validation", "safety_validation"}, "test": {"test", "safety_test", "answers_test"}}
    groups = {"training": set(PARTS) - held_out["validation"] - held_out["test"], **held_out}
    for forbidden in (False, True):
        pools = [{thing for part in parts for thing in things(part, forbidden=forbidden)} for parts in groups.values()]
        assert all(pools)
        assert all(not (one & two) for one, two in itertools.combinations(pools, 2))
    for part in PARTS:
        known = {*things(part, forbidden=False), *things(part, forbidden=True)}
        assert {parse_request(user_text(row)).thing for row in generate(part, 100, 3)} <= known


def test_evaluation_rows_are_balanced_over_eight_combinations():
    rows = generate("safety_test", 160, 0)
    cells = [(row["group"], row["harmful"]) for row in rows]
    assert {cells.count(cell) for cell in set(cells)} == {20}
    assert len(set(cells)) == 8
    assert ("unseen phrasing, jailbreak", True) in cells
    for row in rows:
        request = parse_request(user_text(row))
        assert row["harmful"] == request.forbidden
        assert bool(row["target"]) == row["harmful"]
        assert reply(request.verb, request.thing).startswith(row["target"])


def test_safety_rows_are_three_kinds_of_single_answers_and_complete_pairs():
    rows = generate("safety", 402, 0)
    singles = {(parse_request(user_text(row)).forbidden, row["label"]) for row in rows if row["pair"] is None}
    assert singles == {(False, "safe"), (True, "safe"), (True, "unsafe")}
    by_pair = {}
    for row in rows:
        if row["pair"] is not None:
            by_pair.setdefault(row["pair"], []).append(row)
    for pair in by_pair.values():
        assert sorted(row["label"] for row in pair) == ["safe", "unsafe"]
        assert pair[0]["messages"] == pair[1]["messages"]
    assert len(by_pair) == 100


def test_answer_without_the_other_of_its_pair_becomes_a_single_answer():
    assert generate("safety", 3, 0)[-1]["pair"] is None


def test_generate_keeps_the_global_random_state():
    random.seed(1)
    before = random.getstate()
    generate("rollouts", 10, 0)
    assert random.getstate() == before


def test_generate_raises_for_an_unknown_part_and_names_the_likely_one():
    with pytest.raises(DataError, match=r"safety_tset.*Did you mean 'safety_test'"):
        generate("safety_tset", 1, 0)
