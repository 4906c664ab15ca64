"""Blocks of the section `rewards`: reward models that are loaded, trained, or behind an HTTP address."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from rebend.config.base import ENDPOINT_OPTIONS, Address, Block, Positive, Resources, exactly_one, refers
from rebend.config.models import HubModel

_LOADED_ONLY = ("head", "dtype", "max_length")  # keys of a model that is loaded by the job


class TinyReward(Block):
    """A reward model trained in the graph, started from a model's weights."""

    model: str = refers("models", "model block whose weights and tokenizer it starts from")
    dataset: str = refers("datasets", "preference data set (Bradley-Terry loss)", kind="preference")
    steps: Positive = Field(60, description="optimiser steps")
    batch_size: Positive = Field(32, description="pairs per step")
    lr: float = Field(1.0e-3, gt=0, description="peak learning rate")
    seed: int = Field(0, description="seed of head and batches")


class RewardEndpoint(Block):
    """A reward model behind an HTTP address with OpenRLHF's protocol for remote reward models (docs/rewards.md)."""

    model: str = Field(
        min_length=1, description="name and version of the reward model; with another one, everything is scored again"
    )
    url: Address | None = Field(
        None,
        description="complete address, e.g. http://localhost:5000/get_reward; REWARD_URL if absent. An address "
        "from the environment is no setting: with the same model at another one, nothing is scored again",
    )
    key: bool = Field(False, description="send REWARD_API_KEY, a variable of the environment, with each request")
    timeout: Positive = Field(120, description="longest wait for a reply, seconds")
    concurrency: Positive = Field(4, description="requests at a time")
    retries: int = Field(5, ge=0, description="retries of one request, with growing pauses")


class RewardBlock(Block):
    """A reward model: exactly one of hub, local, tiny, http. A reward is its raw logit, or the number in the reply."""

    hub: HubModel | None = Field(None, description="a hub repository at a pinned revision")
    local: str | None = Field(None, description="folder in hub layout")
    tiny: TinyReward | None = Field(None, description="trained in the graph")
    http: RewardEndpoint | None = Field(None, description="requested from an HTTP address")
    head: Literal["sequence_classification", "regression_head"] = Field(
        "sequence_classification",
        description="`regression_head` is UltraRM's: a Llama body and a linear head without bias",
    )
    template: str | None = Field(
        None,
        description="the scored text, with {prompt} and {response}; the chat template if absent (`http` needs one)",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of weights and activations")
    batch_size: Positive = Field(64, description="texts per forward pass, or per request")
    max_length: Positive = Field(2048, description="tokens; longer texts are cut at their beginning")
    resources: Resources = Field(Resources(), description="resources of a job with it")

    @property
    def code(self) -> str:
        """The function that loads the reward model, as "module:attribute" (see `rebend.config.base.Method`)."""
        if self.http is None:
            return "rebend.models.rewards.model:load_reward_model"
        return "rebend.models.rewards.endpoint:load_endpoint"

    @model_validator(mode="after")
    def one_source(self) -> RewardBlock:
        """Refuse none or several sources."""
        exactly_one(self, "hub", "local", "tiny", "http")
        return self

    @model_validator(mode="after")
    def endpoint_reads_by_itself(self) -> RewardBlock:
        """Refuse keys of a loaded model for an address, and an address without a template."""
        if self.http is None:
            return self
        wrong = [name for name in _LOADED_ONLY if getattr(self, name) != type(self).model_fields[name].default]
        if wrong:
            raise ValueError(f"{', '.join(f'`{name}`' for name in wrong)}: set where the address is served, not here")
        if self.template is None or "{response}" not in self.template:
            raise ValueError("`http` needs a `template` with {prompt} and {response}: the text that is sent")
        return self


def endpoint_options(blocks: Iterable[RewardBlock]) -> str:
    """Return the endpoint options of the blocks as JSON, for a resource of the job: no result depends on them."""
    endpoints = [block.http for block in blocks if block.http is not None]
    return json.dumps({_key_of(endpoint): endpoint.model_dump(include=ENDPOINT_OPTIONS) for endpoint in endpoints})


def endpoint_of(block: RewardBlock, options: str) -> RewardEndpoint:
    """Return the endpoint of a block with its options from `options`, the JSON of `endpoint_options`."""
    assert block.http is not None
    return block.http.model_copy(update=json.loads(options).get(_key_of(block.http), {}))


def _key_of(endpoint: RewardEndpoint) -> str:
    return f"{endpoint.model} {endpoint.url or ''}"
