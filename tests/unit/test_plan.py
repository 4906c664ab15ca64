"""A study becomes cells and paths, each shared stage once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rebend import paths
from rebend.config.load import load_config
from rebend.plan import Plan, one_of, settings

ROOT = Path(__file__).parents[2]


def plan_of(study: str) -> Plan:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    return Plan(load_config({**raw, "study": study}, ROOT / "config/studies"))


@pytest.fixture(scope="module")
def tiny() -> Plan:
    return plan_of("tiny")


def test_the_tiny_grid_is_two_by_four_on_each_data_set(tiny: Plan) -> None:
    pairs = {(cell.bend, cell.control) for cell in tiny.cells}
    assert len(pairs) == 8
    assert len(tiny.cells) == 8 * len({cell.dataset for cell in tiny.cells})


def test_cells_are_labelled_by_method_where_that_is_unique(tiny: Plan) -> None:
    small = plan_of("real_small").summary("p")["cells"]
    assert {cell["control"] for cell in small} == {"none", "random", "prompting", "value"}
    assert {cell["bend"] for cell in small} == {"none", "repbend"}


def test_a_blocks_needs_are_not_settings_of_a_stage(tiny: Plan) -> None:
    assert "needs" not in settings(plan_of("paper_repbend").config["models"]["mistral_7b"])


def test_what_a_study_does_not_reach_is_not_used(tiny: Plan) -> None:
    assert "mistral_7b" not in tiny.used["models"]
    assert "mistral_7b" in plan_of("paper_repbend").used["models"]
    assert "ultrarm_13b" in plan_of("paper_recontrol").used["rewards"]


def test_a_model_name_is_taken_apart_as_it_was_put_together() -> None:
    assert paths.base_and_bend(paths.model_name("a", "none")) == ("a", "none")
    assert paths.base_and_bend(paths.model_name("a", "b")) == ("a", "b")


def test_a_constraint_matches_the_names_and_nothing_else() -> None:
    import re

    assert re.fullmatch(one_of(["a+b", "c"]), "a+b")
    assert not re.fullmatch(one_of(["a+b", "c"]), "aab")
    assert not re.fullmatch(one_of([]), "")
