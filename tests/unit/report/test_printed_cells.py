"""Printed numbers of the paper studies: each cell has exactly the numbers that the paper prints for it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.errors import ConfigError
from rebend.pipeline.checks.published import printed_names
from rebend.pipeline.checks.study import load_plan
from rebend.pipeline.graph.plan import Plan
from rebend.report.measurements import Cell
from rebend.report.published import RecontrolPaper, RepbendPaper

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "resources" / "published"
# The numbers that the tables showed when names were matched by their words, before blocks had the key `published`
EXPECTED = Path(__file__).with_name("printed_cells.csv")
Key = tuple[str, ...]


def plan_of(study: str, **sections: Mapping[str, Any]) -> Plan:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for section, blocks in sections.items():
        raw[section] = raw[section] | blocks
    return load_plan({**raw, "study": study}, ROOT / "config/studies")


def printed(study: str) -> Iterator[tuple[Key, float]]:
    """Yield (model, adapter, control, data set, attack, column) and the printed number, where there is one."""
    plan = plan_of(study)
    summary = plan.summary(str(FOLDER))
    for cell, described in zip(plan.cells, summary["cells"], strict=True):
        key = (cell.base, cell.adapter, cell.control, cell.dataset, cell.attack)
        for column, value in numbers(study, described).items():
            if value is not None:
                yield (*key, column), value
    for (base, adapter, name), entry in zip(plan.benchmarks, summary["capabilities"], strict=True):
        value = RepbendPaper(FOLDER).score_of(entry)
        if value is not None:
            yield (base, adapter, "", "", "", name), value


def numbers(study: str, cell: Cell) -> dict[str, float | None]:
    if study == "paper_recontrol":
        return RecontrolPaper(FOLDER).row(cell)
    paper = RepbendPaper(FOLDER)
    names = paper.model(cell), paper.method(cell)
    asr, answered = paper.asr_of(*names, paper.benchmark(cell)), paper.answered_of(*names, paper.compliance_of(cell))
    return {"asr": asr, "answered": answered}


@pytest.mark.parametrize("study", ["paper_recontrol", "paper_repbend"])
def test_each_cell_has_the_numbers_printed_for_it(study: str) -> None:
    with EXPECTED.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[0] == study]
    assert dict(printed(study)) == {tuple(row[1:-1]): float(row[-1]) for row in rows}


@pytest.mark.parametrize("name", ["without_dpo", "dpo", "paper_dpo_again"])
def test_a_name_with_a_method_in_it_gets_no_printed_numbers(name: str) -> None:
    plan = plan_of("paper_repbend", adapters={name: {"like": "paper_dpo", "retain_weight": 0.5}})
    first = next(cell for cell in plan.cells if cell.adapter == "paper_dpo" and cell.dataset == "paper_harmbench")
    cell = first.__class__(**{**vars(first), "adapter": name}).described(plan.config)
    assert cell["published"]["adapter"] == [] and set(numbers("paper_repbend", cell).values()) == {None}
    assert numbers("paper_repbend", first.described(plan.config))["asr"] == 0.2563


@pytest.mark.parametrize(
    ("section", "block", "published", "message"),
    [
        ("adapters", "paper_dpo", "DPQ", r"adapters\.paper_dpo\.published: no paper prints 'DPQ'.*Did you mean 'DPO'"),
        ("datasets", "paper_dan", "GCG", r"datasets\.paper_dan\.published: no paper prints 'GCG'. Allowed: HH-RLHF"),
        ("models", "vicuna_7b", ["Vicuna-7B", "Vicuna"], "no paper prints 'Vicuna'.*Did you mean 'Vicuna-7B'"),
        ("controls", "none_128", "Bases", "no paper prints 'Bases'.*Did you mean 'Base'"),
    ],
)
def test_an_unknown_printed_name_is_a_mistake(section: str, block: str, published: Any, message: str) -> None:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())[section][block]
    with pytest.raises(ConfigError, match=message):
        plan_of("tiny", **{section: {block: {**raw, "published": published}}})


def test_the_report_finds_every_name_that_a_block_may_give() -> None:
    recontrol, repbend = RecontrolPaper(FOLDER).table, RepbendPaper(FOLDER)
    methods = set(repbend.summary["name"])
    found = {
        "models": {*recontrol["model"], *repbend.asr["model"], *methods},
        "datasets": {*recontrol["dataset"], *repbend.asr["benchmark"], "xstest", "wildjailbreak_benign"},
        "attacks": set(repbend.asr["benchmark"]),
        "adapters": methods,
        "controls": {*recontrol["method"], *methods},
        "capabilities": set(repbend.capability["benchmark"]),
    }
    allowed = printed_names(FOLDER)
    assert set(allowed) == set(found)
    assert {section: set(names) - found[section] for section, names in allowed.items()} == {key: set() for key in found}


def test_two_blocks_under_one_label_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"adapters tiny_dpo, tiny_npo are all called 'preferences' in tables"):
        raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())["adapters"]
        plan_of("tiny", adapters={n: {**raw[n], "label": "preferences"} for n in ("tiny_dpo", "tiny_npo")})
