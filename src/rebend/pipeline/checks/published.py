"""Check labels and printed names of blocks: printed names must exist in the papers, labels must differ.

Mistakes are yielded as messages; nothing is raised.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rebend.config.study import Study
from rebend.errors import allowed_names
from rebend.pipeline.graph.cells import Seeds

Catalogue = Mapping[str, Mapping[str, Any]]
FOLDER = Path(__file__).parents[4] / "resources/published"  # of the checkout, not of the current folder
_WHITE_BOX = ("GCG", "Prefilling", "Input Embed")  # benchmarks of RepBend's Table 1 that are attacks
_COMPLIANCE = "_compliance_percent"  # columns of RepBend's tables that are data sets of benign prompts
_SECTIONS = ("models", "datasets", "attacks", "adapters", "controls", "capabilities")


def published_mistakes(catalogue: Catalogue, folder: Path = FOLDER) -> Iterator[str]:
    """Yield a message per `published` name that no paper prints for blocks of this section."""
    for section in _SECTIONS:
        for name, block in catalogue[section].items():
            for printed in block.printed_names:
                allowed = printed_names(folder).get(section, ())
                if printed not in allowed:
                    there = "" if allowed else f" ({folder} is not there)"
                    names = allowed_names(printed, allowed, "resources/published")
                    yield f"{section}.{name}.published: no paper prints '{printed}'{there}. {names}"


@cache
def printed_names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return section → printed names that its blocks may have, from the files in `folder`; {} without files."""
    if not (folder / "repbend_asr.csv").is_file():
        return {}
    recontrol = _rows(folder, "recontrol_main")
    asr, capability = _rows(folder, "repbend_asr"), _rows(folder, "repbend_capability")
    more = [row for name in ("summary", "more_baselines", "other_models") for row in _rows(folder, f"repbend_{name}")]
    methods = [row["method"] + " (released)" * (row["released_weights"] == "true") for row in (*asr, *more)]
    benchmarks = [row["benchmark"] for row in asr if not row["benchmark"].endswith("average")]
    compliance = [column.removesuffix(_COMPLIANCE) for row in more for column in row if column.endswith(_COMPLIANCE)]
    names: dict[str, Iterable[str]] = {
        "models": [*(row["model"] for row in (*recontrol, *asr, *more)), *(m for m in methods if "(released)" in m)],
        "datasets": [*(row["dataset"] for row in recontrol), *_without(benchmarks, _WHITE_BOX), *compliance],
        "attacks": _WHITE_BOX,
        "adapters": methods,
        "controls": [*(row["method"] for row in recontrol), *methods],
        "capabilities": [row["benchmark"] for row in capability],
    }
    return {section: tuple(dict.fromkeys(values)) for section, values in names.items()}


def label_mistakes(catalogue: Catalogue, study_name: str, study: Study, seeds: Seeds) -> Iterator[str]:
    """Yield a message per label that several blocks of one model have: tables would pool their rows.

    The trainings of one block over several `seeds` share its label on purpose.
    """
    names_of_label: dict[tuple[str, str, str], set[str]] = {}
    for grid in study.grids:
        parts = {"adapters": grid.adapters, "controls": grid.controls, "capabilities": grid.capabilities}
        named = [(base, section, name) for base in grid.models for section in parts for name in parts[section]]
        named += [("", "models", name) for name in grid.models]
        named += [("", "datasets", name) for name in (*grid.prompts, *grid.evaluation)]
        named += [("", "attacks", name) for name in (grid.attacks if grid.evaluation else ())]
        for base, section, name in named:
            block = catalogue[section].get(name)
            label = name if block is None or block.label is None else block.label
            seed = seeds.get(section, {}).get(name)
            family = name if seed is None else name.removesuffix(f"_seed_{seed}")
            names_of_label.setdefault((base, section, label), set()).add(family)
    for (_, section, label), names in names_of_label.items():
        if len(names) > 1:
            listed = ", ".join(sorted(names))
            where = f"studies.{study_name}: {section} {listed}"
            yield f"{where} are all called '{label}' in tables; give each its own label"


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    excluded = set(others)
    return [name for name in names if name not in excluded]
