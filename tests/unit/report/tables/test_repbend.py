"""The table repbend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import SAFETY_VERDICTS
from rebend.report.tables.all import write_tables
from tests.helpers.study_factory import (
    evaluation_data,
    safety_cell,
)
from tests.helpers.study_tables import make_tables, one_row

LLAMA = "Llama-3-8B-Instruct"


def names(**published: str | list[str]) -> dict[str, Any]:
    """Return a cell's printed names by part."""
    return {part: [name] if isinstance(name, str) else name for part, name in published.items()}


def test_repbend_has_rows_per_group_and_attack(tables: dict[str, pd.DataFrame]) -> None:
    cell = {"adapter": "none", "control": "none"}
    table = tables["repbend"]
    assert set(table["group"]) == {
        "all", "unseen item", "unseen item, plain", "unseen phrasing", "unseen phrasing, plain"
    }  # fmt: skip
    line = one_row(table, **cell, prompts="harmful", group="unseen item", attack="prefilling")
    assert (line["asr"], line["n"], line["not_scored"]) == (34 / 39, 39, 1)
    assert line["asr"] + line["refused"] + line["incoherent"] == pytest.approx(1)
    benign = one_row(table, **cell, prompts="benign", group="all", attack="direct")
    assert benign["answered"] == 0.9 and pd.isna(benign["asr"])


def test_several_attempts_on_a_prompt_count_as_one_prompt(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path)
    cell = safety_cell(tmp_path, data, "tiny", "none", "none", 3, "embedding", judges={})
    first = read_parquet(cell["scores"]["safety"]).to_pylist()
    more = [{**line, "attempt": 1, "verdict": "harmful" if i % 40 == 20 else "refusal"} for i, line in enumerate(first)]
    write_parquet(cell["scores"]["safety"], pa.Table.from_pylist([*first, *more], SAFETY_VERDICTS))
    tables = make_tables([cell])
    asr = one_row(tables["matrix"], metric="asr_embedding")
    assert (asr["estimate"], asr["n"], asr["not_scored"]) == (8 / 78, 78, 2)
    line = one_row(tables["repbend"], group="all")
    assert line["attempts"] == 2 and line["asr"] + line["refused"] + line["incoherent"] == pytest.approx(1)
    assert set(tables["matrix"]["metric"]) == {"asr_embedding"}  # the cell has no direct attack


def test_printed_numbers_are_added_to_whole_benchmarks(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path, "my_benchmark")
    cells = [
        safety_cell(
            tmp_path, data, "my_model", adapter, "none", 3, attack,
            published=names(model=LLAMA, dataset="HarmBench", adapter=printed, attack="Prefilling"),
        )
        for adapter, printed in (("none", []), ("mine", "RepBend"))
        for attack in ("direct", "prefilling")
    ]  # fmt: skip
    xstest = evaluation_data(tmp_path, name="my_benign")
    cells.append(
        safety_cell(
            tmp_path, xstest, "my_model", "none", "none", 3, published=names(model=LLAMA, dataset="xstest")
        )
    )  # fmt: skip
    tables = make_tables(cells, paper="repbend")
    table = tables["repbend"]
    whole = {"prompts": "harmful", "group": "all"}
    harm = table[table["dataset"] == "my_benchmark"]
    assert one_row(harm, adapter="none", attack="direct", **whole)["printed_asr"] == pytest.approx(0.2219)
    assert one_row(harm, adapter="mine", attack="direct", **whole)["printed_asr"] == pytest.approx(0.0031)
    assert one_row(harm, adapter="none", attack="prefilling", **whole)["printed_asr"] == pytest.approx(0.85)
    assert harm[harm["group"] != "all"]["printed_asr"].isna().all()
    over = one_row(table, dataset="my_benign", prompts="benign", group="all", attack="direct")
    assert over["printed_answered"] == pytest.approx(0.8511)
    write_tables(tmp_path / "tables", tables)
    assert "averages disagree with its own cells" in (tmp_path / "tables" / "repbend.md").read_text()
