"""The blocks of settings that the pages show are valid."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rebend.config.catalogue import CATALOGUE
from rebend.config.load import load_config

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_A_STUDY = {"grids", "claims", "transcripts", "harmless_prompts"}


def examples() -> list[Any]:
    """Return the fenced blocks of all pages that are settings, each with its page and number as its id."""
    found = []
    for page in PAGES:
        fenced = re.findall(r"^```(?:yaml)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for number, text in enumerate(fenced):
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError:
                continue  # commands
            if isinstance(content, dict) and set(content) & {*CATALOGUE, *OF_A_STUDY, "budget"}:
                found.append(pytest.param(content, id=f"{page.stem}-{number}"))
    return found


@pytest.fixture(scope="module")
def catalogue() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def load(catalogue: dict[str, Any], example: dict[str, Any], folder: Path) -> None:
    """Load the catalogue with the example in it; the part that is of a study is a file of its own."""
    study = {key: example[key] for key in OF_A_STUDY & set(example)}
    raw = copy.deepcopy(catalogue)
    for section, blocks in example.items():
        if section not in study:
            raw[section] = {**raw.get(section, {}), **blocks}
    grids = yaml.safe_load((ROOT / "config/studies/tiny.yaml").read_text(encoding="utf-8"))["grids"]
    file = folder / "example.yaml"
    file.write_text(yaml.safe_dump({"title": "An example", "grids": grids, **study}), encoding="utf-8")
    load_config({**raw, "study": str(file)}, ROOT / "config/studies")


@pytest.mark.parametrize("example", examples())
def test_example_is_a_valid_part_of_the_configuration(
    catalogue: dict[str, Any], example: dict[str, Any], tmp_path: Path
) -> None:
    load(catalogue, example, tmp_path)


def test_pages_have_examples() -> None:
    pages = {parameter.id.rsplit("-", 1)[0] for parameter in examples()}
    assert pages >= {"CONTRIBUTING", "sampled_pairs", "text_scores", "reward_training", "rewards", "planning"}
