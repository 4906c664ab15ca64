"""Blocks of the section `judges`: judges that compare a response with the data set's preferred answer."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from rebend.config.base import Address, Block, Method, Positive, refers

# Settings of the requests and of their cost; no reply depends on them
REQUEST_OPTIONS = ("concurrency", "retries")
LIMITS = ("timeout", "batch", "max_cost", "max_tokens_total")


class JudgeBlock(Block):
    """Settings of every judge."""

    method: str = Field(description="the judge")
    sample: Positive | None = Field(None, description="number of judged rows, drawn with `seed`; all if absent")
    seed: int = Field(0, description="seed of the draw")


class WorldRubricBlock(JudgeBlock):
    """A proxy: the rubric of the tiny world, for data of the tiny world only."""

    method: Literal["world_rubric"] = Field(description="the rubric of the tiny world (a proxy)")


class RewardModelJudgeBlock(JudgeBlock):
    """A proxy: the answer with the higher reward wins."""

    method: Literal["reward_model"] = Field(description="the higher reward (a proxy)")
    reward: str = refers("rewards", "reward block")


class ChatEndpointBlock(Block):
    """A chat model behind an OpenAI-compatible address.

    The API key comes from OPENAI_API_KEY only. All studies share one store of replies, so that no reply is paid for
    twice. The caps apply to one job: one model under one control (and attack) on one data set.
    """

    model: str = Field(min_length=1, description="dated model id, part of the key of a reply in the store")
    base_url: Address | None = Field(
        None,
        description="address; OPENAI_BASE_URL if absent. This address is part of the key of a reply in the store; an "
        "address from the environment is not",
    )
    temperature: float | None = Field(
        0.0, ge=0, description="temperature of the replies; null sends none, for models without this option"
    )
    max_tokens: Positive = Field(2048, description="longest reply, tokens")
    price_in: float | None = Field(None, ge=0, description="price of a million sent tokens, in any currency")
    price_out: float | None = Field(None, ge=0, description="price of a million received tokens, in the same currency")
    max_cost: float | None = Field(
        None,
        gt=0,
        description="cap on the cost of the missing replies; if the estimate is above it, no request is sent",
    )
    max_tokens_total: Positive | None = Field(
        None, description="cap on the tokens, sent and received, of the missing replies; like `max_cost`"
    )
    batch: bool = Field(
        False, description="use the address's batch interface, which is slower and may be cheaper; give its prices"
    )
    timeout: Positive = Field(120, description="longest wait for data in one request, seconds")
    concurrency: Positive = Field(8, description="concurrent requests")
    retries: int = Field(5, ge=0, description="retries of one request, with growing pauses")

    @model_validator(mode="after")
    def prices_fit(self) -> ChatEndpointBlock:
        """Refuse one price without the other, and a cost cap without prices."""
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("`price_in` and `price_out` belong together; give both or neither")
        if self.max_cost is not None and self.price_in is None:
            raise ValueError("`max_cost` needs `price_in` and `price_out`; without prices, use `max_tokens_total`")
        return self


class OpenAIJudgeBlock(ChatEndpointBlock, JudgeBlock):
    """A chat model behind an OpenAI-compatible address that compares two answers (arXiv:2406.05954, section 5)."""

    method: Literal["openai"] = Field(description="a chat model")
    form: Literal["legacy", "structured"] = Field(
        "legacy",
        description="form of the reply: two scores from 1 to 10 on the first line, as published, or a JSON verdict "
        "with its reasons",
    )
    orders: Literal["both", "one"] = Field(
        "both",
        description="orders in which the judge reads the two answers. `both`: a win needs both; `one`: one order per "
        "row, drawn by `seed` and row, as in RE-Control's released code. A judge that prefers the first answer makes "
        "rates of `one` noisier, and they are higher: do not compare them with rates of `both`",
    )
    system: str | None = Field(
        None, min_length=1, description="system message of your own, e.g. a paper's; for `form: legacy`"
    )
    question: str | None = Field(
        None,
        description="user message of your own, with {prompt}, {answer1} and {answer2}; for `form: legacy`",
    )

    @model_validator(mode="after")
    def own_words_fit(self) -> OpenAIJudgeBlock:
        """Refuse own words with a JSON verdict, and a question without the answers."""
        given = [name for name in ("system", "question") if getattr(self, name) is not None]
        if given and self.form != "legacy":
            raise ValueError(f"`{given[0]}` is for `form: legacy`; the words of `structured` belong to its JSON object")
        marks = [mark for mark in ("{prompt}", "{answer1}", "{answer2}") if self.question and mark not in self.question]
        if marks:
            raise ValueError(f"`question` has no {' and no '.join(marks)}; the judge needs prompt and both answers")
        return self


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
