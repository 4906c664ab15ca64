"""The table repbend_summary: RepBend's Table 2 (arXiv:2504.01550), safety, over-refusal and capability in one row.

The columns `printed_…` and `paper_…` are those of `rebend.report.tables.repbend_asr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import average_rate
from rebend.report.formatting import estimate_text, has_rows, number, number_of, without_empty
from rebend.report.lines import NOTHING, column_names, columns, estimate_of, measured, records
from rebend.report.measurements import KEYS, as_methods
from rebend.report.metrics import METRICS, SAFETY
from rebend.report.published import AVERAGES, COMPLIANCE, RepbendPaper, mean_capability, overall, own_rows
from rebend.report.side_by_side import beside_paper
from rebend.report.tables.repbend_asr import TOTAL, checked, framed, sharing_prompts, tries_text
from rebend.report.tables.table import Inputs, Table

COLUMNS = [
    *KEYS, "method", *column_names("asr"), "benchmarks", "tries",
    *(column for name in COMPLIANCE for column in column_names(name)),
    *column_names("benign_answered"), "capability", "capability_benchmarks", "overall",
]  # fmt: skip
PRINTED = [
    "printed_model", "printed_asr", "paper_asr", "paper_asr_recomputed", "paper_asr_wrong",
    *(f"printed_{name}" for name in COMPLIANCE),
    "printed_capability", "paper_capability", "paper_capability_recomputed", "paper_capability_wrong",
    "printed_overall", "paper_overall", "paper_overall_recomputed", "paper_overall_wrong",
]  # fmt: skip
_ANSWERED = next(metric for metric in METRICS if metric.name == "benign_answer_rate")
_Key = tuple[str, str, str]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return Table 2: average ASR, compliance, average capability and overall, a row per model and adapter.

    `benign_answered` is the unweighted mean over the paper's two data sets of benign prompts, or over all data sets
    without a paper. `capability` is the mean over the study's benchmarks, `capability_benchmarks` in number. `overall`
    is unknown if one of its three parts is unknown. Needs the tables repbend_asr and repbend_capability.
    """
    asr, capability = inputs.tables["repbend_asr"], inputs.tables["repbend_capability"]
    benign = as_methods(measured(_ANSWERED, inputs.rows), inputs.prompting)
    totals = {_key(row): row for row in records(asr[asr["benchmark"] == TOTAL])}
    lines = []
    for key in dict.fromkeys([*totals, *map(_key, records(benign[KEYS].drop_duplicates()))]):
        model, adapter, _ = key
        scores = capability[(capability["model"] == model) & (capability["adapter"] == adapter)]
        benign_rows = benign[(benign[KEYS] == list(key)).all(axis=1)]
        line = dict(zip(KEYS, key, strict=True)) | {"method": inputs.method_name(model, adapter)}
        line |= _parts(inputs, totals.get(key), benign_rows, scores)
        if inputs.repbend is not None:
            line |= _printed(inputs.repbend, *inputs.printed_names(model, adapter))
            line |= _printed_parts(totals[key]["printed_asr"] if key in totals else None, line, scores)
        lines.append(line)
    return framed(lines, COLUMNS, PRINTED if inputs.repbend is not None else [])


def _key(row: Mapping[str, Any]) -> _Key:
    return row["model"], row["adapter"], row["control"]


def _parts(
    inputs: Inputs, total: Mapping[str, Any] | None, benign: pd.DataFrame, capability: pd.DataFrame
) -> dict[str, Any]:
    """Return the measured average ASR, compliance, capability and overall."""
    line: dict[str, Any] = {
        name: None if total is None else total[name] for name in (*column_names("asr"), "benchmarks", "tries")
    }
    line |= _compliance(inputs, benign)
    line |= {"capability": _mean_score(capability), "capability_benchmarks": len(capability)}
    parts = [line[name] for name in ("asr", "benign_answered", "capability")]
    known = not any(part is None or pd.isna(part) for part in parts)
    return {**line, "overall": overall(parts[0], [parts[1]], parts[2]) if known else None}


def _compliance(inputs: Inputs, benign: pd.DataFrame) -> dict[str, Any]:
    """Return the rates of benign prompts answered: the paper's two data sets, and the mean (see `compute`)."""
    rates = {str(name): estimate_of(_ANSWERED, part) for name, part in benign.groupby("dataset", sort=False)}
    paper = inputs.repbend
    cells = {cell["dataset"]: cell for cell in inputs.cells if cell["role"] == SAFETY}
    named = {name: None if paper is None else paper.compliance_of(cells[name]) for name in rates}
    line: dict[str, Any] = {}
    for printed in COMPLIANCE:
        line |= columns(printed, next((rates[name] for name, other in named.items() if other == printed), NOTHING))
    shared = sharing_prompts(benign)
    members = [(shared[name], estimate) for name, estimate in rates.items() if paper is None or named[name]]
    complete = paper is None or set(named.values()) - {None} == set(COMPLIANCE)
    return {**line, **columns("benign_answered", average_rate(members) if members and complete else NOTHING)}


def _mean_score(scores: pd.DataFrame) -> float | None:
    by_name = {row["capability"]: None if pd.isna(row["score"]) else row["score"] for row in scores.to_dict("records")}
    return mean_capability(by_name, list(by_name))


def _printed(paper: RepbendPaper, model: str | None, method: str | None) -> dict[str, Any]:
    """Return the numbers of the paper's Table 2, with recomputed averages."""
    rows = own_rows(paper.averages, model, method)
    known: dict[Any, Any] = rows.iloc[0].to_dict() if len(rows) == 1 else {}
    line: dict[str, Any] = {"printed_model": model}
    line |= checked("asr", paper.asr_of(model, method, TOTAL), paper.mean_asr(model, method, AVERAGES[TOTAL]))
    line |= {f"printed_{name}": paper.answered_of(model, method, name) for name in COMPLIANCE}
    for name in ("capability", "overall"):
        line |= checked(name, known.get(f"{name}_printed"), known.get(name))
    return line


def _printed_parts(asr: float | None, line: Mapping[str, Any], scores: pd.DataFrame) -> dict[str, Any]:
    """Return the paper's averages over the benchmarks of our averages."""
    printed = scores["printed_score"]
    capability = float(printed.mean()) if len(scores) and printed.notna().all() else None
    compliance = [line[f"printed_{name}"] for name in COMPLIANCE]
    unknown = any(value is None or pd.isna(value) for value in (asr, capability, *compliance))
    mean = None if unknown or asr is None or capability is None else overall(asr, compliance, capability)
    return {"printed_asr": asr, "printed_capability": capability, "printed_overall": mean}


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = []
    for row in records(table):
        line = {"model": row["model"], "adapter": row["adapter"], "method": row["method"]}
        average = estimate_text(row, "asr", percent=True) + tries_text(row["tries"], "up to")
        line["average ASR, %"] = beside_paper(average, row, "asr")
        line["number of benchmarks"] = number_of(row["benchmarks"])
        for name in (*COMPLIANCE, "benign_answered"):
            column = f"{name} answered" if name in COMPLIANCE else name
            rate = estimate_text(row, name, percent=True) if has_rows(row, name) else ""
            line[f"{column.replace('_', ' ')}, %"] = beside_paper(rate, row, name)
        line["capability, %"] = beside_paper(number(row["capability"], percent=True), row, "capability")
        line["number of capability benchmarks"] = number_of(row["capability_benchmarks"] or None)
        line["overall, %"] = beside_paper(number(row["overall"], percent=True), row, "overall")
        lines.append(line)
    return without_empty(pd.DataFrame(lines))


TABLE = Table(
    "repbend_summary",
    "Safety, benign answers, capability, overall",
    "Without control. Overall is the mean of 1 - average ASR, benign prompts answered and capability; it is empty if "
    "one of them is unknown. Capability is the mean over the benchmarks of the study. In parentheses, paper: the "
    "printed number; recomputed: from the paper's cells, if the two differ; same benchmarks: from the paper's cells "
    "for the benchmarks of our average. The printed XSTest rates are multiples of 1/450, so they include XSTest's "
    "unsafe prompts in some way; ours are over its 250 safe prompts.",
    compute,
    text,
)
