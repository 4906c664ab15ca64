"""The table win_rates: what the judge of each cell said, how sure that is, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from rebend.config.judges import Prices
from rebend.evaluation.judges.win_rate.statistics import WinRates, win_rates
from rebend.evaluation.judges.win_rate.verdict import DETAILED_VERDICTS, STATES
from rebend.io.files import read_parquet
from rebend.report.formatting import interval, number, number_of, without_empty
from rebend.report.measurements import Cell, judge_names, named_controls
from rebend.report.tables.layout import records

PLACE = ["dataset", "model", "adapter", "control", "judge", "form"]
RATES = (
    "win_rate", "win_rate_bootstrap", "half_tie_rate", "flip_rate", "length_controlled", "longer_wins",
    "response_longer",
)  # fmt: skip
WIN_RATES = [
    *PLACE, *STATES,
    *(f"{rate}{end}" for rate in RATES for end in ("", "_low", "_high", "_n")),
    "ties_of_orders", "length_slope", "tokens_in", "tokens_out", "cost",
]  # fmt: skip


def win_rate_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a line per judged cell: rows by state, the figures of `WinRates`, tokens and cost of all its replies.

    Rates are between 0 and 1, of what was judged. A reply that several cells share counts in each of them. `cost` is
    at the prices of the judge's block, and unknown without.
    """
    judges, lines = judge_names(cells), []
    for cell in named_controls(cells):
        if cell["role"] == "prompts" and cell.get("win_rate"):
            verdicts = _read(cell["win_rate"])
            place = {name: cell[name] for name in PLACE if name in cell}
            place |= {"judge": judges[cell["win_rate"]], "form": _said(verdicts, "form")}
            lines.append({**place, **_figures(win_rates(verdicts), _prices(verdicts))})
    frame = pd.DataFrame(lines, columns=WIN_RATES)
    return frame.sort_values("dataset", kind="stable", ignore_index=True)


def _read(path: str) -> pa.Table:
    """The verdicts, with their metadata."""
    metadata = read_parquet(path).schema.metadata
    return read_parquet(path, DETAILED_VERDICTS).replace_schema_metadata(metadata)


def _prices(verdicts: pa.Table) -> Prices:
    """The prices that a file of verdicts says its judge had."""
    price_in, price_out = _said(verdicts, "price_in"), _said(verdicts, "price_out")
    return Prices(float(price_in) if price_in else None, float(price_out) if price_out else None)


def _said(verdicts: pa.Table, key: str) -> str:
    """What a file of verdicts says of its judge; "" if nothing."""
    return str((verdicts.schema.metadata or {}).get(key.encode(), b"").decode())


def _figures(found: WinRates, prices: Prices) -> dict[str, Any]:
    line: dict[str, Any] = dict(found.states)
    for name in RATES:
        figure = getattr(found, name)
        line |= {name: figure.estimate, f"{name}_low": figure.ci_low, f"{name}_high": figure.ci_high}
        line[f"{name}_n"] = figure.n
    line |= {name: getattr(found, name) for name in ("ties_of_orders", "length_slope", "tokens_in", "tokens_out")}
    line["cost"] = prices.cost(found.tokens_in, found.tokens_out)
    return line


WIN_RATE_NOTE = (
    "Rates are of judged rows; 95 % intervals in brackets (win rate, flips, length: Wilson; the others: bootstrap). A "
    "tie is no win: both orders said tie, or the two orders differ (counted in brackets). Flips: rows whose verdict "
    "depends on which answer stands first. Length-controlled: win rate at equal length by a logistic regression on the "
    "length difference; not known where all responses are longer, or all shorter. Tokens and cost are of all replies "
    "behind a line, also where another line or study shares them; `asked` in the verdicts' record says what was paid "
    "for that time."
)
_STATES = {"win": "wins", "lose": "losses", "refused": "refused", "unreadable": "unreadable", "error": "errors"}


def win_rate_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table win_rates as text; counts and costs that are zero everywhere are left out."""
    return without_empty(pd.DataFrame([_line(row) for row in records(table)]).fillna(""))


def _line(row: Mapping[str, Any]) -> dict[str, str]:
    line = {name: row[name] for name in ("dataset", "model", "adapter", "control", "judge", "form")}
    line["win rate, %"] = _rate(row, "win_rate")
    line["win rate, bootstrap, %"] = _rate(row, "win_rate_bootstrap")
    line["with half of ties, %"] = _rate(row, "half_tie_rate")
    line["length-controlled, %"] = _rate(row, "length_controlled")
    line["flips, %"] = _rate(row, "flip_rate") if row["flip_rate_n"] else ""
    line["longer answer wins, %"] = _rate(row, "longer_wins") if row["longer_wins_n"] else ""
    line["responses longer, %"] = number(row["response_longer"], percent=True)
    line |= {heading: number_of(row[state] or None) for state, heading in _STATES.items()}
    line["ties (of orders)"] = f"{number_of(row['tie'])} ({number_of(row['ties_of_orders'])})" if row["tie"] else ""
    line["nothing to judge"] = number_of(row["missing"] or None)
    line["tokens in, out"] = (
        f"{number_of(row['tokens_in'])}, {number_of(row['tokens_out'])}" if row["tokens_in"] else ""
    )
    line["cost"] = "" if pd.isna(row["cost"]) else f"{row['cost']:.4g}"
    return line


def _rate(row: Mapping[str, Any], name: str) -> str:
    text = interval(row[name], row[f"{name}_low"], row[f"{name}_high"], percent=True)
    return "not known" if name == "length_controlled" and text == "not scored" and row[f"{name}_n"] else text
