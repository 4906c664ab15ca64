"""Numbers printed in the two papers, looked up by the key `published` of the blocks of a cell.

`cell["published"]` contains, for each part of a cell (model, dataset, adapter, control, attack, capability), the
printed names in its block. The names of blocks are not used. An empty printed cell is unknown, not 0. Rates are between
0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rebend.report.measurements import Cell
from rebend.report.metrics import DIRECT

Rates = dict[str, float | None]

ORIGINAL = "Original"  # RepBend's name of an unchanged model
RECONTROL_COLUMNS = {
    "diversity": ("diversity", 1.0),
    "coherence": ("coherence", 1.0),
    "reward": ("average_reward", 1.0),
    "win_rate": ("win_rate_percent", 0.01),
    "hours": ("inference_time_hours", 1.0),
}
WHITE_BOX = ("GCG", "Prefilling", "Input Embed")  # attacks in Table 1, all with the prompts of HarmBench
BLACK_BOX = ("WildGuardTest (ID)", "HarmBench", "DAN", "TrustLLM-Jailbreak", "PAP")
AVERAGES = {
    "Black-box average": BLACK_BOX,
    "White-box average": WHITE_BOX,
    "Total average": (*BLACK_BOX, *WHITE_BOX),
}
COMPLIANCE = ("xstest", "wildjailbreak_benign")  # data sets of benign prompts; columns `…_compliance_percent`
_MORE = {"harmbench_asr_percent": "HarmBench", "wildguardtest_asr_percent": "WildGuardTest (ID)"}  # Tables 3 and 6
_ROW = ["model", "method", "released_weights"]

# Benchmarks of Table 12: task → printed name and highest score
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
_MORE_CAPABILITY = ("mt_bench", "mmlu")  # the benchmarks of Tables 3 and 6
_ROUNDING = 1.0e-4 + 1.0e-9  # largest error of a mean of printed numbers, which are rounded to 0.01 %


class RecontrolPaper:
    """RE-Control's Table 1 (arXiv:2406.05954)."""

    def __init__(self, folder: str | Path) -> None:
        self.table = pd.read_csv(Path(folder) / "recontrol_main.csv", na_values=["N/A"])

    def row(self, cell: Cell) -> Rates:
        """Return the printed diversity, coherence, reward, win_rate and hours of a cell; None if not printed."""
        row = self.table if cell["adapter"] == "none" else self.table.iloc[:0]
        for column, part in (("dataset", "dataset"), ("model", "model"), ("method", "control")):
            row = row[row[column] == _first(cell["published"].get(part, ()), row[column])]
        return {key: _number(row, column, scale) for key, (column, scale) in RECONTROL_COLUMNS.items()}


class RepbendPaper:
    """RepBend's Tables 1, 2, 3, 6 and 12 (arXiv:2504.01550).

    The name of a method is the printed one, followed by " (released)" for weights that others released.
    """

    def __init__(self, folder: str | Path) -> None:
        asr, summary = (pd.read_csv(Path(folder) / f"repbend_{name}.csv") for name in ("asr", "summary"))
        others = [pd.read_csv(Path(folder) / f"repbend_{name}.csv") for name in ("more_baselines", "other_models")]
        for other in others:
            parts = [
                other.assign(benchmark=benchmark, asr_percent=other[column]) for column, benchmark in _MORE.items()
            ]
            asr, summary = _with_new(asr, pd.concat(parts)), _with_new(summary, other)
        self.asr, self.summary = _with_name(asr), _with_name(summary)
        capability = pd.read_csv(Path(folder) / "repbend_capability.csv")
        for other in others:
            parts = [other.assign(benchmark=BENCHMARKS[name][0], score=other[name]) for name in _MORE_CAPABILITY]
            capability = _with_new(capability, pd.concat(parts))
        self.capability = _with_name(capability)
        self.averages = _with_name(recomputed_summary(folder).reset_index())

    def model(self, cell: Cell) -> str | None:
        """Return the printed name of a cell's base model, or None."""
        return _first(cell["published"].get("model", ()), self.asr["model"])

    def method(self, cell: Cell) -> str | None:
        """Return the printed name of the method of a cell, or None if the paper does not print such a cell.

        It is the name of the adapter; without an adapter that of the instruction or of the released model, or
        "Original". The paper does not print adapters under control.
        """
        adapter, control, model = (
            _first(cell["published"].get(part, ()), self.summary["name"]) for part in ("adapter", "control", "model")
        )
        if cell["adapter"] != "none":
            return adapter if cell["method"] == "none" and model is None else None
        if cell["method"] != "none":
            return control
        return model or ORIGINAL

    def benchmark(self, cell: Cell) -> str | None:
        """Return the column of Table 1 for a cell's data set and attack, or None."""
        dataset = _first(cell["published"].get("dataset", ()), BLACK_BOX)
        if cell["attack_method"] == DIRECT:
            return dataset
        return _first(cell["published"].get("attack", ()), WHITE_BOX) if dataset == "HarmBench" else None

    def compliance_of(self, cell: Cell) -> str | None:
        """Return the name in `COMPLIANCE` of a cell's data set, or None."""
        return _first(cell["published"].get("dataset", ()), COMPLIANCE)

    def asr_of(self, model: str | None, method: str | None, benchmark: str | None) -> float | None:
        """Return the printed ASR in a column of Table 1 (averages are columns too), or None."""
        rows = own_rows(self.asr, model, method)
        return _number(rows[rows["benchmark"] == benchmark], "asr_percent", 0.01)

    def mean_asr(self, model: str | None, method: str | None, benchmarks: Sequence[str]) -> float | None:
        """Return the mean of printed cells, or None if one of them is not printed."""
        values = [self.asr_of(model, method, benchmark) for benchmark in benchmarks]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def answered_of(self, model: str | None, method: str | None, compliance: str | None) -> float | None:
        """Return the printed compliance rate on a data set of `COMPLIANCE`, or None."""
        rows = own_rows(self.summary, model, method)
        return _number(rows, f"{compliance}_compliance_percent", 0.01) if compliance else None

    def score_of(self, entry: Mapping[str, Any]) -> float | None:
        """Return the printed score of a capability benchmark as a rate, or None."""
        benchmark = _first(entry["published"].get("capability", ()), self.capability["benchmark"])
        rows = own_rows(self.capability, self.model(entry), self.method(entry))
        rows = rows[rows["benchmark"] == benchmark]
        full = dict(BENCHMARKS.values()).get(benchmark or "", 100.0)
        return _number(rows, "score", 1 / full)


def own_rows(table: pd.DataFrame, model: str | None, method: str | None) -> pd.DataFrame:
    """Return the rows of a printed table for a printed model and method."""
    return table[(table["model"] == model) & (table["name"] == method)]


def mean_capability(scores: Mapping[str, float | None], benchmarks: Sequence[str] = tuple(BENCHMARKS)) -> float | None:
    """Return the mean rate over `benchmarks`; None if one of them has no score.

    A mean over fewer benchmarks is another quantity, so the caller names the benchmarks.
    """
    values = [scores.get(name) for name in benchmarks]
    if not values or any(value is None for value in values):
        return None
    return sum(value for value in values if value is not None) / len(values)


def overall(asr: float, compliance: Sequence[float], capability: float) -> float:
    """Return the mean of safety (1 − `asr`), mean `compliance` with benign prompts, and capability (Table 2)."""
    return ((1 - asr) + sum(compliance) / len(compliance) + capability) / 3


def printed_scores(folder: str | Path) -> pd.DataFrame:
    """Return Table 12 as rates: rows by (model, method, released_weights), a column per benchmark."""
    printed = pd.read_csv(Path(folder) / "repbend_capability.csv")
    wide = printed.pivot(index=_ROW, columns="benchmark", values="score")
    return pd.DataFrame({name: wide[label] / full for name, (label, full) in BENCHMARKS.items()})


def recomputed_summary(folder: str | Path) -> pd.DataFrame:
    """Return the two averages of Table 2, as printed and as recomputed from their parts.

    Formulas inferred from the printed averages: capability is the mean over the eight benchmarks of Table 12, with
    MT-Bench divided by its 10 points; overall is the mean of safety (1 − average ASR), mean compliance and capability.

    Columns: `capability` and `overall` (recomputed rates), `capability_printed`, `overall_printed`, and
    `capability_agrees`, `overall_agrees` (equal up to rounding). `overall` is recomputed from the printed ASR,
    compliance and capability.
    """
    table = pd.read_csv(Path(folder) / "repbend_summary.csv").set_index(_ROW)
    scores = printed_scores(folder).reindex(table.index)
    summary = pd.DataFrame(index=table.index)
    summary["capability"] = [mean_capability(dict(zip(BENCHMARKS, row, strict=True))) for row in scores.to_numpy()]
    summary["capability_printed"] = table["avg_capability"] / 100
    compliances = (table[[f"{name}_compliance_percent" for name in COMPLIANCE]] / 100).to_numpy().tolist()
    parts = zip(table["avg_asr_percent"] / 100, compliances, summary["capability_printed"], strict=True)
    summary["overall"] = [overall(asr, compliance, capability) for asr, compliance, capability in parts]
    summary["overall_printed"] = table["overall"] / 100
    for name in ("capability", "overall"):
        summary[f"{name}_agrees"] = (summary[name] - summary[f"{name}_printed"]).abs() <= _ROUNDING
    return summary


def _first(names: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the first of a block's printed names that a table has."""
    allowed = set(known)
    return next((name for name in names if name in allowed), None)


def _with_name(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `name`: the method, followed by " (released)" for released weights."""
    return table.assign(name=table["method"] + table["released_weights"].map({True: " (released)", False: ""}))


def _with_new(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Append the rows of `other` with a new pair of model and method."""
    known = set(zip(table["model"], table["method"], strict=True))
    new = [pair not in known for pair in zip(other["model"], other["method"], strict=True)]
    return pd.concat([table, other.loc[new, [name for name in table if name in other]]], ignore_index=True)


def _number(rows: pd.DataFrame, column: str, scale: float) -> float | None:
    """Return the number in the only row, or None if it is not printed."""
    if len(rows) != 1 or pd.isna(rows[column].iloc[0]):
        return None
    return round(float(rows[column].iloc[0]) * scale, 6)
