"""A made-up study with claims: settings, tables, folder and page; tests must not change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from rebend.report.figures.all import all_figures
from rebend.report.figures.style import write_figures
from rebend.report.html.page import make_report
from rebend.report.tables.all import all_tables, read_tables, write_tables
from tests.helpers.study_factory import study
from tests.helpers.study_tables import CAPTIONS

REDUCED = {"compares": "adapter", "control": "none", "group": "unseen item", "attack": "direct"}
CLAIMS = [
    {"text": "Bending lowers <ASR>", "table": "gains", "where": REDUCED, "column": "estimate", "at_least": 0.9},
    {"text": "Bending removes all", "table": "gains", "where": REDUCED, "column": "estimate", "at_least": 1.0},
]


class Report(NamedTuple):
    """A report with everything that it was made from."""

    settings: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    root: Path
    page: str


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("study")
    settings = study(root, claims=CLAIMS)
    write_tables(root / "tables", all_tables(settings))
    tables = read_tables(root / "tables")
    write_figures(root / "figures", all_figures(settings, tables))
    page = make_report(settings, tables, root / "figures", CAPTIONS.read_text())
    return Report(settings, tables, root, page)
