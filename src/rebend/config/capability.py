"""Blocks of the section `capabilities`: the questions of a benchmark, and the scoring by lm-evaluation-harness."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import NamedBlock, Positive
from rebend.config.datasets import DataSource

# Metrics of the harness for each task; the first is the default.
METRICS: dict[str, tuple[str, ...]] = {
    "mmlu": ("acc",),
    "gsm8k": ("flexible", "strict"),
    "truthfulqa": ("mc2", "mc1"),
    "arc_challenge": ("acc_norm", "acc"),
    "winogrande": ("acc",),
    "bbh": ("exact_match",),
    "multiple_choice": ("acc", "acc_norm"),
}
# Number of worked examples of tasks that have them in the harness (the default). Other tasks read them from data.
BUILT_IN_SHOTS = {"gsm8k": 8, "truthfulqa": 0, "bbh": 3}
_DEFAULT_SHOTS = {**BUILT_IN_SHOTS, "mmlu": 5}
_GENERATED = ("gsm8k", "bbh")


class CapabilityBlock(NamedBlock):
    """A capability benchmark on local data, with the prompts and metrics of lm-evaluation-harness."""

    task: Literal["mmlu", "gsm8k", "truthfulqa", "arc_challenge", "winogrande", "bbh", "multiple_choice"] = Field(
        description="the benchmark; `multiple_choice` is a file with question, choices (a list) and answer (an index)"
    )
    source: DataSource | list[DataSource] = Field(
        description="file of the questions, or a list of files (MMLU by subject, BBH by task), in the published format"
    )
    examples: DataSource | None = Field(
        None,
        description="file of worked examples, used from the first row on; absent: the rows of `source` with `split` "
        "dev or train (gsm8k, truthfulqa and bbh have built-in examples)",
    )
    metric: Literal["acc", "acc_norm", "mc1", "mc2", "strict", "flexible", "exact_match"] | None = Field(
        None,
        description="the metric; absent: flexible (gsm8k), mc2 (truthfulqa), acc_norm "
        "(arc_challenge), exact_match (bbh), else acc",
    )
    few_shot: int | None = Field(
        None, ge=0, description="worked examples before a question; absent: mmlu 5, gsm8k 8, bbh 3, else 0"
    )
    limit: Positive | None = Field(None, description="number of questions, drawn with `seed`; all if absent")
    seed: int = Field(0, description="seed of the draw")
    batch_size: Positive = Field(8, description="prompts per forward pass")
    max_new_tokens: Positive | None = Field(
        None, description="longest generated answer, tokens (gsm8k, bbh); absent: the harness's 256 and 1024"
    )
    chat_template: bool = Field(False, description="use the model's chat template, with each worked example as a turn")

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
            raise ValueError(f"task '{self.task}' has no metric '{self.metric}'. Allowed: {allowed}")
        if self.max_new_tokens is not None and self.task not in _GENERATED:
            raise ValueError(f"max_new_tokens: task '{self.task}' generates no answers; it compares given answers")
        return self

    @model_validator(mode="after")
    def examples_exist(self) -> CapabilityBlock:
        """Refuse an empty list of sources, the tiny world, and more worked examples than exist."""
        if not self.sources:
            raise ValueError("source: names no file")
        if any(source.world for source in (*self.sources, *([self.examples] if self.examples else []))):
            raise ValueError("the tiny world has no benchmark; give local, url or hub")
        n_built_in = BUILT_IN_SHOTS.get(self.task)
        if n_built_in is None:
            return self
        if self.examples is not None:
            raise ValueError(
                f"examples: task '{self.task}' has {n_built_in} built-in worked examples; it needs no file"
            )
        if self.shots > n_built_in:
            raise ValueError(f"few_shot: task '{self.task}' has only {n_built_in} worked examples; got {self.shots}")
        return self
