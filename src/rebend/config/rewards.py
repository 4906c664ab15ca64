"""Blocks of the section `rewards`: reward models that are loaded, trained, or behind an HTTP address."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import ENDPOINT_OPTIONS, Address, Block, Positive, Rate, Resources, exactly_one, refers
from rebend.config.models import HubModel

_LOADED_ONLY = ("head", "dtype", "max_length")  # keys of models that the job loads


class TinyReward(Block):
    """A reward model trained in the graph from all weights of a small model: a special case of `trained`."""

    model: str = refers("models", "model block with the initial weights and the tokenizer")
    dataset: str = refers("datasets", "preference data set (Bradley-Terry loss)", kind="preference")
    steps: Positive = Field(60, description="optimiser steps")
    batch_size: Positive = Field(32, description="pairs per step")
    lr: float = Field(1.0e-3, gt=0, description="peak learning rate")
    seed: int = Field(0, description="seed of head and batches")


class TrainedReward(Block):
    """A reward model trained in the graph from a model's weights, with LoRA or whole, on preference pairs."""

    model: str = refers("models", "model block with the initial weights and the tokenizer")
    dataset: str = refers("datasets", "preference data set (Bradley-Terry loss)", kind="preference")
    held_out: str | None = refers(
        "datasets",
        "preference data set whose pairs give the held-out accuracy; it may share no prompt with `dataset`. Absent: "
        "`held_out_share` of `dataset`",
        kind="preference",
        default=None,
    )
    held_out_share: float = Field(0.1, gt=0, lt=1, description="share of the pairs held out if `held_out` is absent")
    steps: Positive = Field(200, description="optimiser steps at most")
    batch_size: Positive = Field(16, description="pairs per step")
    micro_batch: Positive | None = Field(
        None,
        description="pairs per forward pass; the gradients of a step's passes are added. The peak memory depends on it "
        "and on `max_length`. Absent: all pairs of a step",
    )
    max_length: Positive | None = Field(
        512,
        description="longest conversation, tokens; longer ones are cut at the beginning, and pairs whose two texts are "
        "equal then are left out. Give the reward block the same `max_length`. null: the model's context",
    )
    balance_length: bool = Field(
        False,
        description="leave out training pairs until as many prefer the longer answer as the shorter one, so that "
        "length alone cannot be learnt; pairs that choose or are held out stay",
    )
    lr: float = Field(5.0e-4, gt=0, description="peak learning rate of AdamW, after which it decays linearly")
    warm_up: Rate = Field(0.1, description="share of the steps in which the learning rate rises")
    lora_r: int = Field(
        16, ge=0, description="rank of the adapter on all linear modules, merged at the end; 0: no LoRA"
    )
    lora_alpha: Positive = Field(32, description="scale of the adapter (times 1/rank)")
    n_blocks: Positive | None = Field(
        None,
        description="use only the model's first decoder blocks, for less time in training and scoring; all if absent",
    )
    frozen_blocks: int = Field(
        0,
        ge=0,
        description="first decoder blocks that are not trained, which saves their backward pass. With `lora_r: 0` and "
        "as many as `n_blocks`, only the head is trained: every pair passes through the model once, whatever `steps`",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third more time"
    )
    eval_every: Positive | None = Field(
        None,
        description="steps between two evaluations on pairs that are neither trained on nor held out; the weights with "
        "the lowest loss are kept. Absent: the last weights are kept",
    )
    choice_share: float = Field(0.1, gt=0, lt=1, description="share of the pairs of `dataset` for `eval_every`")
    patience: Positive = Field(3, description="evaluations without a lower loss after which the training stops")
    head_start: Literal["zero", "drawn"] = Field(
        "zero", description="initial weights of the head: zero (all rewards are equal at first) or drawn at random"
    )
    seed: int = Field(0, description="seed of head, adapter, parts and batches")

    @property
    def head_only(self) -> bool:
        """Whether a block without LoRA may leave all decoder blocks frozen."""
        return self.lora_r == 0

    @property
    def micro(self) -> int:
        """Pairs per forward pass."""
        return self.micro_batch or self.batch_size

    @model_validator(mode="after")
    def parts_are_apart(self) -> TrainedReward:
        """Refuse one data set for both parts, shares that leave nothing, and blocks of which none is trained."""
        if self.held_out == self.dataset:
            raise ValueError(f"held_out is '{self.dataset}', the same as `dataset`: give another data set, or none")
        shares = (0.0 if self.held_out else self.held_out_share) + (self.choice_share if self.eval_every else 0.0)
        if shares >= 1:
            raise ValueError(f"held_out_share and choice_share are {shares:g} together: no pair is left to train on")
        if self.n_blocks is not None and self.frozen_blocks >= self.n_blocks + self.head_only:
            raise ValueError(
                f"frozen_blocks {self.frozen_blocks} leaves none of the {self.n_blocks} blocks of n_blocks to train"
            )
        return self


class RewardEndpoint(Block):
    """A reward model behind an HTTP address with OpenRLHF's protocol for remote reward models (docs/rewards.md)."""

    model: str = Field(
        min_length=1, description="name and version of the reward model; after a change, all responses are scored again"
    )
    url: Address | None = Field(
        None,
        description="complete address, e.g. http://localhost:5000/get_reward; REWARD_URL if absent. An address from "
        "the environment is not a setting: after a change of it, no response is scored again",
    )
    key: bool = Field(False, description="send the environment variable REWARD_API_KEY with each request")
    timeout: Positive = Field(120, description="longest wait for a reply, seconds")
    concurrency: Positive = Field(4, description="concurrent requests")
    retries: int = Field(5, ge=0, description="retries of one request, with growing pauses")


class RewardBlock(Block):
    """A reward model: exactly one of hub, local, tiny, trained, http.

    A reward is the raw logit, or the number in the reply.
    """

    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder in hub layout; relative paths start in the `data` folder")
    tiny: TinyReward | None = Field(None, description="trained in the graph, all weights of a small model")
    trained: TrainedReward | None = Field(
        None, description="trained in the graph, with LoRA or whole, in a stated memory"
    )
    http: RewardEndpoint | None = Field(None, description="a server at an HTTP address")
    head: Literal["sequence_classification", "regression_head"] = Field(
        "sequence_classification",
        description="`regression_head` is that of UltraRM: a Llama with a linear head without bias",
    )
    template: str | None = Field(
        None,
        description="form of the scored text, with {prompt} and {response}, filled for each exchange of a dialogue; an "
        "empty line separates exchanges unless the template begins with a line break. The chat template if absent "
        "(required for `http`)",
    )
    variant: Literal["released_code", "corrected"] = Field(
        "corrected",
        description="`corrected`: the scored text has the form of `template` or of the chat template. `released_code`: "
        "it is the prompt of a data set with `variant: released_code`, and the response as it was generated",
    )
    replaced: dict[str, str] = Field(
        {}, description="words that the scored text has in place of others: `{word: other}`, in this order"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of weights and activations")
    batch_size: Positive = Field(64, description="texts per forward pass, at most, or per request")
    batch_tokens: Positive | None = Field(
        None,
        description="most tokens of a forward pass, padding included; limits memory where texts are long. null: no "
        "limit but `batch_size`. A longer text has a pass of its own. Not used with `http`",
    )
    max_length: Positive = Field(2048, description="longest text, tokens; longer texts are cut at the beginning")
    resources: Resources = Field(Resources(), description="resources of a job with this block")

    @property
    def writes_text(self) -> bool:
        """Whether the block itself gives the form of the scored text; otherwise the chat template does."""
        return self.template is not None or self.variant == "released_code"

    @property
    def is_trained(self) -> bool:
        """Whether the graph trains the reward model."""
        return self.tiny is not None or self.trained is not None

    @property
    def code(self) -> str:
        """The function that loads the reward model, as "module:attribute" (see `rebend.config.base.Method`)."""
        if self.http is None:
            return "rebend.models.rewards.model:load_reward_model"
        return "rebend.models.rewards.endpoint:load_endpoint"

    @model_validator(mode="after")
    def one_source(self) -> RewardBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "tiny", "trained", "http")
        return self

    @model_validator(mode="after")
    def text_has_one_form(self) -> RewardBlock:
        """Refuse a template beside `released_code`, which has none, and `replaced` for the chat template."""
        if self.variant == "released_code" and self.template is not None:
            raise ValueError("`variant: released_code` scores prompt and response as they are; leave out `template`")
        if self.replaced and not self.writes_text:
            raise ValueError("`replaced` needs a `template` or `variant: released_code`")
        if not all(self.replaced):
            raise ValueError("`replaced` has an empty word")
        return self

    @model_validator(mode="after")
    def keys_fit_the_source(self) -> RewardBlock:
        """Refuse keys of a loaded model with `http`, and `http` without a template."""
        if self.http is None:
            return self
        unused = [name for name in _LOADED_ONLY if getattr(self, name) != type(self).model_fields[name].default]
        if unused:
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in unused)}: only for loaded models; set this on the server of `http`"
            )
        if self.variant == "corrected" and (self.template is None or "{response}" not in self.template):
            raise ValueError("`http` needs a `template` with {prompt} and {response}, for the text to send")
        return self


def endpoint_options(blocks: Iterable[RewardBlock]) -> str:
    """Return the endpoint options of the blocks as JSON, for a resource of the job, since no result depends on them."""
    endpoints = [block.http for block in blocks if block.http is not None]
    return json.dumps({_key_of(endpoint): endpoint.model_dump(include=ENDPOINT_OPTIONS) for endpoint in endpoints})


def endpoint_of(block: RewardBlock, options: str) -> RewardEndpoint:
    """Return the endpoint of a block with the options in `options`, the JSON of `endpoint_options`."""
    assert block.http is not None
    return block.http.model_copy(update=json.loads(options).get(_key_of(block.http), {}))


def _key_of(endpoint: RewardEndpoint) -> str:
    return f"{endpoint.model} {endpoint.url or ''}"
