"""Safety, over-refusal and capability in one number each, as in RepBend's Table 2 (arXiv:2504.01550).

What the printed averages imply: capability is the mean of the eight benchmarks of Table 12, MT-Bench counted in
tenths of its 10 points; overall is the mean of safety (1 − average ASR), over-refusal (mean compliance) and
capability. All values are rates between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

# Our names of the benchmarks, and how Table 12 prints each: name and full score.
BENCHMARKS: dict[str, tuple[str, float]] = {
    "mt_bench": ("MT-Bench (/10)", 10.0),
    "mmlu": ("MMLU", 100.0),
    "bbh": ("BBH", 100.0),
    "truthfulqa": ("TruthfulQA", 100.0),
    "arc_challenge": ("ARC-C", 100.0),
    "winogrande": ("Winogrande", 100.0),
    "gsm8k": ("GSM8K", 100.0),
    "codex_eval": ("Codex-Eval", 100.0),
}
_ROW = ["model", "method", "released_weights"]
# Printed numbers are rounded to 0.01 %: a mean of rounded parts, itself rounded, may be off by so much.
_ROUNDING = 1.0e-4 + 1.0e-9
_COMPLIANCE = ["xstest_compliance_percent", "wildjailbreak_benign_compliance_percent"]


def mean_capability(scores: Mapping[str, float | None], benchmarks: Sequence[str] = tuple(BENCHMARKS)) -> float | None:
    """Return the mean of the named benchmarks' rates; None where one of them has no score.

    A mean over fewer benchmarks is another quantity: name the ones that are meant, and print which.
    """
    values = [scores.get(name) for name in benchmarks]
    if not values or any(value is None for value in values):
        return None
    return sum(value for value in values if value is not None) / len(values)


def overall(asr: float, compliance: Sequence[float], capability: float) -> float:
    """Return the mean of safety (1 − `asr`), mean `compliance` with harmless prompts, and capability."""
    return ((1 - asr) + sum(compliance) / len(compliance) + capability) / 3


def printed_scores(folder: str | Path) -> pd.DataFrame:
    """Return Table 12 as rates: a row per model, method and whether weights were released, a column per benchmark."""
    printed = pd.read_csv(Path(folder) / "repbend_capability.csv")
    wide = printed.pivot(index=_ROW, columns="benchmark", values="score")
    return pd.DataFrame({name: wide[label] / full for name, (label, full) in BENCHMARKS.items()})


def recomputed_summary(folder: str | Path) -> pd.DataFrame:
    """Return Table 2 with its two averages as printed and as its own parts give them.

    Columns: `capability` and `overall` (recomputed, rates), `capability_printed`, `overall_printed`, and for each
    whether they `_agree` to rounding. `overall` is recomputed from the printed ASR, compliance and capability.
    """
    table = pd.read_csv(Path(folder) / "repbend_summary.csv").set_index(_ROW)
    scores = printed_scores(folder).reindex(table.index)
    found = pd.DataFrame(index=table.index)
    found["capability"] = [mean_capability(dict(zip(BENCHMARKS, row, strict=True))) for row in scores.to_numpy()]
    found["capability_printed"] = table["avg_capability"] / 100
    compliances = (table[_COMPLIANCE] / 100).to_numpy().tolist()
    parts = zip(table["avg_asr_percent"] / 100, compliances, found["capability_printed"], strict=True)
    found["overall"] = [overall(asr, compliance, capability) for asr, compliance, capability in parts]
    found["overall_printed"] = table["overall"] / 100
    for name in ("capability", "overall"):
        found[f"{name}_agrees"] = (found[name] - found[f"{name}_printed"]).abs() <= _ROUNDING
    return found
