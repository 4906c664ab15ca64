"""A made-up study and its tables; tests must not change them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from rebend.report.tables.all import all_tables
from tests.helpers.study_factory import (
    study,
)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def tables(settings: dict[str, Any]) -> dict[str, pd.DataFrame]:
    return all_tables(settings)
