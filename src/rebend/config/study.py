"""Studies (the blocks that they combine, and their claims), and the caps on what a run may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import Block, refers


class Grid(Block):
    """Every combination of these models, adapters and controls, on these data sets, with these scores."""

    models: list[str] = refers("models", "base models", min_length=1)
    adapters: list[str] = refers(
        "adapters", "adapters; `none` is the base model itself", default=["none"], min_length=1
    )
    controls: list[str] = refers("controls", "controls", default=["none"], min_length=1)
    prompts: list[str] = refers(
        "datasets", "prompts data sets: reward, diversity, coherence, win rate", kind="prompts", default=[]
    )
    evaluation: list[str] = refers("datasets", "evaluation data sets: ASR, over-refusal", kind="evaluation", default=[])
    attacks: list[str] = refers(
        "attacks", "attacks on the evaluation data sets' harmful prompts", default=["direct"], min_length=1
    )
    reward: str | None = refers("rewards", "reward block that scores responses; no reward if absent", default=None)
    heldout_reward: str | None = refers(
        "rewards",
        "a second reward block, used for no training, tuning or choice: its mean shows whether the first is gamed",
        default=None,
    )
    encoder: str | None = refers("encoders", "encoder block for coherence; none if absent", default=None)
    judge: str | None = refers("judges", "judge block for the win rate; no win rate if absent", default=None)
    safety_judges: list[str] = refers(
        "safety_judges",
        "safety judges, needed with `evaluation`; the tables show the verdicts of the first, and the agreement of all",
        default=[],
    )
    capabilities: list[str] = refers(
        "capabilities", "capability benchmarks, run on each model with each adapter, without control", default=[]
    )
    states: str | None = refers(
        "datasets",
        "held-out answers whose hidden states are plotted without and with each adapter",
        kind="safety",
        default=None,
    )

    @model_validator(mode="after")
    def builds_something(self) -> Grid:
        """Refuse a grid without data, evaluation without a judge, and one reward model under two names."""
        if self.heldout_reward is not None and self.heldout_reward == self.reward:
            raise ValueError(f"heldout_reward is '{self.reward}', the very `reward`: it would hide what it is to show")
        if not self.prompts and not self.evaluation:
            raise ValueError("names no data set: give `prompts`, `evaluation` or both")
        if self.evaluation and not self.safety_judges:
            raise ValueError("`evaluation` needs `safety_judges`")
        return self


ClaimTable = Literal[
    "matrix", "gains", "repbend", "recontrol", "frontier",
    "repbend_asr", "repbend_summary", "repbend_capability", "repbend_categories", "repbend_pairs", "safety_agreement",
]  # fmt: skip


class Claim(Block):
    """A sentence that a study aims to show, compared with a number in one of its tables."""

    text: str = Field(description="the sentence, as the report prints it")
    table: ClaimTable = Field(description="table that holds the number")
    where: dict[str, str] = Field(description="column: value; must select exactly one row")
    column: str = Field(description="column of the number that is compared")
    at_least: float | dict[str, str] | None = Field(
        None, description="a number, or `{column: value, …, take: column}` of another row of the table"
    )
    at_most: float | dict[str, str] | None = Field(None, description="likewise")

    @model_validator(mode="after")
    def one_bound(self) -> Claim:
        """Refuse none and two bounds."""
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs exactly one of at_least, at_most")
        return self


class Study(Block):
    """The grids and claims of one run."""

    title: str = Field(description="heading of the report")
    paper: Literal["recontrol", "repbend"] | None = Field(
        None, description="paper whose printed numbers are put beside ours"
    )
    grids: list[Grid] = Field(min_length=1, description="grids of models × adapters × controls")
    claims: list[Claim] = Field([], description="sentences that the study aims to show")


class Caps(Block):
    """Limits on the estimates of a run: if an estimate is above its cap, no job starts. No cap if absent."""

    gpu_hours: float | None = Field(None, gt=0, description="GPU-hours, all GPUs of all jobs together")
    disk_gb: float | None = Field(None, gt=0, description="GB (10^9 bytes) written below results/ and downloaded")
    dollars: float | None = Field(None, gt=0, description="cost of judges, in the currency of their prices")

    def given(self) -> dict[str, float]:
        """The caps that are set, by name."""
        return {name: cap for name, cap in self.model_dump().items() if cap is not None}
