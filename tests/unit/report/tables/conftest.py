"""The tables of a made-up study with the printed names of RepBend's paper; tests must not change them."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.helpers.repbend_paper import (
    ADAPTERS,
    TABLE_1,
    capability,
    with_printed_names,
)
from tests.helpers.study_factory import evaluation_data, safety_cell
from tests.helpers.study_tables import make_tables


@pytest.fixture(scope="session")
def paper_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Mistral under five adapters on all of Table 1's benchmarks, on those of over-refusal, and two capabilities."""
    root = tmp_path_factory.mktemp("paper")
    data = {name: evaluation_data(root, name) for name in (*TABLE_1, "paper_xstest", "paper_wildjailbreak")}
    cells, capabilities = [], []
    for i, adapter in enumerate(ADAPTERS):
        for path in data.values():
            cells.append(safety_cell(root, path, "mistral_7b", adapter, "none", 4 * i, judges={}))
        for attack in ("prefilling", "prefilling_harmbench", "embedding", "gcg"):
            cells.append(
                safety_cell(root, data["paper_harmbench"], "mistral_7b", adapter, "none", 8 + i, attack, judges={})
            )
        capabilities.append(capability(root, "mistral_7b", adapter, "mmlu", [1.0, 0.0, 1.0, 1.0, None]))
        capabilities.append(capability(root, "mistral_7b", adapter, "truthfulqa", [0.25, 0.5, 0.75]))
    return make_tables(with_printed_names(cells), paper="repbend", capabilities=with_printed_names(capabilities))
