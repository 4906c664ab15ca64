"""RepBend's Tables 1, 2 and 12 (arXiv:2504.01550): attack success, summary, capability. Rates between 0 and 1.

All are of models without control; a safety prompt stands among the adapters. Where the study names the paper,
`printed_…` is what the paper prints of the same benchmarks; an average of the paper stands twice, as printed
(`paper_…`) and as its own cells give it (`paper_…_recomputed`), with `paper_…_wrong` where the two differ by more
than rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, average_rate, mean, rate
from rebend.io.files import read_parquet
from rebend.io.schemas import CAPABILITY
from rebend.report.capability_summary import mean_capability, overall, printed_scores, recomputed_summary
from rebend.report.measurements import DIRECT, as_methods
from rebend.report.published import AVERAGES, BLACK_BOX, Published, benchmark_of, closest, method_of
from rebend.report.tables.layout import KEYS, columns, estimate_of, records

IN_DISTRIBUTION = BLACK_BOX[:1]  # from the data set that adapters are trained on; the paper averages it with black box
KINDS = ("in-distribution", "black-box", "white-box", "average")
AVERAGE = "average"
COMPLIED = {"xstest": "xstest", "wildjailbreak": "wildjailbreak_benign"}
_PRINTED_ASR = ["printed_model", "printed_asr", "paper_asr", "paper_asr_recomputed", "paper_asr_wrong"]
_PRINTED_SUMMARY = [
    "printed_model", "printed_asr", "paper_asr", "paper_asr_recomputed", "paper_asr_wrong",
    *(f"printed_{name}" for name in COMPLIED.values()),
    "printed_capability", "paper_capability", "paper_capability_recomputed", "paper_capability_wrong",
    "printed_overall", "paper_overall", "paper_overall_recomputed", "paper_overall_wrong",
]  # fmt: skip
_ROUNDING = 2.0e-4  # numbers are printed to 0.01 %, and means are taken of means already rounded
_NOTHING = Estimate(None, None, None, 0, 0)
ASR_COLUMNS = [*KEYS, "method", "kind", "benchmark", "dataset", "attack", "benchmarks", *columns("asr", _NOTHING)]
SUMMARY_COLUMNS = [
    *KEYS, "method", *columns("asr", _NOTHING), "benchmarks",
    *(column for name in COMPLIED.values() for column in columns(name, _NOTHING)),
    *columns("benign_answered", _NOTHING), "capability", "capability_benchmarks", "overall",
]  # fmt: skip
CAPABILITY_COLUMNS = ["model", "adapter", "method", "capability", "benchmark", *columns("score", _NOTHING)]


def repbend_asr(rows: pd.DataFrame, printed: Published | None) -> pd.DataFrame:
    """Return Table 1's layout, long: a line per model, adapter and benchmark, then its averages.

    A benchmark is a data set under an attack, with the paper's name where it has one. With a paper, averages are
    over the paper's benchmarks (a second attack that stands for the same one counts in none); a data set that
    Table 1 does not have is left out. Averages are unweighted; `benchmarks` says of how many.
    """
    lines = []
    attacked = _evaluated(rows, harmful=True, measurement="harmful")
    for keys, own in attacked.groupby(KEYS, sort=False):
        cells = list(_benchmarks(own, printed))
        averages = _averages(cells, printed)
        for line, found in [*cells, *averages]:
            model, adapter = str(keys[0]), str(keys[1])
            head = dict(zip(KEYS, keys, strict=True)) | {"method": _name(adapter, model)}
            compared = _printed_asr(printed, model, adapter, line) if printed is not None else {}
            lines.append({**head, **line, **columns("asr", found), **compared})
    return _framed(lines, ASR_COLUMNS, _PRINTED_ASR if printed is not None else [])


def _benchmarks(own: pd.DataFrame, printed: Published | None) -> Iterator[tuple[dict[str, Any], Estimate]]:
    """A line and its rate for each data set under each attack."""
    for (dataset, attack), part in own.groupby(["dataset", "attack"], sort=False):
        benchmark = benchmark_of(str(dataset), str(attack))
        if printed is not None and benchmark is None:
            continue
        kind = "black-box" if attack == DIRECT else "white-box"
        kind = "in-distribution" if benchmark in IN_DISTRIBUTION else kind
        name = benchmark if benchmark is not None else str(dataset) if attack == DIRECT else f"{dataset}, {attack}"
        line = {"kind": kind, "benchmark": name, "dataset": dataset, "attack": attack, "benchmarks": 1}
        yield line, estimate_of("asr", part)


def _averages(cells: Sequence[tuple[dict[str, Any], Estimate]], printed: Published | None) -> Iterator[Any]:
    """Lines of the averages, each over the first cell of every benchmark."""
    firsts: dict[str, tuple[dict[str, Any], Estimate]] = {}
    for line, found in cells:
        firsts.setdefault(line["benchmark"], (line, found))
    for name, members in AVERAGES.items():
        kinds = {"Black-box average": KINDS[:2], "White-box average": KINDS[2:3]}.get(name, KINDS[:3])
        chosen = [
            (line, found)
            for line, found in firsts.values()
            if (line["benchmark"] in members if printed is not None else line["kind"] in kinds)
        ]
        if len(chosen) > 1 or (chosen and name == "Total average"):
            line = {"kind": AVERAGE, "benchmark": name, "dataset": "", "attack": "", "benchmarks": len(chosen)}
            line["members"] = [cell["benchmark"] for cell, _ in chosen]
            yield line, average_rate([(cell["dataset"], found) for cell, found in chosen])


def _printed_asr(printed: Published, model: str, adapter: str, line: dict[str, Any]) -> dict[str, Any]:
    """The paper's number beside ours; of an average also what the paper's own cells give."""
    members = line.pop("members", None)
    beside = {"printed_model": printed.model_of(model)}
    if members is None:
        return {**beside, "printed_asr": printed.asr_of(model, adapter, line["benchmark"])}
    stated = printed.asr_of(model, adapter, line["benchmark"])
    cells = printed.mean_asr(model, adapter, AVERAGES[line["benchmark"]])
    return {**beside, "printed_asr": printed.mean_asr(model, adapter, members), **_checked("asr", stated, cells)}


def repbend_capability(capabilities: Sequence[Mapping[str, str]], printed: Published | None) -> pd.DataFrame:
    """Return Table 12's layout, long: a line per model, adapter and benchmark.

    `capabilities` are entries of model, adapter, capability, task and path (a file of schema CAPABILITY).
    """
    scores = printed_scores(printed.folder) if printed is not None else None
    lines = []
    for entry in capabilities:
        line: dict[str, Any] = {name: entry[name] for name in ("model", "adapter")}
        line |= {
            "method": _name(entry["adapter"], entry["model"]),
            "capability": entry["capability"],
            "benchmark": entry["task"],
        }
        values = [None if v is None else float(v) for v in read_parquet(entry["path"], CAPABILITY)["score"].to_pylist()]
        right = {value for value in values if value is not None} <= {0.0, 1.0}
        found = rate([None if v is None else v == 1.0 for v in values]) if right else mean(values)
        line |= columns("score", found)
        if printed is not None and scores is not None:
            row = printed.own(scores.reset_index(), entry["model"], entry["adapter"])
            known = len(row) == 1 and entry["task"] in row
            line["printed_model"] = printed.model_of(entry["model"])
            line["printed_score"] = float(row[entry["task"]].iloc[0]) if known else None
        lines.append(line)
    return _framed(lines, CAPABILITY_COLUMNS, ["printed_model", "printed_score"] if printed is not None else [])


def repbend_summary(
    rows: pd.DataFrame, asr: pd.DataFrame, capability: pd.DataFrame, printed: Published | None
) -> pd.DataFrame:
    """Return Table 2's layout: average ASR, compliance, average capability, overall; a line per model and adapter.

    `benign_answered` is the unweighted mean over the paper's two data sets of benign prompts, without a paper over
    all; `capability` is that over the benchmarks that were asked, `capability_benchmarks` how many; `overall` is
    unknown where one of its three parts is.
    """
    lines = []
    benign = _evaluated(rows, harmful=False, measurement="answered")
    totals = {_key(row): row for row in records(asr[asr["benchmark"] == "Total average"])}
    keys = dict.fromkeys([*totals, *map(_key, records(benign[KEYS].drop_duplicates()))])
    stated = recomputed_summary(printed.folder).reset_index() if printed is not None else None
    for model, adapter, control in keys:
        total = totals.get((model, adapter, control))
        line: dict[str, Any] = {"model": model, "adapter": adapter, "control": control, "method": _name(adapter, model)}
        line |= {name: None if total is None else total[name] for name in (*columns("asr", _NOTHING), "benchmarks")}
        line |= _compliance(benign[(benign[KEYS] == [model, adapter, control]).all(axis=1)], printed)
        own = capability[(capability["model"] == model) & (capability["adapter"] == adapter)]
        line |= {"capability": _mean_score(own), "capability_benchmarks": len(own)}
        parts = [line[name] for name in ("asr", "benign_answered", "capability")]
        known = not any(part is None or pd.isna(part) for part in parts)
        line["overall"] = overall(parts[0], [parts[1]], parts[2]) if known else None
        if printed is not None and stated is not None:
            line |= _printed_summary(printed, stated, model, adapter)
            line |= _printed_parts(None if total is None else total["printed_asr"], line, own)
        lines.append(line)
    return _framed(lines, SUMMARY_COLUMNS, _PRINTED_SUMMARY if printed is not None else [])


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["adapter"], row["control"]


def _compliance(benign: pd.DataFrame, printed: Published | None) -> dict[str, Any]:
    """Share of benign prompts answered: of the paper's two data sets, and their mean (without a paper: of all)."""
    found = {str(name): estimate_of("answered", part) for name, part in benign.groupby("dataset", sort=False)}
    named = {name: closest(name, list(COMPLIED)) for name in found}
    line: dict[str, Any] = {}
    for printed_name, ours in COMPLIED.items():
        line |= columns(ours, next((found[name] for name, other in named.items() if other == printed_name), _NOTHING))
    counted = [(name, rate_) for name, rate_ in found.items() if printed is None or named[name]]
    whole = printed is None or {other for other in named.values() if other} == set(COMPLIED)
    return {**line, **columns("benign_answered", average_rate(counted) if counted and whole else _NOTHING)}


def _mean_score(own: pd.DataFrame) -> float | None:
    scores = {row["capability"]: None if pd.isna(row["score"]) else row["score"] for row in own.to_dict("records")}
    return mean_capability(scores, list(scores))


def _printed_summary(printed: Published, stated: pd.DataFrame, model: str, adapter: str) -> dict[str, Any]:
    row = printed.own(stated, model, adapter)
    known: dict[Any, Any] = row.iloc[0].to_dict() if len(row) == 1 else {}
    total = "Total average"
    line: dict[str, Any] = {"printed_model": printed.model_of(model)}
    line |= _checked("asr", printed.asr_of(model, adapter, total), printed.mean_asr(model, adapter, AVERAGES[total]))
    for dataset, ours in COMPLIED.items():
        line[f"printed_{ours}"] = printed.repbend_row(model, dataset, adapter, DIRECT)["answered"]
    for name in ("capability", "overall"):
        line |= _checked(name, known.get(f"{name}_printed"), known.get(name))
    return line


def _printed_parts(asr: float | None, line: Mapping[str, Any], own: pd.DataFrame) -> dict[str, Any]:
    """What the paper's cells give for the benchmarks that ours are over."""
    scores = own["printed_score"]
    capability = float(scores.mean()) if len(own) and scores.notna().all() else None
    compliance = [line[f"printed_{name}"] for name in COMPLIED.values()]
    unknown = any(value is None or pd.isna(value) for value in (asr, capability, *compliance))
    whole = None if unknown or asr is None or capability is None else overall(asr, compliance, capability)
    return {"printed_asr": asr, "printed_capability": capability, "printed_overall": whole}


def _checked(name: str, stated: float | None, cells: float | None) -> dict[str, Any]:
    """An average of the paper as printed, as recomputed, and whether the two differ."""
    wrong = None if stated is None or cells is None else abs(stated - cells) > _ROUNDING
    recomputed = None if cells is None else round(cells, 6)
    return {f"paper_{name}": stated, f"paper_{name}_recomputed": recomputed, f"paper_{name}_wrong": wrong}


def _evaluated(rows: pd.DataFrame, *, harmful: bool, measurement: str) -> pd.DataFrame:
    """One measurement of evaluation rows without control."""
    own = rows[(rows["role"] == "evaluation") & (rows["metric"] == measurement) & (rows["harmful"] == harmful)]
    return as_methods(own) if len(own) else own


def _name(adapter: str, model: str) -> str:
    """The method as the paper's tables call it."""
    method, released = method_of(adapter, model)
    return f"{method} (released)" if released and method != adapter else method


def _framed(lines: Sequence[Mapping[str, Any]], names: Sequence[str], more: Sequence[str]) -> pd.DataFrame:
    found = pd.DataFrame(list(lines), columns=[*names, *more])
    return found.astype({name: object for name in more if name.endswith("_wrong")})
