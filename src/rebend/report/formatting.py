"""Figures as people read them: an estimate with its interval, rates in percent, what was not scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rebend.report.tables.layout import attack_of, is_rate

HEADINGS = {
    "asr": "ASR",
    "harmful_refusal_rate": "harmful refused",
    "harmful_incoherent_rate": "harmful incoherent",
    "benign_answer_rate": "benign answered",
    "benign_refusal_rate": "benign refused",
    "benign_incoherent_rate": "benign incoherent",
    "reward": "reward",
    "heldout_reward": "held-out reward",
    "diversity": "diversity",
    "coherence": "coherence",
    "win_rate": "win rate",
    "answered": "answered",
    "refused": "refused",
    "incoherent": "incoherent",
    "hours": "hours",
}
_PERCENT = {"asr_reduction", "diversity_ratio"}  # besides the rates


def number(value: Any, *, percent: bool = False) -> str:
    """Return a figure with a sensible number of digits; nothing if it is unknown."""
    if value is None or pd.isna(value):
        return ""
    return f"{100 * float(value):.1f}" if percent else f"{float(value):.3f}"


def interval(estimate: Any, low: Any, high: Any, *, percent: bool = False) -> str:
    """Return "estimate [low, high]"; "not scored" where there is no estimate."""
    if estimate is None or pd.isna(estimate):
        return "not scored"
    ends = [number(end, percent=percent) for end in (low, high)]
    return number(estimate, percent=percent) + (f" [{ends[0]}, {ends[1]}]" if all(ends) else "")


def counted(text: str, n: Any, not_scored: Any) -> str:
    """Append the number of rows, and of those not scored if there are any."""
    if n is None or pd.isna(n):
        return text
    return f"{text} (n {int(n)}" + (f", {int(not_scored)} not scored)" if not_scored else ")")


def heading(metric: str) -> str:
    """Return a column's heading, with its unit."""
    other = f"ASR, {attack_of(metric)}" if attack_of(metric) else metric.replace("_", " ")
    text = HEADINGS.get(metric, other)
    return f"{text}, %" if in_percent(metric) else text


def in_percent(metric: str) -> bool:
    """Tell whether a metric is printed in percent."""
    return metric in _PERCENT or is_rate(metric)


def number_of(count: Any) -> str:
    """Return a count as text; nothing if it is unknown."""
    return "" if count is None or pd.isna(count) else str(int(count))


def figure(row: Mapping[str, Any], metric: str) -> str:
    """Return the figure of a line that has `estimate`, `ci_low` and `ci_high`."""
    return interval(row["estimate"], row["ci_low"], row["ci_high"], percent=in_percent(metric))


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the columns in which nothing stands."""
    return frame.loc[:, (frame != "").any()]
