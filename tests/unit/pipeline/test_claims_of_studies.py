"""The claims of the shipped studies: they respect both intervals of a difference, and name what tables name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.study import Claim
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Plan

ROOT = Path(__file__).parents[3]
STUDIES = sorted(file.stem for file in (ROOT / "config/studies").glob("*.yaml"))


@pytest.fixture(scope="module")
def raw() -> Any:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.fixture(params=STUDIES)
def plan(raw: Any, request: pytest.FixtureRequest) -> Plan:
    return load_plan({**raw, "study": request.param}, ROOT / "config/studies")


def rows_of(claim: Claim) -> list[dict[str, Any]]:
    """Return the rows that a claim names: the measured one, and that of its bound."""
    bounds = [bound for bound in (claim.at_least, claim.at_most) if isinstance(bound, dict)]
    return [claim.where, *bounds]


def test_two_gains_are_compared_by_the_interval_of_their_difference(plan: Plan) -> None:
    """An estimate as a bound ignores its own interval; the table gains has rows of differences, prompt by prompt."""
    for claim in plan.study.claims:
        if claim.table == "gains":
            assert len(rows_of(claim)) == 1, claim.text


def test_claims_name_data_sets_as_tables_do(plan: Plan) -> None:
    blocks = plan.config["datasets"]
    shown = {block.label or name for name, block in blocks.items()} | {"all"}
    for claim in plan.study.claims:
        for row in rows_of(claim):
            assert row.get("dataset", "all") in shown, claim.text


def test_attacked_data_sets_of_the_real_model_have_a_label(raw: Any) -> None:
    plan = load_plan({**raw, "study": "smollm2_short"}, ROOT / "config/studies")
    names = {name for grid in plan.study.grids for name in grid.evaluation}
    assert {plan.config["datasets"][name].label for name in names} == {"HarmBench", "XSTest sample"}
