"""Studies, with grids and claims, and the caps on the cost of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import Block, refers


class Grid(Block):
    """Every combination of these models, adapters and controls, on these data sets, with these scores."""

    models: list[str] = refers("models", "base models", min_length=1)
    adapters: list[str] = refers("adapters", "adapters; `none` is the base model", default=["none"], min_length=1)
    controls: list[str] = refers("controls", "controls", default=["none"], min_length=1)
    prompts: list[str] = refers(
        "datasets", "prompts data sets: reward, diversity, coherence, perplexity, win rate", kind="prompts", default=[]
    )
    evaluation: list[str] = refers("datasets", "evaluation data sets: ASR, over-refusal", kind="evaluation", default=[])
    attacks: list[str] = refers(
        "attacks", "attacks on the evaluation data sets' harmful prompts", default=["direct"], min_length=1
    )
    reward: str | None = refers("rewards", "reward block that scores responses; no reward if absent", default=None)
    heldout_reward: str | None = refers(
        "rewards",
        "a second reward block, not used for training, tuning or choosing: its mean shows overoptimisation of `reward`",
        default=None,
    )
    encoder: str | None = refers(
        "encoders", "encoder block for coherence (with MiniLM: prompt relevance); none if absent", default=None
    )
    perplexity: bool = Field(
        False,
        description="true: perplexity of every answer, to `prompts` and to attacks, under the base model of its cell",
    )
    repetition: bool = Field(
        False,
        description="true: share of repeated sequences of four words of every answer, to `prompts` and to attacks",
    )
    held_out_chats: list[str] = refers(
        "datasets",
        "chat data sets that nothing learns from: perplexity of each model, with each adapter and without",
        kind="chat",
        default=[],
    )
    judge: str | None = refers("judges", "judge block for the win rate; no win rate if absent", default=None)
    safety_judges: list[str] = refers(
        "safety_judges",
        "safety judges, needed with `evaluation`; tables show the verdicts of the first judge and the agreement of all",
        default=[],
    )
    capabilities: list[str] = refers(
        "capabilities", "capability benchmarks, run on each model with each adapter, without control", default=[]
    )
    states: str | None = refers(
        "datasets",
        "held-out answers; a figure shows their hidden states without and with each adapter",
        kind="safety",
        default=None,
    )

    @model_validator(mode="after")
    def builds_something(self) -> Grid:
        """Refuse a grid without data, evaluation without a judge, and one block for both rewards."""
        if self.heldout_reward is not None and self.heldout_reward == self.reward:
            raise ValueError(f"heldout_reward is '{self.reward}', the same as `reward`: give another reward block")
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
    """A claim of a study, and the number in a table that decides it."""

    text: str = Field(description="the claim, as the report prints it")
    table: ClaimTable = Field(description="table with the number")
    where: dict[str, str] = Field(description="column: value; must select exactly one row")
    column: str = Field(description="column of the number")
    at_least: float | dict[str, str] | None = Field(
        None,
        description="lower bound: a number, or `{column: value, …, take: column}` for the number in another row",
    )
    at_most: float | dict[str, str] | None = Field(None, description="upper bound, in the same form")

    @model_validator(mode="after")
    def one_bound(self) -> Claim:
        """Refuse a claim without a bound, and one with two."""
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("needs exactly one of at_least, at_most")
        return self


class Study(Block):
    """The grids and claims of one run."""

    title: str = Field(description="heading of the report")
    paper: Literal["recontrol", "repbend"] | None = Field(
        None, description="paper whose printed numbers the tables show beside ours"
    )
    grids: list[Grid] = Field(min_length=1, description="grids of models × adapters × controls")
    claims: list[Claim] = Field([], description="claims of the study, each decided by a number in a table")
    transcripts: int = Field(
        0,
        ge=0,
        description="how many harmless prompts of each data set the report shows, with the answer of each model (0: "
        "none); they are the first by a hash of the row id. From `evaluation`: prompts that the data set calls "
        "harmless, asked directly, without control. From `prompts`: only data sets in `harmless_prompts`. Everyone who "
        "can read the tables can read this text",
    )
    harmless_prompts: list[str] = Field(
        [],
        description="data sets of the grids' `prompts` that have harmless prompts only, so that `transcripts` may show "
        "them, with the answer under each control; these data sets have no column that tells harmful prompts",
    )

    @model_validator(mode="after")
    def transcripts_of_the_study(self) -> Study:
        """Refuse `harmless_prompts` that no grid decodes, and those without `transcripts`."""
        known = list(dict.fromkeys(name for grid in self.grids for name in grid.prompts))
        if other := [name for name in self.harmless_prompts if name not in known]:
            raise ValueError(f"harmless_prompts: {other} in no grid's `prompts`; allowed: {known}")
        if self.harmless_prompts and not self.transcripts:
            raise ValueError("`harmless_prompts` needs `transcripts`, the number of prompts to show")
        return self


class Caps(Block):
    """Limits on the estimates of a run: no job starts if an estimate is above its cap. No cap if absent."""

    gpu_hours: float | None = Field(None, gt=0, description="GPU-hours of all jobs")
    disk_gb: float | None = Field(None, gt=0, description="GB (10^9 bytes) written to results/ and downloaded")
    dollars: float | None = Field(None, gt=0, description="cost of judges, in the currency of their prices")

    def given(self) -> dict[str, float]:
        """Return the caps that are set, by name."""
        return {name: cap for name, cap in self.model_dump().items() if cap is not None}
