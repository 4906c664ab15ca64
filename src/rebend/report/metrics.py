"""The list of metrics: for each its source, heading, kind of estimate and direction.

A new metric is one entry in `METRICS` and one function that turns a score file into a value per prompt. Tables,
gains and headings read this list. A new *stage* of scores also needs its rule, and its path in
`rebend.pipeline.graph.cells.Cell.scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

ALL = "all"  # name of the pooled rows: all data sets, or all groups
DIRECT = "direct"  # the attack that changes nothing
QUALITY, SAFETY = "quality", "safety"  # roles of a cell: ordinary prompts, or harmful and benign ones


@dataclass(frozen=True)
class Measurement:
    """A value per prompt: the score stage that it comes from, and the function that reads it from the stage's rows.

    `values` gets the rows of the file (of `safety`: one row per prompt, see `measurements.outcome_of_prompts`) and
    returns numbers, NaN where a prompt was not scored.
    """

    name: str
    source: str
    values: Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Metric:
    """A column of the tables: the estimate of one measurement over some prompts."""

    name: str
    measured: Measurement
    heading: str
    higher_is_better: bool | None = True  # None: neither
    is_rate: bool = False  # a share of prompts with Wilson's interval, printed in percent; else a mean, bootstrapped
    harmful: bool | None = None  # taken over harmful prompts, over benign ones, or over all
    every_attack: bool = False  # one value per attack; else over prompts asked directly
    ratio: bool = False  # the table `gains` has its ratio too
    costs_time: bool = False  # stands against time in the table `frontier`

    @property
    def role(self) -> str:
        """Role of the cells that have this metric."""
        return SAFETY if self.measured.source == "safety" else QUALITY


def scores(rows: pd.DataFrame) -> pd.Series:
    """Return the scores of a score file."""
    return rows["score"]


def verdict_is(word: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return a function of verdicts: 1 where the verdict is `word`, 0 where it is another, NaN where there is none."""
    return lambda rows: (rows["verdict"] == word).astype(float).where(rows["verdict"].notna())


def answered(rows: pd.DataFrame) -> pd.Series:
    """Return 1 where a prompt was answered, 0 where it was not."""
    return rows["answered"]


HARMFUL = Measurement("harmful", "safety", verdict_is("harmful"))
REFUSAL = Measurement("refusal", "safety", verdict_is("refusal"))
INCOHERENT = Measurement("incoherent", "safety", verdict_is("incoherent"))
ANSWERED = Measurement("answered", "safety", answered)


def _scored(name: str) -> Measurement:
    return Measurement(name, name, scores)


METRICS: list[Metric] = [
    Metric("asr", HARMFUL, "ASR", higher_is_better=False, is_rate=True, harmful=True, every_attack=True),
    Metric("harmful_refusal_rate", REFUSAL, "harmful refused", is_rate=True, harmful=True),
    Metric(
        "harmful_incoherent_rate", INCOHERENT, "harmful incoherent", higher_is_better=None, is_rate=True, harmful=True
    ),
    Metric("benign_answer_rate", ANSWERED, "benign answered", is_rate=True, harmful=False),
    Metric("benign_refusal_rate", REFUSAL, "benign refused", higher_is_better=False, is_rate=True, harmful=False),
    Metric(
        "benign_incoherent_rate", INCOHERENT, "benign incoherent", higher_is_better=False, is_rate=True, harmful=False
    ),
    Metric("reward", _scored("reward"), "reward", costs_time=True),
    Metric("heldout_reward", _scored("heldout_reward"), "held-out reward", costs_time=True),
    Metric("diversity", _scored("diversity"), "diversity", ratio=True),
    Metric("coherence", _scored("coherence"), "coherence"),
    Metric("win_rate", Measurement("win", "win_rate", verdict_is("win")), "win rate", is_rate=True, costs_time=True),
]

# What became of the prompts of one kind under one attack: columns of the table `repbend`
OUTCOMES: list[Metric] = [
    METRICS[0],
    Metric("answered", ANSWERED, "answered", higher_is_better=None, is_rate=True),
    Metric("refused", REFUSAL, "refused", higher_is_better=None, is_rate=True),
    Metric("incoherent", INCOHERENT, "incoherent", higher_is_better=None, is_rate=True),
]

_EFFECTS_IN_PERCENT = ("_reduction", "_ratio")  # of the table `gains`


def quality_metrics() -> list[Metric]:
    """Return the metrics of ordinary prompts."""
    return [metric for metric in METRICS if metric.role == QUALITY]


def metrics_against_time() -> list[Metric]:
    """Return the metrics that stand against time in the table `frontier`."""
    return [metric for metric in METRICS if metric.costs_time]


def measurements_of(sources: Iterable[str]) -> list[Measurement]:
    """Return the measurements that these score stages give, each once."""
    known = set(sources)
    every = (metric.measured for metric in (*METRICS, *OUTCOMES))
    return [measured for measured in dict.fromkeys(every) if measured.source in known]


def metric_of(name: str) -> Metric | None:
    """Return the metric of a name in a table (`asr_prefilling` is `asr`), or None for other names."""
    plain = "asr" if attack_of(name) else name
    return next((metric for metric in (*METRICS, *OUTCOMES) if metric.name == plain), None)


def asr_name(attack: str) -> str:
    """Return the name of an attack's success rate: `asr` if asked directly, else `asr_{attack}`."""
    return "asr" if attack == DIRECT else f"asr_{attack}"


def attack_of(name: str) -> str | None:
    """Return the attack of an attack success rate, or None for another metric."""
    if name == "asr":
        return DIRECT
    return name.removeprefix("asr_") if name.startswith("asr_") and name != "asr_reduction" else None


def in_percent(name: str) -> bool:
    """Return whether a metric, or an effect on one, is printed in percent."""
    metric = metric_of(name)
    return name.endswith(_EFFECTS_IN_PERCENT) if metric is None else metric.is_rate


def heading(name: str) -> str:
    """Return a column's heading, with its unit."""
    metric = metric_of(name)
    attack = attack_of(name)
    if attack is not None and attack != DIRECT:
        text = f"ASR, {attack}"
    else:
        text = name.replace("_", " ") if metric is None else metric.heading
    return f"{text}, %" if in_percent(name) else text
