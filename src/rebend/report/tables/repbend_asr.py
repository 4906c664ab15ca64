"""The table repbend_asr: RepBend's Table 1 (arXiv:2504.01550), attack success by benchmark, rates between 0 and 1.

All rows are of models without control; an instruction before the prompt is listed as an adapter. If the study names
the paper, `printed_…` is the paper's number for the same benchmarks. Averages of the paper have two columns, as printed
(`paper_…`) and recomputed from the paper's cells (`paper_…_recomputed`); `paper_…_wrong` is true if they differ by more
than rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, average_rate
from rebend.report.formatting import counted, estimate_text
from rebend.report.lines import column_names, columns, estimate_of, measured
from rebend.report.measurements import KEYS, as_methods
from rebend.report.metrics import DIRECT, METRICS, SAFETY
from rebend.report.published import AVERAGES, BLACK_BOX
from rebend.report.side_by_side import beside_paper, side_by_side
from rebend.report.tables.table import Inputs, Table

IN_DISTRIBUTION = BLACK_BOX[:1]  # from the data set that adapters are trained on; part of the paper's black-box average
KINDS = ("in-distribution", "black-box", "white-box")
AVERAGE = "average"
TOTAL = "Total average"
COLUMNS = [*KEYS, "method", "kind", "benchmark", "dataset", "attack", "benchmarks", "tries", *column_names("asr")]
PRINTED = ["printed_model", "printed_asr", "paper_asr", "paper_asr_recomputed", "paper_asr_wrong"]
_ASR = METRICS[0]
_ROUNDING = 2.0e-4  # numbers are printed to 0.01 %, and some means are of rounded means
_Line = tuple[dict[str, Any], Estimate]


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return Table 1 in long form: a row per model, adapter and benchmark, followed by the averages.

    A benchmark is a data set under an attack, with its printed name if it has one. With a paper, data sets that are not
    in Table 1 are left out, and averages are over the paper's benchmarks; a second attack for the same benchmark is not
    averaged. Averages are unweighted; `benchmarks` is the number of averaged benchmarks. `tries` is the number of tries
    of the attack per prompt, of averages the largest one.
    """
    lines = []
    attacked = as_methods(measured(_ASR, inputs.rows), inputs.prompting)
    for keys, rows in attacked.groupby(KEYS, sort=False):
        cells, shared = list(_benchmarks(inputs, rows)), sharing_prompts(rows)
        for line, estimate in [*cells, *_averages(cells, shared, by_paper=inputs.repbend is not None)]:
            model, adapter = str(keys[0]), str(keys[1])
            members = line.pop("members", None)
            printed = _printed(inputs, model, adapter, line["benchmark"], members)
            head = dict(zip(KEYS, keys, strict=True)) | {"method": inputs.method_name(model, adapter)}
            lines.append({**head, **line, **columns("asr", estimate), **printed})
    return framed(lines, COLUMNS, PRINTED if inputs.repbend is not None else [])


def _benchmarks(inputs: Inputs, rows: pd.DataFrame) -> Iterator[_Line]:
    """Yield names and ASR of each data set under each attack."""
    paper = inputs.repbend
    cells = {(cell["dataset"], cell["attack"]): cell for cell in inputs.cells if cell["role"] == SAFETY}
    for (dataset, attack), part in rows.groupby(["dataset", "attack"], sort=False):
        benchmark = None if paper is None else paper.benchmark(cells[dataset, attack])
        if paper is not None and benchmark is None:
            continue
        direct = cells[dataset, attack]["attack_method"] == DIRECT
        kind = "in-distribution" if benchmark in IN_DISTRIBUTION else "black-box" if direct else "white-box"
        name = benchmark or (str(dataset) if direct else f"{dataset}, {attack}")
        line = {"kind": kind, "benchmark": name, "dataset": dataset, "attack": attack, "benchmarks": 1}
        line["tries"] = int(part["attempts"].max())
        yield line, estimate_of(_ASR, part)


def sharing_prompts(rows: pd.DataFrame) -> dict[str, str]:
    """Return data set → the first of the data sets that it shares a cluster of prompts with, directly or by others.

    The rates on HarmBench and on jailbreaks of its behaviours are not independent.
    """
    first_of: dict[str, str] = {}
    for _, names in rows.groupby("cluster", sort=False)["dataset"].unique().items():
        roots = [first_of.setdefault(str(name), str(name)) for name in names]
        for name, root in first_of.items():
            first_of[name] = roots[0] if root in roots else root
    return first_of


def _averages(cells: Sequence[_Line], shared: Mapping[str, str], *, by_paper: bool) -> Iterator[_Line]:
    """Yield names and value of each average, over the first cell of every benchmark."""
    firsts: dict[str, _Line] = {}
    for line, estimate in cells:
        firsts.setdefault(line["benchmark"], (line, estimate))
    for name, members in AVERAGES.items():
        kinds = {"Black-box average": KINDS[:2], "White-box average": KINDS[2:]}.get(name, KINDS)
        chosen = [
            (line, estimate)
            for line, estimate in firsts.values()
            if (line["benchmark"] in members if by_paper else line["kind"] in kinds)
        ]
        if len(chosen) > 1 or (chosen and name == TOTAL):
            line = {"kind": AVERAGE, "benchmark": name, "dataset": "", "attack": "", "benchmarks": len(chosen)}
            line["tries"] = max(cell["tries"] for cell, _ in chosen)
            line["members"] = [cell["benchmark"] for cell, _ in chosen]
            yield line, average_rate([(shared[cell["dataset"]], estimate) for cell, estimate in chosen])


def tries_text(tries: Any, words: str) -> str:
    """Return the number of tries in brackets; "" for a single one."""
    return f" ({words} {int(tries)} tries)" if tries is not None and not pd.isna(tries) and tries > 1 else ""


def _printed(inputs: Inputs, model: str, adapter: str, benchmark: str, members: Sequence[str] | None) -> dict[str, Any]:
    """Return the paper's number; for an average (`members` given) also the one recomputed from the paper's cells."""
    paper = inputs.repbend
    if paper is None:
        return {}
    names = inputs.printed_names(model, adapter)
    if members is None:
        return {"printed_model": names[0], "printed_asr": paper.asr_of(*names, benchmark)}
    stated, cells = paper.asr_of(*names, benchmark), paper.mean_asr(*names, AVERAGES[benchmark])
    printed = {"printed_model": names[0], "printed_asr": paper.mean_asr(*names, members)}
    return printed | checked("asr", stated, cells)


def checked(name: str, stated: float | None, cells: float | None) -> dict[str, Any]:
    """Return an average of the paper as printed and as recomputed, and whether the two differ."""
    wrong = None if stated is None or cells is None else abs(stated - cells) > _ROUNDING
    recomputed = None if cells is None else round(cells, 6)
    return {f"paper_{name}": stated, f"paper_{name}_recomputed": recomputed, f"paper_{name}_wrong": wrong}


def framed(lines: Sequence[Mapping[str, Any]], names: Sequence[str], more: Sequence[str]) -> pd.DataFrame:
    """Return a table with the columns `names` and `more`; columns `…_wrong` contain True, False or None."""
    table = pd.DataFrame(list(lines), columns=[*names, *more])
    return table.astype({name: object for name in more if name.endswith("_wrong")})


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and benchmark, with a column per adapter."""

    def cell(row: Mapping[str, Any]) -> str:
        estimate = counted(estimate_text(row, "asr", percent=True), row, "asr")
        return beside_paper(estimate, row, "asr")

    def names(row: Mapping[str, Any]) -> dict[str, str]:
        if row["kind"] == AVERAGE:
            name = f"{row['benchmark']} of {row['benchmarks']}" + tries_text(row["tries"], "up to")
        else:
            several = row["benchmark"].endswith("tries)")  # a data set under an attack has them in its name
            name = row["benchmark"] + ("" if several else tries_text(row["tries"], "best of"))
        return {"ASR, %": name, "kind": row["kind"]}

    return side_by_side(table, names, cell)


TABLE = Table(
    "repbend_asr",
    "Attack success rate by benchmark",
    "Attack success rate on harmful prompts without control; 95 % Wilson intervals in brackets. Averages are "
    "unweighted, with MOVER intervals, in which rates on the same questions count as dependent; as in the paper, the "
    "black-box average includes the in-distribution benchmark. In parentheses, paper: the printed number; "
    "recomputed: from the paper's cells, if the two differ; same benchmarks: the paper's mean over the "
    "benchmarks of our average.",
    compute,
    text,
)
