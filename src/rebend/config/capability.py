"""Blocks of the section `capabilities`: the questions of a benchmark, and the scoring by lm-evaluation-harness."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import NamedBlock, Positive
from rebend.config.datasets import DataSource

# The metrics of the harness for each task; the first is the default.
METRICS: dict[str, tuple[str, ...]] = {
    "mmlu": ("acc",),
    "gsm8k": ("flexible", "strict"),
    "truthfulqa": ("mc2", "mc1"),
    "arc_challenge": ("acc_norm", "acc"),
    "winogrande": ("acc",),
    "bbh": ("exact_match",),
    "multiple_choice": ("acc", "acc_norm"),
}
# Tasks whose worked examples are part of the harness, and their number (the default). Other tasks take them from data.
BUILT_IN_SHOTS = {"gsm8k": 8, "truthfulqa": 0, "bbh": 3}
_DEFAULT_SHOTS = {**BUILT_IN_SHOTS, "mmlu": 5}
_GENERATED = ("gsm8k", "bbh")


class CapabilityBlock(NamedBlock):
    """A capability benchmark on local data, with the prompts and metrics of lm-evaluation-harness."""

    task: Literal["mmlu", "gsm8k", "truthfulqa", "arc_challenge", "winogrande", "bbh", "multiple_choice"] = Field(
        description="the benchmark; `multiple_choice` is any file of question, choices (a list) and answer (an index)"
    )
    source: DataSource | list[DataSource] = Field(
        description="the file of the questions, or its parts (MMLU by subject, BBH by task), in their published columns"
    )
    examples: DataSource | None = Field(
        None,
        description="file of worked examples, used from its first row on; absent: rows of `source` whose `split` is "
        "dev or train (gsm8k, truthfulqa and bbh have their own)",
    )
    metric: Literal["acc", "acc_norm", "mc1", "mc2", "strict", "flexible", "exact_match"] | None = Field(
        None,
        description="how an answer is scored; absent: flexible (gsm8k), mc2 (truthfulqa), acc_norm "
        "(arc_challenge), exact_match (bbh), else acc",
    )
    few_shot: int | None = Field(
        None, ge=0, description="worked examples in front of a question; absent: mmlu 5, gsm8k 8, bbh 3, else 0"
    )
    limit: Positive | None = Field(None, description="number of questions, drawn with `seed`; all if absent")
    seed: int = Field(0, description="seed of that draw")
    batch_size: Positive = Field(8, description="prompts per forward pass")
    max_new_tokens: Positive | None = Field(
        None, description="longest generated answer (gsm8k, bbh); the harness's own if absent: 256 and 1024"
    )
    chat_template: bool = Field(
        False, description="put prompts into the model's chat template, each worked example as a turn"
    )

    @property
    def sources(self) -> list[DataSource]:
        """The files of the questions, as a list."""
        return self.source if isinstance(self.source, list) else [self.source]

    @property
    def scored_by(self) -> str:
        """The metric, or the task's default."""
        return self.metric or METRICS[self.task][0]

    @property
    def shots(self) -> int:
        """Number of worked examples, or the task's default."""
        return _DEFAULT_SHOTS.get(self.task, 0) if self.few_shot is None else self.few_shot

    @model_validator(mode="after")
    def metric_of_the_task(self) -> CapabilityBlock:
        """Refuse a metric of another task, and a length for a task that generates nothing."""
        if self.metric is not None and self.metric not in METRICS[self.task]:
            allowed = ", ".join(METRICS[self.task])
            raise ValueError(f"metric '{self.metric}' is none of task '{self.task}'. Allowed: {allowed}")
        if self.max_new_tokens is not None and self.task not in _GENERATED:
            raise ValueError(f"max_new_tokens: task '{self.task}' generates nothing; it compares given answers")
        return self

    @model_validator(mode="after")
    def examples_to_be_had(self) -> CapabilityBlock:
        """Refuse sources without questions, and more worked examples than exist."""
        if not self.sources:
            raise ValueError("source: names no file")
        if any(source.world for source in (*self.sources, *([self.examples] if self.examples else []))):
            raise ValueError("the tiny world holds no benchmark; give local, url or hub")
        own = BUILT_IN_SHOTS.get(self.task)
        if own is None:
            return self
        if self.examples is not None:
            raise ValueError(f"examples: task '{self.task}' brings its own worked examples ({own})")
        if self.shots > own:
            raise ValueError(f"few_shot: task '{self.task}' has {own} worked examples of its own; got {self.shots}")
        return self
