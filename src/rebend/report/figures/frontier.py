"""Figures of reward and win rate against time, and of reward and diversity by strength of a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from rebend.io.files import read_json
from rebend.report.figures.style import BLACK, BLUE, DASHES, GREY, LINES, MARKS, VERMILLION, legend_below, panels
from rebend.report.metrics import heading, metrics_against_time


def draw_frontier(table: pd.DataFrame) -> Figure | None:
    """Draw reward, held-out reward and win rate of each control against its time per token.

    The figure has a row per data set, model and adapter. Lines join the points of best-of-n and those of the frontier.
    """
    known = table[table["relative_time"].notna() & table["reward"].notna()]
    parts = [(keys, part) for keys, part in known.groupby(["dataset", "model", "adapter"], sort=False) if len(part) > 1]
    metrics = [metric.name for metric in metrics_against_time() if known[metric.name].notna().any()]
    if not parts:
        return None
    figure, axes = panels(len(parts), len(metrics), width=max(6.0, 4.2 * len(metrics)), height=3.4)
    looks = {control: _look(number) for number, control in enumerate(dict.fromkeys(known["control"]))}
    for row, ((dataset, model, adapter), part) in zip(axes, parts, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            _cloud(axis, part[part[metric].notna()], metric, looks)
        row[0].set_title(f"{model}, adapter {adapter}: {dataset}")
    handles = {label: handle for row in axes for axis in row for handle, label in zip(*_legend(axis), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6)
    return figure


def _look(number: int) -> tuple[str, str]:
    return LINES[number % len(LINES)], MARKS[(number + number // len(LINES)) % len(MARKS)]


def _legend(axis: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axis.get_legend_handles_labels()
    return list(handles), list(labels)


def _cloud(axis: Axes, part: pd.DataFrame, metric: str, looks: Mapping[str, tuple[str, str]]) -> None:
    scale = 100.0 if metric == "win_rate" else 1.0
    best = part[part["on_frontier"].eq(1)].sort_values("relative_time")
    if metric == "reward":
        axis.plot(best["relative_time"], scale * best[metric], color=GREY, lw=1, ls=DASHES[1], label="frontier")
    samples = part[part["method"] == "best_of_n"].sort_values("relative_time")
    axis.plot(samples["relative_time"], scale * samples[metric], color=BLACK, lw=0.8, ls=DASHES[3])
    for line in part.to_dict("records"):
        color, mark = looks[line["control"]]
        ends = [line[metric] - line[f"{metric}_low"], line[f"{metric}_high"] - line[metric]]
        error = None if pd.isna(ends).any() else [[scale * end] for end in ends]
        point = (line["relative_time"], scale * line[metric])
        axis.errorbar(*point, yerr=error, color=color, marker=mark, ms=6, lw=0, elinewidth=1, label=line["control"])
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    low, high = part["relative_time"].min(), part["relative_time"].max()
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200) if low / 1.2 <= tick <= high * 1.2]
    axis.set_xticks(ticks)
    axis.set(xlabel="time per token, relative to no control", ylabel=f"{heading(metric)}, 95 % interval")


def draw_tradeoff(strengths: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw reward against diversity for each strength of a control, and mark the chosen strength and broken text.

    A control with several numbers of steps has a curve for each number.
    """
    if not strengths:
        return None
    figure, axes = panels(len(strengths), 2, height=3.8)
    for (left, right), entry in zip(axes, strengths, strict=True):
        choice = read_json(entry["path"])
        name = "weight" if choice.get("strength") == "weight" else "step size"
        share = choice["min_diversity"]
        curves = curves_of(pd.DataFrame(choice["table"]))
        chosen = choice["step_size"], choice["n_steps"]
        for number, (n_steps, table) in enumerate(curves.items()):
            label = f"n = {n_steps}" if len(curves) > 1 else ""
            _draw_rewards(left, table, LINES[number % len(LINES)], label)
            _draw_text_quality(right, table, share, DASHES[number % len(DASHES)], label)
        _mark_choice(left, curves, chosen)
        _mark_limit(left, curves, share)
        right.axvline(chosen[0], color=BLACK, lw=1, ls="--", label="chosen")
        right.set(xlabel=name, ylabel=f"mean (dotted: {share:g} × no control)", ylim=(min(0, *right.get_ylim()), None))
        left.set(xlabel=f"diversity (labels: {name})", ylabel="mean reward, 95 % interval")
        left.set_title(f"{entry['model']}, {entry['control']}: reward and diversity")
        right.set_title(f"diversity and coherence by {name}")
        legend_below(left)
        legend_below(right)
    return figure


def curves_of(table: pd.DataFrame) -> dict[int | None, pd.DataFrame]:
    """Return number of steps → table sorted by strength; each table begins with the row without control."""
    base, rows = table.iloc[:1], table.iloc[1:]
    steps = list(dict.fromkeys(rows["n_steps"])) if "n_steps" in rows and rows["n_steps"].notna().all() else [None]
    parts = {n: rows if n is None else rows[rows["n_steps"] == n] for n in steps}
    return {
        n if n is None else int(n): pd.concat([base, part.sort_values("step_size")], ignore_index=True)
        for n, part in parts.items()
    }


def _draw_rewards(axes: Axes, table: pd.DataFrame, color: str, label: str) -> None:
    below, above = table["reward"] - table["reward_ci_low"], table["reward_ci_high"] - table["reward"]
    look: dict[str, Any] = {"color": color, "marker": "o", "ms": 4, "lw": 1, "elinewidth": 0.8}
    axes.errorbar(table["diversity"], table["reward"], yerr=[below, above], label=label or None, **look)
    for row in table.itertuples():
        point = (row.diversity, row.reward)
        axes.annotate(f"{row.step_size:g}", point, xytext=(5, 4), textcoords="offset points", fontsize=7)


def _mark_choice(axes: Axes, curves: Mapping[int | None, pd.DataFrame], chosen: tuple[float, int | None]) -> None:
    size, n_steps = chosen
    table = curves.get(n_steps, next(iter(curves.values())))
    row = table[table["step_size"] == size]
    label = f"chosen: {size:g}" + (f", n = {n_steps}" if len(curves) > 1 and size else "")
    axes.plot(row["diversity"], row["reward"], "o", ms=11, mfc="none", mec=BLACK, mew=1.4, label=label)


def _mark_limit(axes: Axes, curves: Mapping[int | None, pd.DataFrame], share: float) -> None:
    """Shade the range below the lowest allowed diversity, and add margins for the labels of points."""
    table = pd.concat(list(curves.values()))
    limit = share * table["diversity"].iloc[0]
    lowest = min(limit, table["diversity"].min())
    axes.axvspan(lowest - 1, limit, color=VERMILLION, alpha=0.08, lw=0, label=f"below {share:g} × no control")
    margin = 0.12 * max(table["diversity"].max() - lowest, 0.02)
    axes.set_xlim(lowest - margin, table["diversity"].max() + 1.5 * margin)


def _draw_text_quality(axes: Axes, table: pd.DataFrame, share: float, dash: str, curve: str) -> None:
    for column, color, mark in (("diversity", BLUE, "o"), ("coherence", VERMILLION, "s")):
        label = f"{column}, {curve}" if curve else column
        axes.plot(table["step_size"], table[column], color=color, marker=mark, ms=4, ls=dash, label=label)
        axes.axhline(share * table[column].iloc[0], color=color, lw=0.9, ls=":")
    sizes, quality = table["step_size"].to_numpy(), table[["diversity", "coherence"]]
    broken = (quality < share * quality.iloc[0]).any(axis=1).to_numpy()
    if broken.any():  # the range begins halfway between the last unbroken strength and the first broken one
        first = int(np.argmax(broken))
        start = (sizes[first - 1] + sizes[first]) / 2 if first else sizes[0]
        label = "broken text" + (f", {curve}" if curve else "")
        axes.axvspan(start, sizes.max(), color=VERMILLION, alpha=0.08, lw=0, label=label)
