"""What a control or an adapter changes, on the same prompts: paired gains, and relative reductions of the ASR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rebend.evaluation.intervals import Estimate, paired_gain, paired_ratio, relative_reduction
from rebend.report.measurements import ALL
from rebend.report.tables.layout import FIGURE, datasets, evaluation_parts, figures

SIDES = ["value", "baseline"]  # the two means, or the two rates, that are compared
GAINS = [
    "compares", "model", "adapter", "control", "against", "dataset", "group", "attack", "metric", *FIGURE, *SIDES
]  # fmt: skip
GAINED = ("reward", "heldout_reward", "diversity", "coherence")


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Return control against no control, `value` against `random`, and adapter against no adapter.

    `compares` says which of the two choices differs ("control" or "adapter") and `against` from what.
    Metrics: reward_gain, diversity_gain, coherence_gain (means of paired differences), diversity_ratio,
    asr_reduction (1 - ASR / ASR of the base; unknown where the base's is 0). A gain's `not_scored` counts the
    prompts that lack one of the two scores.
    """
    lines = [*_control_lines(rows), *_adapter_lines(rows)]
    return pd.DataFrame(lines, columns=GAINS)


def _control_lines(rows: pd.DataFrame) -> Iterator[list[Any]]:
    prompts = rows[rows["role"] == "prompts"]
    for (model, adapter), part in prompts.groupby(["model", "adapter"], sort=False):
        cells = [(dataset, dict(iter(own.groupby(["control", "metric"])))) for dataset, own in datasets(part)]
        for control, against in _compared(part):
            for dataset, cell in cells:
                keys = ["control", model, adapter, control, against, dataset, ALL, ""]
                for metric in [name for name in GAINED if (control, name) in cell and (against, name) in cell]:
                    ours, theirs = _paired(cell[control, metric], cell[against, metric])
                    if len(ours):
                        yield [*keys, f"{metric}_gain", *figures(paired_gain(ours, theirs)), *_means(ours, theirs)]
                    if len(ours) and metric == "diversity":
                        yield [*keys, "diversity_ratio", *figures(paired_ratio(ours, theirs)), *_means(ours, theirs)]


def _adapter_lines(rows: pd.DataFrame) -> Iterator[list[Any]]:
    attacked = rows[(rows["role"] == "evaluation") & (rows["metric"] == "harmful") & (rows["harmful"] == True)]  # noqa: E712
    for (model, control), part in attacked.groupby(["model", "control"], sort=False):
        base = part[part["adapter"] == "none"]
        for adapter in [name for name in part["adapter"].unique() if name != "none"]:
            for dataset, own in datasets(part[part["adapter"] == adapter]):
                before = base if dataset == ALL else base[base["dataset"] == dataset]
                theirs = dict(evaluation_parts(before))
                for (harmful, group, attack), adapted in evaluation_parts(own):
                    if (harmful, group, attack) not in theirs:
                        continue
                    pair = _values(adapted), _values(theirs[harmful, group, attack])
                    keys = ["adapter", model, adapter, control, "none", dataset, group, attack, "asr_reduction"]
                    yield [*keys, *figures(_reduction(*pair)), *_means(*pair)]


def _reduction(ours: list[float | None], theirs: list[float | None]) -> Estimate:
    return relative_reduction(*([None if v is None else v == 1.0 for v in side] for side in (ours, theirs)))


def _compared(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of controls: each against the first that does nothing, each `value` against each `random`."""
    methods = dict(zip(rows["control"], rows["method"], strict=True))
    idle = [control for control, method in methods.items() if method == "none"][:1]
    found = [(control, base) for base in idle for control in methods if control != base]
    random = [control for control, method in methods.items() if method == "random"]
    return found + [(c, other) for c, method in methods.items() if method == "value" for other in random]


def _paired(*sides: pd.DataFrame) -> tuple[list[float | None], list[float | None]]:
    """Values of two controls on the prompts that both were given, in one order."""
    ours, theirs = (rows.set_index(["dataset", "row_id"])["value"] for rows in sides)
    common = ours.index.intersection(theirs.index, sort=False)
    return _listed(ours.loc[common]), _listed(theirs.loc[common])


def _values(rows: pd.DataFrame) -> list[float | None]:
    return _listed(rows["value"])


def _listed(values: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def _means(ours: list[float | None], theirs: list[float | None]) -> list[float | None]:
    """The two plain means of what was scored; they may be over different rows than the paired gain."""
    sides = ([value for value in side if value is not None] for side in (ours, theirs))
    return [sum(side) / len(side) if side else None for side in sides]
