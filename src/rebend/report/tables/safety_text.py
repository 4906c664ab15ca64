"""The tables of the safety evaluation as people read them: the adapters of a model side by side, as the paper has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from rebend.report.formatting import counted, figure, heading, interval, number, number_of, without_empty
from rebend.report.tables.layout import records
from rebend.report.tables.repbend_paper import AVERAGE, COMPLIED

SAFETY_NOTES = {
    "repbend_asr": "Attack success rate on harmful prompts without control; 95 % Wilson intervals in brackets. "
    "Averages are unweighted, their intervals MOVER; the black-box one has the in-distribution benchmark in it, as in "
    "the paper. Of the same: the paper's mean over the benchmarks that ours is over.",
    "repbend_summary": "Without control. Overall is the mean of 1 - average ASR, benign prompts answered and "
    "capability; it is known where all three are. Capability is the mean of the benchmarks that were asked. Of the "
    "same: what the paper's cells give of the benchmarks that ours is over. The printed XSTest rates are multiples of "
    "1/450, so they count its unsafe prompts in some way; ours are of the 250 safe ones.",
    "repbend_capability": "Without control. 95 % intervals in brackets (Wilson; bootstrap where an answer can be half "
    "right).",
    "repbend_categories": "Without control; 95 % Wilson intervals in brackets.",
    "repbend_pairs": "Without control, on the same prompts. p: McNemar's exact test; Holm: corrected for all tests of "
    "this table.",
    "safety_agreement": "Of completions that both judges scored: the share with the same verdict and Cohen's kappa, "
    "of all verdicts and of harmful against everything else. ASR: what each judge alone would report, and the range "
    "over all judges.",
    "safety_disagreements": "Completions on which judges differ, by row id; their text stays in the private files.",
}


def beside_paper(text: str, row: Mapping[str, Any], name: str) -> str:
    """Append what the paper prints: of an average also what its own cells give, where that is something else, and its
    cells of the same benchmarks, where ours is over fewer.
    """
    keys = (f"printed_{name}", f"paper_{name}", f"paper_{name}_recomputed")
    same, stated, cells = (None if pd.isna(row.get(key)) else row[key] for key in keys)
    parts = [_exact(same if stated is None else stated)] if (same, stated) != (None, None) else []
    if row.get(f"paper_{name}_wrong") is True:
        parts.append(f"its cells {_exact(cells)}")
    if None not in (same, cells) and _exact(same) != _exact(cells):
        parts.append(f"of the same {_exact(same)}")
    return f"{text} (paper {', '.join(parts)})".strip() if parts else text


def _exact(rate: Any) -> str:
    """A printed rate with the paper's own two digits."""
    return f"{100 * float(rate):.2f}"


def _asr(table: pd.DataFrame) -> pd.DataFrame:
    """A line per model and benchmark, a column per adapter."""

    def cell(row: Mapping[str, Any]) -> str:
        text = counted(_estimate(row, "asr"), row["asr_n"], row["asr_not_scored"])
        return beside_paper(text, row, "asr")

    def place(row: Mapping[str, Any]) -> dict[str, str]:
        several = f"{row['benchmark']} of {row['benchmarks']}" if row["kind"] == AVERAGE else row["benchmark"]
        return {"ASR, %": several, "kind": row["kind"]}

    return _side_by_side(table, place, cell)


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in records(table):
        line = {"model": row["model"], "adapter": row["adapter"], "method": row["method"]}
        line["average ASR, %"] = beside_paper(_estimate(row, "asr"), row, "asr")
        line["of benchmarks"] = number_of(row["benchmarks"])
        for name in (*COMPLIED.values(), "benign_answered"):
            heading_ = f"{name} answered" if name in COMPLIED.values() else name
            line[f"{heading_.replace('_', ' ')}, %"] = beside_paper(_known(row, name), row, name)
        line["capability, %"] = beside_paper(number(row["capability"], percent=True), row, "capability")
        line["of capabilities"] = number_of(row["capability_benchmarks"] or None)
        line["overall, %"] = beside_paper(number(row["overall"], percent=True), row, "overall")
        lines.append(line)
    return without_empty(pd.DataFrame(lines))


def _capability(table: pd.DataFrame) -> pd.DataFrame:
    def cell(row: Mapping[str, Any]) -> str:
        text = counted(_estimate(row, "score"), row["score_n"], row["score_not_scored"])
        return beside_paper(text, row, "score")

    return _side_by_side(table, lambda row: {"score, %": row["capability"]}, cell)


def _categories(table: pd.DataFrame) -> pd.DataFrame:
    def place(row: Mapping[str, Any]) -> dict[str, str]:
        names = {"data set": row["dataset"], "attack": row["attack"], "category": row["category"]}
        return {**names, "metric": heading(row["metric"])}

    return _side_by_side(table, place, lambda row: counted(figure(row, row["metric"]), row["n"], row["not_scored"]))


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
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
            "not scored": number_of(row["not_scored"]),
        }
        for row in records(table)
    ]
    return pd.DataFrame(lines)


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in records(table):
        line = {name: row[name] for name in ("model", "adapter", "control")}
        line |= {"data set": row["dataset"], "attack": row["attack"], "judges": f"{row['judge']}, {row['other']}"}
        line |= {"n": number_of(row["n"]), "agree, %": number(row["agreement"], percent=True)}
        line |= {"kappa": number(row["kappa"]), "agree on harm, %": number(row["harm_agreement"], percent=True)}
        line["kappa of harm"] = number(row["harm_kappa"])
        line["ASR, %"] = " and ".join(number(row[name], percent=True) for name in ("asr_judge", "asr_other"))
        ends = [number(row[name], percent=True) for name in ("asr_low", "asr_high")]
        lines.append({**line, "ASR over all judges, %": f"{ends[0]} to {ends[1]}"})
    return pd.DataFrame(lines)


def _disagreements(table: pd.DataFrame) -> pd.DataFrame:
    return table.fillna("not scored").astype(str)


def p_text(p: float) -> str:
    """Return a p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _side_by_side(
    table: pd.DataFrame,
    place: Callable[[Mapping[str, Any]], Mapping[str, str]],
    cell: Callable[[Mapping[str, Any]], str],
) -> pd.DataFrame:
    """A line per model and place, a column per adapter.

    Where the methods tell the adapters apart, columns have the paper's names of them, and models that the paper prints
    under one name (a base, and what others made of it) share their lines.
    """
    first = table.drop_duplicates(["model", "adapter"])
    named = first.assign(model=[_paper_model(row) for row in records(first)])
    by_method = "method" in table and not named.duplicated(["model", "method"]).any()
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in records(table):
        where = {"model": _paper_model(row) if by_method else row["model"], **place(row)}
        line = lines.setdefault(tuple(where.values()), dict(where))
        line[row["method"] if by_method else row["adapter"]] = cell(row)
    frame = pd.DataFrame(list(lines.values())).fillna("")
    models = list(frame["model"].unique())
    return frame.sort_values("model", key=lambda names: names.map(models.index), kind="stable")


def _paper_model(row: Mapping[str, Any]) -> str:
    name = row.get("printed_model")
    return str(row["model"] if name is None or pd.isna(name) else name)


def _estimate(row: Mapping[str, Any], name: str) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], percent=True)


def _known(row: Mapping[str, Any], name: str) -> str:
    """An estimate, or nothing where there were no rows."""
    return _estimate(row, name) if row[f"{name}_n"] or row[f"{name}_not_scored"] else ""


SAFETY_SHOWN = {
    "repbend_asr": _asr,
    "repbend_summary": _summary,
    "repbend_capability": _capability,
    "repbend_categories": _categories,
    "repbend_pairs": _pairs,
    "safety_agreement": _agreement,
    "safety_disagreements": _disagreements,
}
