"""The list of metrics with source, heading, kind of estimate and direction; tables and headings use it.

A new metric needs one entry in `METRICS` and one function from the rows of a score file to a value per prompt. A new
*stage* of scores also needs a rule, and its path in `rebend.pipeline.graph.cells.Cell.scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

ALL = "all"  # name of pooled rows: all data sets, all groups, or all cells
DIRECT = "direct"  # the attack that changes nothing
QUALITY, SAFETY, CHATS = "quality", "safety", "chats"  # roles: ordinary prompts, harmful and benign ones, given chats
_ROLES = {"safety": SAFETY, "attacked_perplexity": SAFETY, "attacked_repetition": SAFETY, "chat_perplexity": CHATS}


@dataclass(frozen=True)
class Measurement:
    """A value per prompt, its stage of scores, and the function that reads it from the rows of that stage.

    `values` takes the rows of a score file (of several attempts: of `measurements.outcome_of_prompts` for `safety`, of
    `measurements.mean_of_attempts` for other sources) and returns numbers, NaN if a prompt was not scored.
    """

    name: str
    source: str
    values: Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Metric:
    """A column of the tables: an estimate of one measurement over some of the prompts."""

    name: str
    measured: Measurement
    heading: str
    higher_is_better: bool | None = True  # None: no direction
    is_rate: bool = False  # share of prompts, Wilson's interval, in percent; else a mean with a bootstrap interval
    is_log: bool = False  # values are logarithms; the estimate is exp of their mean, and comparisons are ratios
    harmful: bool | None = None  # over harmful prompts, benign prompts, or (None) all prompts
    every_attack: bool = False  # one estimate per attack; else only over prompts asked directly
    ratio: bool = False  # the table gains also has its ratio
    costs_time: bool = False  # is in the table frontier
    optional: bool = False  # is in the table recontrol only if a cell has its stage

    @property
    def role(self) -> str:
        """Role of the cells that have this metric."""
        return _ROLES.get(self.measured.source, QUALITY)


def scores(rows: pd.DataFrame) -> pd.Series:
    """Return the scores of a score file."""
    return rows["score"]


def verdict_is(word: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return a function of verdicts: 1 for `word`, 0 for other verdicts, NaN without a verdict."""
    return lambda rows: (rows["verdict"] == word).astype(float).where(rows["verdict"].notna())


def answered(rows: pd.DataFrame) -> pd.Series:
    """Return 1 for answered prompts, 0 for others."""
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
    # Text that repeats itself is likely, too, so neither direction of its perplexity is better.
    Metric("perplexity", _scored("perplexity"), "perplexity", higher_is_better=None, is_log=True, optional=True),
    Metric("repetition", _scored("repetition"), "repetition", higher_is_better=False, optional=True),
    *(
        metric
        for name, log in (("perplexity", True), ("repetition", False))
        for measured in [_scored(f"attacked_{name}")]
        for metric in (
            Metric(f"harmful_{name}", measured, f"harmful {name}", None, is_log=log, harmful=True, every_attack=True),
            Metric(f"benign_{name}", measured, f"benign {name}", None, is_log=log, harmful=False),
        )
    ),
    Metric("chat_perplexity", _scored("chat_perplexity"), "perplexity on held-out chats", False, is_log=True),
]

# Outcomes of harmful or benign prompts under one attack: columns of the table repbend
OUTCOMES: list[Metric] = [
    METRICS[0],
    Metric("answered", ANSWERED, "answered", higher_is_better=None, is_rate=True),
    Metric("refused", REFUSAL, "refused", higher_is_better=None, is_rate=True),
    Metric("incoherent", INCOHERENT, "incoherent", higher_is_better=None, is_rate=True),
]

_EFFECTS_IN_PERCENT = ("_reduction", "_ratio")  # ends of names in the table gains
_EFFECTS = (*_EFFECTS_IN_PERCENT, "_gain")


def quality_metrics() -> list[Metric]:
    """Return the metrics of ordinary prompts."""
    return [metric for metric in METRICS if metric.role == QUALITY]


def metrics_against_time() -> list[Metric]:
    """Return the metrics of the table frontier."""
    return [metric for metric in METRICS if metric.costs_time]


def measurements_of(sources: Iterable[str]) -> list[Measurement]:
    """Return the distinct measurements of these stages of scores."""
    known = set(sources)
    every = (metric.measured for metric in (*METRICS, *OUTCOMES))
    return [measured for measured in dict.fromkeys(every) if measured.source in known]


def metric_of(name: str) -> Metric | None:
    """Return the metric with this name in a table (`asr_prefilling` is `asr`), or None."""
    plain = _without_attack(name)[0]
    return next((metric for metric in (*METRICS, *OUTCOMES) if metric.name == plain), None)


def name_under(metric: Metric, attack: str) -> str:
    """Return the name of a metric of every attack: `asr` for the attack direct, else `asr_{attack}`."""
    return metric.name if attack == DIRECT else f"{metric.name}_{attack}"


def _without_attack(name: str) -> tuple[str, str]:
    """Return the name of a metric of every attack and its attack; for other names the name and ""."""
    for plain in (metric.name for metric in METRICS if metric.every_attack):
        if name == plain:
            return plain, DIRECT
        if name.startswith(f"{plain}_") and name.removeprefix(plain) not in _EFFECTS:
            return plain, name.removeprefix(f"{plain}_")
    return name, ""


def attack_of(name: str) -> str | None:
    """Return the attack of an attack success rate, or None for other metrics."""
    plain, attack = _without_attack(name)
    return attack if plain == "asr" else None


def is_direct(attack: str) -> bool:
    """Return whether an attack asks directly, in one or in several tries."""
    return attack == DIRECT or attack.startswith(f"{DIRECT} (")


def in_percent(name: str) -> bool:
    """Return whether a metric, or an effect on one, is printed in percent."""
    metric = metric_of(name)
    return name.endswith(_EFFECTS_IN_PERCENT) if metric is None else metric.is_rate


def heading(name: str) -> str:
    """Return the heading of a column with its unit."""
    metric, attack = metric_of(name), _without_attack(name)[1]
    text = name.replace("_", " ") if metric is None else metric.heading
    if attack not in ("", DIRECT):
        text = f"{text}, {attack}"
    return f"{text}, %" if in_percent(name) else text
