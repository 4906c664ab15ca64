"""Blocks of the section `judges`: judges that compare a response with the data set's preferred answer."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from rebend.config.base import Address, Block, Method, Positive, refers

# Settings of the requests and of their cost; they do not change a reply
MACHINE = ("concurrency", "retries")
LIMITS = ("timeout", "batch", "max_cost", "max_tokens_total")


class JudgeBlock(Block):
    """Settings of every judge."""

    method: str = Field(description="who judges")
    sample: Positive | None = Field(None, description="judge so many rows, drawn with `seed`; all if absent")
    seed: int = Field(0, description="seed of that draw")


class WorldRubricBlock(JudgeBlock):
    """A proxy: the tiny world's own rubric, for data of the tiny world only."""

    method: Literal["world_rubric"] = Field(description="the tiny world's own rubric (a proxy)")


class RewardModelJudgeBlock(JudgeBlock):
    """A proxy: the answer with the higher reward wins."""

    method: Literal["reward_model"] = Field(description="the higher reward (a proxy)")
    reward: str = refers("rewards", "reward block")


class ChatEndpointBlock(Block):
    """A chat model behind any OpenAI-compatible address.

    The key is taken from OPENAI_API_KEY alone. Replies are kept in a store that all studies share, so that none
    is paid for twice. The caps hold for one job: one model under one control (and attack) on one data set.
    """

    model: str = Field(min_length=1, description="dated model id; replies in the store are known by it")
    base_url: Address | None = Field(
        None,
        description="address; OPENAI_BASE_URL if absent. One that stands here belongs to the judge's identity in the "
        "store, one from the environment does not",
    )
    temperature: float | None = Field(
        0.0, ge=0, description="temperature of the replies; null sends none, for models that take none"
    )
    max_tokens: Positive = Field(2048, description="longest reply, tokens")
    price_in: float | None = Field(None, ge=0, description="price of a million tokens that are sent, in any currency")
    price_out: float | None = Field(None, ge=0, description="price of a million tokens of replies, in the same one")
    max_cost: float | None = Field(
        None, gt=0, description="most that the replies still missing may cost; above it nothing is sent"
    )
    max_tokens_total: Positive | None = Field(
        None, description="most tokens, sent and replied, that the replies still missing may take; as `max_cost`"
    )
    batch: bool = Field(
        False, description="ask by the address's batch interface: slower, and cheaper where it is; give its prices"
    )
    timeout: Positive = Field(120, description="longest silence of the address in one request, seconds")
    concurrency: Positive = Field(8, description="requests at a time")
    retries: int = Field(5, ge=0, description="retries of one request, with growing pauses")

    @model_validator(mode="after")
    def prices_fit(self) -> ChatEndpointBlock:
        """Refuse one price without the other, and a cost cap without prices."""
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("`price_in` and `price_out` belong together; give both or none")
        if self.max_cost is not None and self.price_in is None:
            raise ValueError("`max_cost` needs `price_in` and `price_out`; without prices there is `max_tokens_total`")
        return self


class OpenAIJudgeBlock(ChatEndpointBlock, JudgeBlock):
    """A chat model behind any OpenAI-compatible address, asked in both orders (arXiv:2406.05954, section 5)."""

    method: Literal["openai"] = Field(description="asked of a chat model")
    form: Literal["legacy", "structured"] = Field(
        "legacy",
        description="what it is asked for: two marks from 1 to 10 on the first line as published, or a JSON verdict "
        "with its reasons",
    )


JUDGES: dict[str, Method] = {
    "world_rubric": Method(WorldRubricBlock, "rebend.evaluation.judges.win_rate.world_rubric:judge"),
    "reward_model": Method(RewardModelJudgeBlock, "rebend.evaluation.judges.win_rate.reward_model:judge"),
    "openai": Method(OpenAIJudgeBlock, "rebend.evaluation.judges.win_rate.openai:judge"),
}


def limits_of(block: Block) -> str:
    """Return the limits of a judge's requests as JSON: a resource of its rule, because no result depends on them."""
    return json.dumps({name: getattr(block, name) for name in LIMITS if hasattr(block, name)})


class Prices(NamedTuple):
    """Prices of a million tokens, in any currency; None if unknown."""

    price_in: float | None = None
    price_out: float | None = None

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the cost of these tokens; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1_000_000


def money(cost: float) -> str:
    """Return a cost as text: two decimals, or three significant digits below one."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.3g}"
