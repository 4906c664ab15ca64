"""Figure of the audit of value models on held-out responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rebend.io.files import read_json, read_parquet
from rebend.report.figures.style import BLACK, BLUE, GREY, VERMILLION, legend_below, panels

# files that `rebend.recontrol.value_model.audit` writes (importing it would import torch)
_FACTS, _CURVE = "audit.json", "audit.parquet"


def draw_value_audit(value_models: Sequence[Mapping[str, str]]) -> Figure | None:
    """Draw rank correlation, calibration and TD residual of each audited value model, one row per value model."""
    folders = [(entry, Path(entry["metrics"]).parent) for entry in value_models]
    entries = [(entry, folder) for entry, folder in folders if (folder / _FACTS).exists()]
    if not entries:
        return None
    figure, axes = panels(len(entries), 3, height=3.3 if len(entries) < 4 else 2.9)
    for row, (entry, folder) in zip(axes, entries, strict=True):
        facts = read_json(folder / _FACTS)
        curve = read_parquet(folder / _CURVE).to_pandas()
        verdict = "" if facts["useful"] else ": not useful"
        _ranks(row[0], curve, facts.get("end_state", {}).get("rank", {}))
        row[0].set_title(f"{entry['model']}, value model {entry['value_model']}{verdict}")
        _calibration(row[1], facts["calibration"])
        _along(row[2], curve, facts)
    return figure


def _ranks(axes: Axes, curve: pd.DataFrame, at_end: Mapping[str, Any]) -> None:
    known = curve.dropna(subset=["rank"])
    bounds = curve.dropna(subset=["ci_low", "ci_high"])
    axes.fill_between(bounds["place"], bounds["ci_low"], bounds["ci_high"], color=BLUE, alpha=0.2, lw=0)
    axes.plot(known["place"], known["rank"], color=BLUE, lw=1.3)
    axes.axhline(0, color=BLACK, lw=0.9, ls=":")
    axes.axvspan(2 / 3, 1, color=GREY, alpha=0.15, lw=0, label="last third (decides)")
    if at_end.get("ci_low") is not None:
        bar = [[at_end["estimate"] - at_end["ci_low"]], [at_end["ci_high"] - at_end["estimate"]]]
        axes.errorbar(
            [1.04], [at_end["estimate"]], bar, fmt="D", ms=4, color=VERMILLION, label="state of the end token"
        )
    axes.set(xlabel="relative position in the response", ylabel="rank correlation, 95 % interval", xlim=(0, 1.07))
    legend_below(axes, 1)


def _calibration(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    predicted, actual = ([group[key] for group in bins] for key in ("predicted", "actual"))
    ends = [min(predicted), max(predicted)]
    axes.plot(ends, ends, color=BLACK, lw=0.9, ls=":", label="V equal to the reward")
    axes.plot(predicted, actual, color=VERMILLION, marker="o", ms=4, lw=1, label="tenths of the responses, by V")
    axes.set(xlabel="V at the last token", ylabel="mean reward", title="calibration")
    legend_below(axes, 1)


def _along(axes: Axes, curve: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    axes.plot(curve["place"], curve["residual"], color=BLUE, lw=1.3, label="TD residual (root mean square)")
    axes.axhline(
        facts["residual"]["reward_deviation"], color=BLACK, lw=0.9, ls=":", label="standard deviation of the reward"
    )
    axes.axhline(
        facts["variation"]["along_a_response"],
        color=VERMILLION,
        lw=1.1,
        ls="--",
        label="standard deviation of V in a response",
    )
    axes.set(xlabel="relative position in the response", xlim=(0, 1), ylim=(0, None), title="along a response")
    legend_below(axes, 1)
