"""The table win_rates: verdicts, win rates with intervals, tokens and cost of each judged cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from rebend.config.judges import Prices
from rebend.evaluation.judges.win_rate.statistics import WinRates, win_rates
from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS, STATES
from rebend.io.files import read_parquet
from rebend.report.formatting import estimate_text, groups_text, number, number_of, without_empty
from rebend.report.lines import clusters_of, records
from rebend.report.measurements import Cell, clusters_by_row, folds, judge_names, seed_of
from rebend.report.metrics import QUALITY
from rebend.report.tables.table import Inputs, Table

_CELL = ["dataset", "model", "adapter", "control", "judge", "form"]
_RATES = (
    "win_rate", "win_rate_bootstrap", "half_tie_rate", "flip_rate", "length_controlled", "longer_wins",
    "response_longer",
)  # fmt: skip
COLUMNS = [
    *_CELL, *STATES,
    *(f"{rate}{end}" for rate in _RATES for end in ("", "_low", "_high", "_n")), "clusters", "seeds",
    "ties_of_orders", "length_slope", "tokens_in", "tokens_out", "cost",
]  # fmt: skip


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return a row per judged cell: rows by state, the statistics of `WinRates`, tokens and cost of its replies.

    Cells that differ only in the training seed are one row. `clusters` and `seeds` are those of `win_rate`. Rates are
    between 0 and 1, over judged rows. A reply that several cells share is counted in each of them. `cost` uses the
    prices in the judge's block; it is unknown without prices.
    """
    judges, lines = judge_names(inputs.cells), []
    for trainings in folds(cell for cell in inputs.cells if cell["role"] == QUALITY):
        judged = [(cell, path) for cell in trainings if (path := cell["scores"].get("win_rate"))]
        if judged:
            cell, path = judged[0]
            tables = [_read(path) for _, path in judged]
            names = {name: cell[name] for name in _CELL if name in cell}
            names |= {"judge": judges[path], "form": _metadata(tables[0], "form")}
            rates = win_rates(pa.concat_tables(tables), 0, *_keys([cell for cell, _ in judged], tables))
            lines.append({**names, **_figures(rates, _prices(tables[0]))})
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.sort_values("dataset", kind="stable", ignore_index=True)


def _keys(cells: Sequence[Cell], tables: Sequence[pa.Table]) -> tuple[list[str], list[str]]:
    """Return the cluster and the training seed of each row of the tables of several trainings."""
    clusters: list[str] = []
    seeds: list[str] = []
    for cell, table in zip(cells, tables, strict=True):
        of_row = clusters_by_row(cell["data"])
        clusters += [of_row.get(row_id, row_id) for row_id in table["row_id"].to_pylist()]
        seeds += [seed_of(cell)] * len(table)
    return clusters, seeds


def _read(path: str) -> pa.Table:
    """Return the verdicts, with their metadata."""
    metadata = read_parquet(path).schema.metadata
    return read_parquet(path, DETAILED_VERDICTS).replace_schema_metadata(metadata)


def _prices(verdicts: pa.Table) -> Prices:
    """Return the prices of the judge, from the metadata of its verdicts."""
    price_in, price_out = _metadata(verdicts, "price_in"), _metadata(verdicts, "price_out")
    return Prices(float(price_in) if price_in else None, float(price_out) if price_out else None)


def _metadata(verdicts: pa.Table, key: str) -> str:
    """Return an entry of the metadata of verdicts; "" if there is none."""
    return str((verdicts.schema.metadata or {}).get(key.encode(), b"").decode())


def _figures(rates: WinRates, prices: Prices) -> dict[str, Any]:
    line: dict[str, Any] = dict(rates.states)
    for name in _RATES:
        figure = getattr(rates, name)
        line |= {name: figure.estimate, f"{name}_low": figure.ci_low, f"{name}_high": figure.ci_high}
        line[f"{name}_n"] = figure.n
    line |= {"clusters": clusters_of(rates.win_rate), "seeds": rates.win_rate.seeds}
    line |= {name: getattr(rates, name) for name in ("ties_of_orders", "length_slope", "tokens_in", "tokens_out")}
    line["cost"] = prices.cost(rates.tokens_in, rates.tokens_out)
    return line


_STATES = {
    "win": "wins",
    "lose": "losses",
    "refused": "refused",
    "unreadable": "unreadable",
    "too_long": "too long",
    "error": "errors",
}


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table win_rates as text, without columns of counts and costs that are zero in all rows."""
    return without_empty(pd.DataFrame([_line(row) for row in records(table)]).fillna(""))


def _line(row: Mapping[str, Any]) -> dict[str, str]:
    line = {name: row[name] for name in ("dataset", "model", "adapter", "control", "judge", "form")}
    groups = groups_text({"n": row["win_rate_n"], "clusters": row["clusters"], "seeds": row["seeds"]})
    line["win rate, %"] = _rate(row, "win_rate") + (f" ({', '.join(groups)})" if groups else "")
    line["win rate, bootstrap, %"] = _rate(row, "win_rate_bootstrap")
    line["ties as half wins, %"] = _rate(row, "half_tie_rate")
    line["length-controlled, %"] = _rate(row, "length_controlled")
    line["flips, %"] = _rate(row, "flip_rate") if row["flip_rate_n"] else ""
    line["longer answer wins, %"] = _rate(row, "longer_wins") if row["longer_wins_n"] else ""
    line["responses longer, %"] = number(row["response_longer"], percent=True)
    line |= {heading: number_of(row[state] or None) for state, heading in _STATES.items()}
    line["ties (of orders)"] = f"{number_of(row['tie'])} ({number_of(row['ties_of_orders'])})" if row["tie"] else ""
    line["missing"] = number_of(row["missing"] or None)
    line["tokens in, out"] = (
        f"{number_of(row['tokens_in'])}, {number_of(row['tokens_out'])}" if row["tokens_in"] else ""
    )
    line["cost"] = "" if pd.isna(row["cost"]) else f"{row['cost']:.4g}"
    return line


def _rate(row: Mapping[str, Any], name: str) -> str:
    rate = estimate_text(row, name, percent=True)
    return "unknown" if name == "length_controlled" and rate == "not scored" and row[f"{name}_n"] else rate


TABLE = Table(
    "win_rates",
    "Win rates",
    "Rates are over judged rows; 95 % intervals in brackets (win rate, flips, longer answer wins: Wilson; others: "
    "bootstrap), over clusters of prompts where several prompts are about one question. A tie is no win. The verdict "
    "is a tie if both orders of the two answers give a tie, or if the orders differ (number in parentheses). Flips: "
    "rows whose verdict depends on the order; a judge with `orders: one` (as in RE-Control's released code) reads each "
    "row in one random order, and has no flips. Length-controlled: win rate at equal length, by a logistic regression "
    "on the length difference; unknown if all responses are longer than their references, or all shorter. Missing: no"
    " response, reference or reward. Tokens and cost are of all replies used in a row, also of replies shared with "
    "other rows or studies; `asked` in the record of the verdicts counts the requests that its run paid for.",
    compute,
    text,
)
