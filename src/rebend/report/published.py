"""The numbers that the two papers print, found for a model, method and benchmark of ours.

Names are compared without case, signs, what stands in brackets and a leading "paper", and one of the two may go on
where the other ends: `llama3_8b_instruct` is Llama3-8B, `mistral_7b` is Mistral-7B-Instruct-v0.2. An empty cell is
unknown, not 0. Rates are between 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from rebend.report.measurements import DIRECT

Rates = dict[str, float | None]

RECONTROL_METHODS = {
    "none": "Base",
    "controlled_decoding": "CD",
    "cd_prefix": "CD prefix",
    "cd_prefix_prompting": "CD prefix + Prompting",
    "value": "RE-Control",
    "value_prompting": "RE-Control + Prompting",
}
RECONTROL_COLUMNS = {
    "diversity": ("diversity", 1.0),
    "coherence": ("coherence", 1.0),
    "reward": ("average_reward", 1.0),
    "win_rate": ("win_rate_percent", 0.01),
}
ADAPTERS = {  # words of our adapters' names -> the method's name in RepBend's tables
    "none": "Original",
    "task_arithmetic": "TA",
    "ta": "TA",
    "npo": "NPO",
    "dpo": "DPO",
    "sft": "SFT",
    "rmu": "RMU",
    "circuit_breakers": "CB",
    "cb": "CB",
    "r2d2": "R2D2",
    "repbend": "RepBend",
    "safety_prompt": "Safety Prompting",
}
RELEASED = {"rr": "CB", "r2d2": "R2D2"}  # first words of models that others made safe -> the method
_BASES = {"zephyr": "mistral"}  # a model that the paper puts beside another's descendants

ATTACKS = {"prefilling": "Prefilling", "embedding": "Input Embed", "gcg": "GCG"}  # all on HarmBench's prompts
BLACK_BOX = ("WildGuardTest (ID)", "HarmBench", "DAN", "TrustLLM-Jailbreak", "PAP")
WHITE_BOX = ("GCG", "Prefilling", "Input Embed")
AVERAGES = {
    "Black-box average": BLACK_BOX,
    "White-box average": WHITE_BOX,
    "Total average": (*BLACK_BOX, *WHITE_BOX),
}
COMPLIANCE = {"xstest": "xstest_compliance_percent", "wildjailbreak": "wildjailbreak_benign_compliance_percent"}
_MORE = {"harmbench_asr_percent": "HarmBench", "wildguardtest_asr_percent": "WildGuardTest (ID)"}  # Tables 3 and 6


class Published:
    """The printed tables in `folder`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recontrol = pd.read_csv(self.folder / "recontrol_main.csv", na_values=["N/A"])
        asr, summary = (pd.read_csv(self.folder / f"repbend_{name}.csv") for name in ("asr", "summary"))
        others = [pd.read_csv(self.folder / f"repbend_{name}.csv") for name in ("more_baselines", "other_models")]
        for other in others:
            parts = [
                other.assign(benchmark=benchmark, asr_percent=other[column]) for column, benchmark in _MORE.items()
            ]
            asr, summary = _with_new(asr, pd.concat(parts)), _with_new(summary, other)
        self.asr, self.summary = asr, summary

    def recontrol_row(self, model: str, dataset: str, method: str) -> Rates:
        """Return printed diversity, coherence, reward, win_rate (rates) and hours; all None if not printed."""
        found: pd.DataFrame = self.recontrol[self.recontrol["method"] == RECONTROL_METHODS.get(method)]
        found = found[found["dataset"] == closest(dataset, found["dataset"].unique(), by_word=True)]
        found = found[found["model"] == closest(model, found["model"].unique())]
        values = {key: _number(found, column, scale) for key, (column, scale) in RECONTROL_COLUMNS.items()}
        return {**values, "hours": _number(found, "inference_time_hours", 1.0)}

    def repbend_row(self, model: str, dataset: str, adapter: str, attack: str) -> Rates:
        """Return printed `asr` and `answered` of an adapter's method on a benchmark."""
        benchmark = benchmark_of(dataset, attack)
        column = COMPLIANCE.get(closest(dataset, list(COMPLIANCE)) or "")
        answered = _number(self.own(self.summary, model, adapter), column, 0.01) if column else None
        return {"asr": self.asr_of(model, adapter, benchmark), "answered": answered}

    def asr_of(self, model: str, adapter: str, benchmark: str | None) -> float | None:
        """Return the printed ASR in a column of Table 1 (its averages are columns too), or None."""
        own = self.own(self.asr, model, adapter)
        return _number(own[own["benchmark"] == benchmark], "asr_percent", 0.01)

    def mean_asr(self, model: str, adapter: str, benchmarks: Sequence[str]) -> float | None:
        """Return the mean of printed cells, or None where one of them is not printed."""
        values = [self.asr_of(model, adapter, benchmark) for benchmark in benchmarks]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def model_of(self, model: str) -> str | None:
        """Return the model under whose name the paper prints a model of ours."""
        return closest(base_of(model), self.asr["model"].unique())

    def own(self, table: pd.DataFrame, model: str, adapter: str) -> pd.DataFrame:
        """Return a printed table's rows of a model and method; of released weights if a name says so."""
        method, released = method_of(adapter, model)
        found = table[
            (table["method"] == method) & (table["model"] == closest(base_of(model), table["model"].unique()))
        ]
        if found["released_weights"].nunique() > 1:
            found = found[found["released_weights"] == released]
        return found


def base_of(model: str) -> str:
    """Return the name of the base behind a model that others made safe; any other name as it is."""
    first, _, rest = model.partition("_")
    if first not in RELEASED:
        return model
    family, _, size = rest.partition("_")
    return f"{_BASES.get(family, family)}_{size}"


def method_of(adapter: str, model: str = "") -> tuple[str, bool]:
    """Return an adapter's name in RepBend's tables (its own where it has none), and whether its weights are others'.

    A whole model that others made safe (`RELEASED`) is a method too, before any adapter.
    """
    first = model.partition("_")[0]
    if adapter == "none" and first in RELEASED:
        return RELEASED[first], True
    words = f"_{adapter.lower()}_"
    fitting = [name for name in ADAPTERS if f"_{name}_" in words]
    return ADAPTERS[max(fitting, key=len)] if fitting else adapter, "_released_" in words


def benchmark_of(dataset: str, attack: str) -> str | None:
    """Return the column of Table 1 that an attack on a data set's harmful prompts is, or None."""
    benchmark = closest(dataset, BLACK_BOX)
    if attack == DIRECT:
        return benchmark
    name = closest(attack, list(ATTACKS))
    return ATTACKS[name] if name and benchmark == "HarmBench" else None


def key(name: str) -> str:
    """Return a name reduced to small letters and digits, without what stands in brackets and a leading "paper"."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", name.lower())).removeprefix("paper")


def closest(name: str, printed: Iterable[str], *, by_word: bool = False) -> str | None:
    """Return the longest printed name that ours begins with, else the only one that begins with ours, or None.

    `by_word`: or else the only one whose first word is ours (`hh_test` is HH-RLHF).
    """
    own, printed = key(name), list(printed)
    shorter = [other for other in printed if own.startswith(key(other))]
    longer = [other for other in printed if key(other).startswith(own)]
    if not shorter and not longer and by_word:
        longer = [other for other in printed if _first_word(other) == _first_word(name)]
    return max(shorter, key=lambda other: len(key(other))) if shorter else longer[0] if len(longer) == 1 else None


def _first_word(name: str) -> str:
    return re.split(r"[^a-z0-9]+", name.lower().removeprefix("paper_"))[0]


def _with_new(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Append the rows of models and methods that the table does not have."""
    known = set(zip(table["model"], table["method"], strict=True))
    new = [pair not in known for pair in zip(other["model"], other["method"], strict=True)]
    return pd.concat([table, other.loc[new, [name for name in table if name in other]]], ignore_index=True)


def _number(found: pd.DataFrame, column: str, scale: float) -> float | None:
    """The one printed number, or None if it is not printed."""
    if len(found) != 1 or pd.isna(found[column].iloc[0]):
        return None
    return round(float(found[column].iloc[0]) * scale, 6)
