"""All tables of a study, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rebend.errors import DataError
from rebend.io.files import whole_directory
from rebend.report.measurements import measurements
from rebend.report.published import Published
from rebend.report.tables.claims import check_claims
from rebend.report.tables.frontier import frontier
from rebend.report.tables.gains import gains
from rebend.report.tables.judge_agreement import safety_agreement
from rebend.report.tables.layout import matrix, recontrol, repbend, repbend_categories
from rebend.report.tables.paired_tests import repbend_pairs
from rebend.report.tables.repbend_paper import repbend_asr, repbend_capability, repbend_summary
from rebend.report.tables.table_text import note, shown
from rebend.report.tables.win_rates import win_rate_table

TABLES = (
    "matrix", "recontrol", "repbend", "repbend_asr", "repbend_summary", "repbend_capability", "repbend_categories",
    "repbend_pairs", "safety_agreement", "safety_disagreements", "win_rates", "frontier", "gains", "claims",
)  # fmt: skip


def all_tables(settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the tables `TABLES` of a study.

    `settings` has its `cells`, `capabilities`, `claims`, `paper`, and the folder `released_code`.
    """
    cells, paper = settings["cells"], settings["paper"]
    papers = dict.fromkeys(("recontrol", "repbend"), None) | (
        {paper: Published(settings["published"])} if paper else {}
    )
    rows = measurements(cells)
    asr = repbend_asr(rows, papers["repbend"])
    capability = repbend_capability(settings["capabilities"], papers["repbend"])
    agreement, disagreements = safety_agreement(cells)
    found = {
        "matrix": matrix(rows),
        "recontrol": recontrol(cells, rows, papers["recontrol"]),
        "repbend": repbend(cells, rows, papers["repbend"]),
        "repbend_asr": asr,
        "repbend_summary": repbend_summary(rows, asr, capability, papers["repbend"]),
        "repbend_capability": capability,
        "repbend_categories": repbend_categories(rows),
        "repbend_pairs": repbend_pairs(rows),
        "safety_agreement": agreement,
        "safety_disagreements": disagreements,
        "win_rates": win_rate_table(cells),
        "frontier": frontier(cells, rows),
        "gains": gains(rows),
    }
    return {**found, "claims": check_claims(settings["claims"], found)}


def write_tables(folder: str | Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as .csv (rates between 0 and 1; unknown is empty), .md and .tex (percent)."""
    with whole_directory(folder) as temporary:
        for name, table in tables.items():
            _plain(table).to_csv(temporary / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
            text = shown(name, table)
            body = text.to_markdown(index=False) if len(text) else "Nothing was measured."
            (temporary / f"{name}.md").write_text(f"{body}\n\n{note(name, table)}\n", encoding="utf-8")
            (temporary / f"{name}.tex").write_text(_latex(name, table, text), encoding="utf-8")


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the tables that `write_tables` wrote."""
    found = {}
    for name in TABLES:
        try:
            table = pd.read_csv(Path(folder) / f"{name}.csv", keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}/{name}.csv: not a readable table ({error})") from error
        words = [column for column in ("group", "dataset", "attack", "judge", "form") if column in table]
        found[name] = table.assign(**{column: table[column].astype(object).fillna("") for column in words})
    return found


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Truth values as CSV readers of other languages write them."""
    truths = [name for name in map(str, table) if name in ("met", "on_frontier") or name.endswith("_wrong")]
    return table.assign(**{name: table[name].map({True: "true", False: "false"}) for name in truths})


def _latex(name: str, table: pd.DataFrame, text: pd.DataFrame) -> str:
    """A `tabular` for the package booktabs; the note as a comment above it."""
    escaped = text.rename(columns=_escaped).map(_escaped)
    body = escaped.to_latex(index=False, escape=False) if len(text) else ""
    return f"% {name}: {note(name, table)}\n% needs \\usepackage{{booktabs}}\n{body}"


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("≥", r"$\geq$").replace("≤", r"$\leq$")
