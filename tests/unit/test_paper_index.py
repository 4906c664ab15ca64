"""The tables of settings in docs/paper_index.md, read against the catalogue and the papers' printed settings."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.load import Config, load_config

ROOT = Path(__file__).parents[2]
HEADER = ["setting", "paper", "released script", "ours", "our value", "equal to", "why not"]
DASH = "–"
ABOUT = {"dataset", "model", "source"}  # columns of the printed settings that say which row it is


def tables(page: str) -> list[list[str]]:
    """The rows of the tables of settings."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells if len(row) == len(HEADER) and row != HEADER and not set(row[0]) <= set("-")]


ROWS = tables((ROOT / "docs/paper_index.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def catalogue() -> Config:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    return load_config(raw, ROOT / "config/studies")


def value(cell: str) -> Any:
    """The value that a cell shows."""
    text = cell.strip("`")
    words: dict[str, Any] = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text.replace("\\n", "\n")


def look_up(catalogue: Config, key: str) -> Any:
    """The value of a key: section, block, and keys or numbers of entries below."""
    section, block, *rest = key.split(".")
    found: Any = catalogue[section][block]
    for name in rest:
        found = found[int(name)] if name.isdigit() else getattr(found, name)
    return found


def mistakes(rows: list[list[str]], catalogue: Config) -> list[str]:
    """What the tables say of the catalogue that is not so."""
    found = []
    for setting, _, _, ours, shown, _, _ in rows:
        keys = re.findall(r"`([^`]+)`", ours)
        values = [look_up(catalogue, key) for key in keys]
        cells = shown.split("; ") if len(set(map(str, values))) > 1 else [shown] * len(keys)
        if len(cells) != len(keys):
            found.append(f"{setting}: {len(cells)} values for {len(keys)} keys")
            continue
        for key, real, cell in zip(keys, values, cells, strict=True):
            if real != value(cell):
                found.append(f"{setting}: {key} is {real!r}, the page says {cell}")
    return found


def test_there_are_settings_of_both_papers() -> None:
    assert len(ROWS) > 140 and len({row[0] for row in ROWS}) == len(ROWS)
    assert sum(row[3] != DASH for row in ROWS) > 110


def test_each_key_exists_and_has_the_value_that_the_page_shows(catalogue: Config) -> None:
    assert mistakes(ROWS, catalogue) == []


def test_a_wrong_value_and_a_wrong_key_are_found(catalogue: Config) -> None:
    row = ["x", "1", "1", "`adapters.repbend_llama3.beta`", "0.4", "both", ""]
    assert mistakes([row], catalogue) == ["x: adapters.repbend_llama3.beta is 0.5, the page says 0.4"]
    with pytest.raises((AttributeError, KeyError)):
        mistakes([[*row[:3], "`adapters.repbend_llama3.betta`", *row[4:]]], catalogue)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_the_verdict_follows_from_the_values(row: list[str]) -> None:
    _, paper, script, _, shown, verdict, why = row
    assert verdict in ("both", "paper", "script", "neither")
    plain = all(not isinstance(value(cell), str) for cell in (paper, script, shown) if cell != DASH)
    if plain and "; " not in shown:
        same = [cell != DASH and value(cell) == value(shown) for cell in (paper, script)]
        expected = {(True, True): "both", (True, False): "paper", (False, True): "script"}.get(tuple(same), "neither")
        assert verdict == expected or why, "another verdict than the values say needs its reason"
    stated = {"paper": paper != DASH, "script": script != DASH}
    unequal = [name for name, there in stated.items() if there and verdict not in ("both", name)]
    assert not unequal or why, f"differs from the {' and '.join(unequal)} without a reason"


@pytest.mark.parametrize("paper", ["recontrol", "repbend"])
def test_each_printed_setting_is_on_the_page(paper: str) -> None:
    path = ROOT / f"resources/published/{paper}_hyperparameters.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        printed = list(csv.DictReader(stream))
    missing = []
    for line in printed:
        who = ", ".join(line[name] for name in ("dataset", "model") if name in line)
        for column in line.keys() - ABOUT:
            named = [row for row in ROWS if row[0].startswith(f"`{column}`")]
            own = [row for row in named if row[0].endswith(", all") or who in row[0]]
            if [value(row[1]) for row in own] != [value(line[column])]:
                missing.append(f"{who}: {column} {line[column]}")
    assert len(printed) > 1 and missing == []
