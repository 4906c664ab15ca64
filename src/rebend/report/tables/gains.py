"""The table gains: effect of a control or adapter on the same prompts, as paired gain or relative reduction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from rebend.evaluation.intervals import Estimate, geometric_ratio, paired_gain, paired_ratio, relative_reduction
from rebend.report.formatting import counted, figure, number
from rebend.report.lines import ESTIMATE, datasets, estimate_values, evaluation_parts, listed, measured, records
from rebend.report.measurements import paired
from rebend.report.metrics import ALL, CHATS, METRICS, QUALITY, SAFETY, Metric, heading, quality_metrics
from rebend.report.tables.table import Inputs, Table

_ASR = METRICS[0]
_RATIO_KEYS = ["model", "control", "attack"]
SIDES = ["value", "baseline"]  # the two compared means or rates
COLUMNS = [
    "compares", "model", "adapter", "control", "against", "dataset", "group", "attack", "metric", *ESTIMATE, *SIDES
]  # fmt: skip


def compute(inputs: Inputs) -> pd.DataFrame:
    """Return control against no control, `value` against `random`, and adapter against no adapter.

    `compares` is "control" or "adapter", the part of the cell that differs; `against` is the baseline's name.
    Metrics: `{metric}_gain` of every mean (mean of paired differences), diversity_ratio, `{metric}_ratio` of every
    perplexity (ratio of geometric means on the same prompts or dialogues), and asr_reduction (1 - ASR / ASR of the
    base; unknown if the ASR of the base is 0). `not_scored` of a gain counts the prompts without one of the two scores.
    """
    lines = [*_control_lines(inputs.rows), *_adapter_lines(inputs.rows), *_adapter_ratios(inputs.rows)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _control_lines(rows: pd.DataFrame) -> Iterator[list[Any]]:
    prompts = rows[rows["role"] == QUALITY]
    means = [metric for metric in quality_metrics() if not metric.is_rate]
    for (model, adapter), part in prompts.groupby(["model", "adapter"], sort=False):
        cells = [
            (dataset, dict(iter(chosen.groupby(["control", "measurement"])))) for dataset, chosen in datasets(part)
        ]
        for control, against in _compared(part):
            for dataset, cell in cells:
                keys = ["control", model, adapter, control, against, dataset, ALL, ""]
                for metric in means:
                    ours, theirs = (cell.get((name, metric.measured.name)) for name in (control, against))
                    if ours is not None and theirs is not None:
                        yield from ([*keys, *effect] for effect in _effects(metric, ours, theirs))


def _effects(metric: Metric, ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[list[Any]]:
    """Yield the name, the estimate and both sides' means of each effect on a metric; nothing without pairs."""
    both = paired(ours, theirs)
    values = listed(both["ours"]), listed(both["theirs"])
    groups = list(both["cluster"]), list(both["seed"])
    if not len(both):
        return
    if metric.is_log:
        powers = [None if mean is None else float(np.exp(mean)) for mean in _means(*values)]
        yield [f"{metric.name}_ratio", *estimate_values(geometric_ratio(*values, *groups)), *powers]
        return
    yield [f"{metric.name}_gain", *estimate_values(paired_gain(*values, *groups)), *_means(*values)]
    if metric.ratio:
        yield [f"{metric.name}_ratio", *estimate_values(paired_ratio(*values, *groups)), *_means(*values)]


def _adapter_lines(rows: pd.DataFrame) -> Iterator[list[Any]]:
    attacked = measured(_ASR, rows)
    for (model, control), part in attacked.groupby(["model", "control"], sort=False):
        base = part[part["adapter"] == "none"]
        for adapter in [name for name in part["adapter"].unique() if name != "none"]:
            for dataset, chosen in datasets(part[part["adapter"] == adapter]):
                before = base if dataset == ALL else base[base["dataset"] == dataset]
                theirs = dict(evaluation_parts(before))
                for (harmful, group, attack), adapted in evaluation_parts(chosen):
                    if (harmful, group, attack) not in theirs:
                        continue
                    sides = adapted, theirs[harmful, group, attack]
                    keys = ["adapter", model, adapter, control, "none", dataset, group, attack, "asr_reduction"]
                    values = [listed(side["value"]) for side in sides]
                    yield [*keys, *estimate_values(_reduction(*sides)), *_means(*values)]


def _adapter_ratios(rows: pd.DataFrame) -> Iterator[list[Any]]:
    """Yield ratios of perplexities with an adapter to those without: of answers to attacks, and on held-out chats."""
    for metric in METRICS:
        if not metric.is_log or metric.role not in (CHATS, SAFETY):
            continue
        for (model, control, attack), part in measured(metric, rows).groupby(_RATIO_KEYS, sort=False):
            base = part[part["adapter"] == "none"]
            for adapter in [name for name in part["adapter"].unique() if name != "none"]:
                for dataset, chosen in datasets(part[part["adapter"] == adapter]):
                    before = base if dataset == ALL else base[base["dataset"] == dataset]
                    keys = ["adapter", model, adapter, control, "none", dataset, ALL, attack]
                    yield from ([*keys, *effect] for effect in _effects(metric, chosen, before))


def _reduction(*sides: pd.DataFrame) -> Estimate:
    """Return the relative reduction of the rate of the first side against that of the second."""
    ours, theirs = ([None if v is None else v == 1.0 for v in listed(side["value"])] for side in sides)
    clusters, seeds = (tuple(list(side[name]) for side in sides) for name in ("cluster", "seed"))
    return relative_reduction(ours, theirs, (clusters[0], clusters[1]), (seeds[0], seeds[1]))


def _compared(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return pairs of controls: each against the first of method `none`, each `value` against each `random`."""
    methods = dict(zip(rows["control"], rows["method"], strict=True))
    idle = [control for control, method in methods.items() if method == "none"][:1]
    pairs = [(control, base) for base in idle for control in methods if control != base]
    random = [control for control, method in methods.items() if method == "random"]
    return pairs + [(c, other) for c, method in methods.items() if method == "value" for other in random]


def _means(ours: list[float | None], theirs: list[float | None]) -> list[float | None]:
    """Return the mean over the scored prompts of each side, which can be more prompts than the paired gain has."""
    sides = ([value for value in side if value is not None] for side in (ours, theirs))
    return [sum(side) / len(side) if side else None for side in sides]


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    lines = []
    for row in records(table):
        changed = f"{row[row['compares']]} against {row['against']}"
        other = "control" if row["compares"] == "adapter" else "adapter"
        part = " ".join(str(row[key]) for key in ("group", "attack") if row[key])
        is_rate = row["metric"] == "asr_reduction"
        lines.append(
            {
                "model": row["model"],
                "change": f"{changed} ({other} {row[other]})",
                "data set": row["dataset"],
                "rows": part,
                "metric": heading(row["metric"]),
                "95 % interval": counted(figure(row, row["metric"]), row),
                "from": number(row["baseline"], percent=is_rate) + (" %" if is_rate else ""),
                "to": number(row["value"], percent=is_rate) + (" %" if is_rate else ""),
            }
        )
    return pd.DataFrame(lines)


TABLE = Table(
    "gains",
    "Gains and reductions",
    "Gains are mean differences on the same prompts, with 95 % bootstrap intervals over clusters of prompts. Ratios of "
    "perplexities are exp of such a difference of mean negative log-likelihoods. ASR "
    "reduction is 1 - ASR / ASR of the base, with the 95 % MOVER-R interval of two Wilson intervals.",
    compute,
    text,
)
