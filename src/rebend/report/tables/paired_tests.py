"""The table repbend_pairs: McNemar's test for two adapters on the same prompts.

The test is over clusters of prompts and training seeds, if there are several (`rebend.evaluation.clustered.paired_p`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from rebend.evaluation.clustered import paired_p
from rebend.report.formatting import groups_text, number_of
from rebend.report.lines import datasets, records
from rebend.report.measurements import as_methods, paired
from rebend.report.metrics import ANSWERED, HARMFUL, SAFETY
from rebend.report.tables.table import Inputs, Table

COLUMNS = [
    "model", "control", "adapter", "against", "outcome", "dataset", "attack",
    "both", "neither", "only_adapter", "only_against", "p_value", "p_holm", "n", "clusters", "seeds", "not_scored",
]  # fmt: skip
_OUTCOMES = {HARMFUL.name: True, ANSWERED.name: False}  # measurement → taken over harmful prompts?


def compute(inputs: Inputs) -> pd.DataFrame:
    """Compare each adapter with none, and RepBend with each adapter of another method, without control.

    `outcome` is harmful (on harmful prompts, per attack) or answered (on benign prompts). Prompts that were scored for
    both adapters are counted: both or neither had the outcome, or only one of them. `p_value` is from McNemar's exact
    test, or its form for clusters; `p_holm` is corrected for the number of tests in the table.
    """
    lines, rows, repbend = [], inputs.rows, _repbend_adapters(inputs)
    for outcome, harmful in _OUTCOMES.items():
        chosen = (rows["role"] == SAFETY) & (rows["measurement"] == outcome) & (rows["harmful"] == harmful)
        adapters = as_methods(rows[chosen], inputs.prompting)
        for (model, control, attack), part in adapters.groupby(["model", "control", "attack"], sort=False):
            head = {"model": model, "control": control, "outcome": outcome, "attack": attack}
            for adapter, against in _compared(list(part["adapter"].unique()), repbend):
                pair = {**head, "adapter": adapter, "against": against}
                for dataset, both in datasets(part[part["adapter"].isin([adapter, against])]):
                    if counts := _counts(both, adapter, against):
                        lines.append({**pair, "dataset": dataset, **counts})
    corrected = holm([line["p_value"] for line in lines])
    return pd.DataFrame([{**line, "p_holm": p} for line, p in zip(lines, corrected, strict=True)], columns=COLUMNS)


def _repbend_adapters(inputs: Inputs) -> set[str]:
    """Return the adapters trained with RepBend, in this study or by its authors (they have its printed name)."""
    return {
        adapter
        for (_, adapter), cell in inputs.by_method.items()
        if cell["adapter_method"] == "repbend" or "RepBend" in cell["published"].get("adapter", ())
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, from the numbers of the two kinds of discordant pairs."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down procedure (Scand. J. Stat. 1979, 6, 65)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _compared(adapters: list[str], repbend: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each adapter with none, then each adapter of RepBend with each adapter of another method."""
    yield from ((adapter, "none") for adapter in adapters if adapter != "none" and "none" in adapters)
    ours = [adapter for adapter in adapters if adapter in repbend]
    yield from ((adapter, other) for adapter in ours for other in adapters if other != "none" and other not in ours)


def _counts(rows: pd.DataFrame, adapter: str, against: str) -> dict[str, Any] | None:
    """Return the counts of outcomes on the common prompts of two adapters; None without common prompts."""
    sides = paired(*(rows[rows["adapter"] == name] for name in (adapter, against)))
    if sides.empty:
        return None
    known = sides.dropna(subset=["ours", "theirs"])
    scored = known[["ours", "theirs"]] == 1.0
    first = int((scored["ours"] & ~scored["theirs"]).sum())
    second = int((scored["theirs"] & ~scored["ours"]).sum())
    clusters, seeds = known["cluster"].nunique(), max(1, known["seed"].nunique())
    exact = seeds == 1 and clusters == len(known)
    keys = list(known["cluster"]), list(known["seed"])
    differences = [int(a) - int(b) for a, b in zip(scored["ours"], scored["theirs"], strict=True)]
    return {
        "both": int(scored.all(axis=1).sum()),
        "neither": int((~scored).all(axis=1).sum()),
        "only_adapter": first,
        "only_against": second,
        "p_value": mcnemar(first, second) if exact else paired_p(differences, *keys),
        "n": len(scored),
        "clusters": clusters,
        "seeds": seeds,
        "not_scored": len(sides) - len(scored),
    }


def p_text(p: float) -> str:
    """Return a p-value with three decimals, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = [
        {
            "model": row["model"],
            "adapters": f"{row['adapter']} against {row['against']}",
            "outcome": row["outcome"],
            "data set": row["dataset"],
            "attack": row["attack"],
            **{name: number_of(row[name]) for name in ("both", "neither")},
            "only the first": number_of(row["only_adapter"]),
            "only the second": number_of(row["only_against"]),
            "p": p_text(row["p_value"]),
            "p, Holm": p_text(row["p_holm"]),
            "n": ", ".join([number_of(row["n"]), *groups_text(row)]),
            "not scored": number_of(row["not_scored"]),
        }
        for row in records(table)
    ]
    return pd.DataFrame(lines)


TABLE = Table(
    "repbend_pairs",
    "Paired comparison of adapters",
    "Numbers of prompts on which both adapters, neither, or only one had the outcome, without control. p: McNemar's "
    "exact test; where several prompts are about one question, the exact sign-flip test of the questions; over several "
    "training seeds, Student's test of seeds and questions. Holm: corrected for the number of tests in this table.",
    compute,
    text,
)
