"""Figures of the safety evaluation: ASR by adapter and attack, ASR against benign answers, outcomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rebend.evaluation.intervals import wilson
from rebend.report.figures.style import BLACK, BLUE, GREY, LINES, MARKS, SKY, VERMILLION, panels
from rebend.report.lines import records
from rebend.report.measurements import as_methods
from rebend.report.metrics import ALL, attack_of

_OUTCOMES = {"asr": ("harmful answer", VERMILLION), "refused": ("refused", BLUE), "incoherent": ("incoherent", GREY)}
_LINE = ["model", "group", "adapter"]
_FEW = 3  # adapters; with more, all groups are pooled
_BENIGN = "benign_answer_rate"


def draw_asr(matrix: pd.DataFrame, prompting: Collection[str] = ()) -> Figure | None:
    """Draw the ASR of each adapter under each attack with its interval, in a panel per model.

    `prompting`: controls that are drawn as adapters (see `rebend.report.measurements.as_methods`).
    """
    rows = _attacked(matrix[matrix["n"] > 0])
    if not len(rows):
        return None
    rows = as_methods(rows, prompting)
    attacks = [metric for metric in matrix["metric"].unique() if (rows["metric"] == metric).any()]
    models = list(rows["model"].unique())
    adapters = rows.groupby("model", sort=False)["adapter"].nunique()
    figure, axes = panels(len(models), 1, height=[0.9 + n * (0.18 + 0.12 * len(attacks)) for n in adapters])
    for (axis,), model in zip(axes, models, strict=True):
        of_model = rows[rows["model"] == model]
        _bands(axis, of_model, list(of_model["adapter"].unique()), attacks)
        axis.set_title(f"{model}: attack success rate, 95 % interval")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure


def _bands(axes: Axes, rows: pd.DataFrame, adapters: list[str], attacks: list[str]) -> None:
    """Draw a band per adapter with a point per attack."""
    step = 0.7 / max(1, len(attacks))
    for i, metric in enumerate(attacks):
        rates = rows[rows["metric"] == metric].set_index("adapter").reindex(adapters)
        heights = [band + step * (i - (len(attacks) - 1) / 2) for band in range(len(adapters))]
        _points(axes, rates, heights, label=str(attack_of(metric)), **_look(i))
    for band in range(1, len(adapters), 2):
        axes.axhspan(band - 0.5, band + 0.5, color="#F3F3F3", lw=0, zorder=0)
    axes.set_yticks(range(len(adapters)), adapters)
    axes.set(ylim=(len(adapters) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="share of harmful prompts")
    axes.grid(visible=False, axis="y")


def draw_over_refusal(matrix: pd.DataFrame, prompting: Collection[str] = ()) -> Figure | None:
    """Draw a point per adapter, ASR against benign prompts answered, in a panel per model and attack."""
    rows = matrix[matrix["n"] > 0]
    rows = as_methods(rows, prompting) if len(rows) else rows
    benign = rows[rows["metric"] == _BENIGN].set_index(["model", "adapter"])
    attacked = _attacked(rows)
    attacked = attacked[pd.MultiIndex.from_frame(attacked[["model", "adapter"]]).isin(benign.index)]
    if not len(attacked) or attacked.groupby("model")["adapter"].nunique().max() < 2:
        return None
    compared = attacked.groupby("model")["adapter"].transform("nunique") > 1
    attacked = attacked[compared]
    models, attacks = (list(attacked[key].unique()) for key in ("model", "metric"))
    adapters = list(attacked["adapter"].unique())
    answered = benign[benign.index.isin(pd.MultiIndex.from_frame(attacked[["model", "adapter"]]))]
    left, top = answered["ci_low"].min() - 0.03, attacked["ci_high"].max() + 0.03
    figure, axes = panels(len(models), len(attacks), height=3.6)
    for line, model in zip(axes, models, strict=True):
        for axis, metric in zip(line, attacks, strict=True):
            rates = attacked[(attacked["model"] == model) & (attacked["metric"] == metric)].set_index("adapter")
            axis.set_visible(len(rates) > 0)
            for i, adapter in enumerate(adapters):
                if adapter in rates.index:
                    _crossed(axis, benign.loc[(model, adapter)], rates.loc[adapter], label=adapter, **_look(i))
            axis.set(xlim=(left, 1.02), ylim=(-0.02, top), xlabel="benign prompts answered")
            axis.set_title(f"{model}: {attack_of(metric)}")
        line[0].set_ylabel("attack success rate")
    legends = [zip(*axis.get_legend_handles_labels(), strict=True) for line in axes for axis in line]
    handles = {text: handle for legend in legends for handle, text in legend}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles)))
    return figure


def draw_outcomes(repbend: pd.DataFrame, prompting: Collection[str] = ()) -> Figure | None:
    """Draw the outcomes of harmful prompts per adapter and attack over all data sets; few adapters also by group."""
    rows = repbend[(repbend["prompts"] == "harmful") & (repbend["n"] > 0)]
    if not len(rows):
        return None
    rows = as_methods(rows, prompting)
    depth = 1 if rows.groupby("model")["adapter"].nunique().max() <= _FEW and rows["dataset"].nunique() == 1 else 0
    rows = rows[rows["group"].map(lambda group: group == ALL or group.count(",") < depth)]
    attacks, lines = list(rows["attack"].unique()), rows[_LINE].drop_duplicates()
    order = {name: list(lines[name].unique()) for name in ("model", "group")}
    lines = lines.sort_values(list(order), key=lambda names: names.map(order[str(names.name)].index), kind="stable")
    names = _line_names(lines)
    figure, axes = panels(1, len(attacks), height=1.5 + 0.26 * len(lines))
    for i, (axis, attack) in enumerate(zip(axes[0], attacks, strict=True)):
        _outcomes(axis, pooled(rows[rows["attack"] == attack]), lines, names if i == 0 else [])
        axis.set_title(f"answers to harmful prompts, {attack}" if len(attacks) < 3 else attack)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Pool the data sets of one attack in rows of the table repbend; return rows by model, group and adapter.

    The interval is Wilson's of all rows if these are independent. Otherwise it is that of the only data set, or of
    several: MOVER of their own intervals, weighted by their rows.
    """
    counts = rows.assign(**{name: rows[name] * rows["n"] for name in _OUTCOMES})
    sums = counts.groupby(_LINE, sort=False)[[*_OUTCOMES, "n"]].sum()
    ends = [_ends(part) for _, part in rows.groupby(_LINE, sort=False)]
    shares = sums.div(sums["n"], axis=0)
    return shares.assign(asr_low=[low for low, _ in ends], asr_high=[high for _, high in ends])


def _ends(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the interval of the ASR over the data sets in `rows`."""
    n = rows["n"].sum()
    if (rows["clusters"] == rows["n"]).all() and (rows["seeds"] == 1).all():
        return wilson(round((rows["asr"] * rows["n"]).sum()), int(n))
    rate = (rows["asr"] * rows["n"]).sum() / n
    below, above = (np.hypot.reduce(rows["n"] / n * (rows["asr"] - rows[end]).abs()) for end in ("asr_low", "asr_high"))
    return float(rate - below), float(rate + above)


def _attacked(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of attack success rates."""
    return matrix[matrix["metric"].isin([metric for metric in matrix["metric"].unique() if attack_of(metric)])]


def _look(i: int) -> dict[str, Any]:
    """Return colour and mark of the i-th series; pairs repeat after more than thirty series."""
    return {"color": (*LINES, BLACK)[i % 7], "marker": MARKS[(i + i // 7) % len(MARKS)]}


def _points(axes: Axes, rates: pd.DataFrame, heights: Sequence[float], *, label: str, **look: Any) -> None:
    values = rates["estimate"]
    ends = [(values - rates["ci_low"]).clip(lower=0), (rates["ci_high"] - values).clip(lower=0)]
    axes.errorbar(values, heights, xerr=ends, ls="none", ms=4.5, lw=1.2, capsize=2, label=label, **look)


def _crossed(axes: Axes, benign: pd.Series, attacked: pd.Series, *, label: str, **look: Any) -> None:
    """Draw a point with its horizontal and its vertical interval."""
    arms = [
        [[max(0.0, row["estimate"] - row["ci_low"])], [max(0.0, row["ci_high"] - row["estimate"])]]
        for row in (benign, attacked)
    ]
    point = [benign["estimate"]], [attacked["estimate"]]
    axes.errorbar(*point, xerr=arms[0], yerr=arms[1], ls="none", ms=6, elinewidth=0.8, label=label, **look)


def _line_names(lines: pd.DataFrame) -> list[str]:
    """Return a name per row: the adapter, preceded by model and group if there are several of them."""
    several = [name for name in ("model", "group") if lines[name].nunique() > 1]
    heads = [[", ".join(row[name] for name in several)] * bool(several) for row in records(lines)]
    return [": ".join([*head, adapter]) for head, adapter in zip(heads, lines["adapter"], strict=True)]


def _outcomes(axes: Axes, rows: pd.DataFrame, lines: pd.DataFrame, names: list[str]) -> None:
    heights, height, previous = [], -1.0, None
    for line in records(lines):
        height += 1.0 if previous in (None, (line["model"], line["group"])) else 1.5
        previous = (line["model"], line["group"])
        heights.append(height)
        key = tuple(line[name] for name in _LINE)
        if key in rows.index:
            _stack(axes, height, rows.loc[key].to_dict(), labelled=not axes.patches)
    axes.set_yticks(heights, names or [""] * len(heights))
    axes.set_ylim(height + 0.7, -0.7)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1), xlabel="share of prompts")


def _stack(axes: Axes, y: float, row: Mapping[str, Any], *, labelled: bool) -> None:
    left = 0.0
    for outcome, (label, color) in _OUTCOMES.items():
        axes.barh(y, row[outcome], left=left, height=0.8, color=color, label=label if labelled else None)
        left += row[outcome]
    axes.barh(y, max(0.0, 1 - left), left=left, height=0.8, color=SKY, label="other answer" if labelled else None)
    legend = "95 % interval of the ASR" if labelled else None
    axes.plot([row["asr_low"], row["asr_high"]], [y, y], color=BLACK, lw=1.6, label=legend)
    axes.plot([row["asr_low"], row["asr_high"]], [y, y], "|", color=BLACK, ms=7)
