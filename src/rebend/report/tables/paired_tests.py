"""Two adapters on the same prompts: how often only one of them fails, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from rebend.report.measurements import as_methods
from rebend.report.published import method_of
from rebend.report.tables.layout import datasets

PAIRS = [
    "model", "control", "adapter", "against", "outcome", "dataset", "attack",
    "both", "neither", "only_adapter", "only_against", "p_value", "p_holm", "n", "not_scored",
]  # fmt: skip
OUTCOMES = {"harmful": True, "answered": False}  # outcome -> of harmful prompts?


def repbend_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each adapter against none, and RepBend against each other adapter, without control.

    `outcome` is harmful (of harmful prompts, per attack) or answered (of benign ones). Counts are of prompts on which
    both adapters were scored: both or neither had the outcome, or only one. `p_value` is McNemar's exact test, `p_holm`
    corrects it for all tests of the table.
    """
    lines = []
    for outcome, harmful in OUTCOMES.items():
        chosen = (rows["role"] == "evaluation") & (rows["metric"] == outcome) & (rows["harmful"] == harmful)
        for (model, control, attack), part in as_methods(rows[chosen]).groupby(
            ["model", "control", "attack"], sort=False
        ):
            for adapter, against in _compared(list(part["adapter"].unique())):
                head = {"model": model, "control": control, "adapter": adapter, "against": against, "outcome": outcome}
                for dataset, own in datasets(part[part["adapter"].isin([adapter, against])]):
                    if counts := _counts(own, adapter, against):
                        lines.append({**head, "dataset": dataset, "attack": attack, **counts})
    corrected = holm([line["p_value"] for line in lines])
    return pd.DataFrame([{**line, "p_holm": p} for line, p in zip(lines, corrected, strict=True)], columns=PAIRS)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test: are the discordant pairs split like a fair coin's throws?"""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure (Scand. J. Stat. 1979, 6, 65)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _compared(adapters: list[str]) -> Iterator[tuple[str, str]]:
    """Every adapter against none; then every RepBend against every adapter of another method."""
    yield from ((adapter, "none") for adapter in adapters if adapter != "none" and "none" in adapters)
    ours = [adapter for adapter in adapters if method_of(adapter)[0] == "RepBend"]
    yield from ((adapter, other) for adapter in ours for other in adapters if other != "none" and other not in ours)


def _counts(rows: pd.DataFrame, adapter: str, against: str) -> dict[str, Any] | None:
    """What became of the prompts that both adapters were given; None if there are no such prompts."""
    ours, theirs = (
        rows[rows["adapter"] == name].set_index(["dataset", "row_id"])["value"] for name in (adapter, against)
    )
    sides = pd.concat([ours, theirs], axis=1, join="inner", keys=["ours", "theirs"])
    if sides.empty:
        return None
    scored = sides.dropna() == 1.0
    first = int((scored["ours"] & ~scored["theirs"]).sum())
    second = int((scored["theirs"] & ~scored["ours"]).sum())
    return {
        "both": int(scored.all(axis=1).sum()),
        "neither": int((~scored).all(axis=1).sum()),
        "only_adapter": first,
        "only_against": second,
        "p_value": mcnemar(first, second),
        "n": len(scored),
        "not_scored": len(sides) - len(scored),
    }
