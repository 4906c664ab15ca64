"""Costs of a judge at an address: an estimate before the first request, caps, and counts of paid tokens.

Costs are in the currency of the prices. The estimate counts a quarter of the UTF-8 bytes as tokens to send (about right
for English, too many for other scripts) and replies of the maximum length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from rebend.config.judges import ChatEndpointBlock, Prices, money
from rebend.errors import JudgeError

BYTES_PER_TOKEN = 4
CHAT_TOKENS = 12  # tokens that a chat format adds to two messages


@dataclass(frozen=True)
class Budget:
    """Prices per million tokens, and caps (None: no cap)."""

    prices: Prices = Prices()  # noqa: RUF009  (immutable)
    max_cost: float | None = None
    max_tokens_total: int | None = None

    def excess(self, tokens_in: int, tokens_out: int) -> str | None:
        """Return a message if these tokens exceed a cap, else None."""
        cost, total = self.prices.cost(tokens_in, tokens_out), tokens_in + tokens_out
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            return f"{money(cost)} is above max_cost {money(self.max_cost)}"
        if self.max_tokens_total is not None and total > self.max_tokens_total:
            return f"{total} tokens are above max_tokens_total {self.max_tokens_total}"
        return None


def budget_of(block: ChatEndpointBlock) -> Budget:
    """Return the prices and caps of a judge's settings."""
    return Budget(Prices(block.price_in, block.price_out), block.max_cost, block.max_tokens_total)


@dataclass(frozen=True)
class CostEstimate:
    """Numbers of questions and tokens, estimated before the first request."""

    questions: int
    kept: int
    tokens_in: int
    tokens_out: int  # upper limit

    def text(self, budget: Budget) -> str:
        """Return the estimate as one line."""
        line = (
            f"judge: {self.questions} questions, {self.kept} answered before, {self.questions - self.kept} to send: "
            f"about {self.tokens_in} tokens to send, replies of at most {self.tokens_out}"
        )
        cost = budget.prices.cost(self.tokens_in, self.tokens_out)
        return line + (f"; cost at most about {money(cost)}" if cost is not None else "; no prices are given")

    def check(self, budget: Budget) -> None:
        """Raise `JudgeError` if the estimate exceeds a cap. Call it before the first request."""
        if excess := budget.excess(self.tokens_in, self.tokens_out):
            raise JudgeError(
                f"nothing was sent: {self.questions - self.kept} requests may take {self.tokens_in} + "
                f"{self.tokens_out} tokens, and {excess}. Raise the cap, or lower `sample` or `max_tokens`"
            )


def estimate_cost(system: str, questions: Sequence[str], waiting: Sequence[str], max_tokens: int) -> CostEstimate:
    """Estimate the cost of the questions without a stored reply (`waiting`)."""
    sent = sum(count_tokens(system) + count_tokens(question) + CHAT_TOKENS for question in waiting)
    return CostEstimate(len(questions), len(questions) - len(waiting), sent, max_tokens * len(waiting))


def count_tokens(text: str) -> int:
    """Return the approximate number of tokens of a text."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


@dataclass
class Spent:
    """Requests and tokens that one run paid for, as the address reports them; stored replies cost nothing."""

    budget: Budget = field(default_factory=Budget)
    asked: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # replies without a reported number of tokens
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Count one new reply; None if the address did not report its tokens."""
        with self._lock:
            self.asked += 1
            self.uncounted += tokens_in is None or tokens_out is None
            self.tokens_in += tokens_in or 0
            self.tokens_out += tokens_out or 0

    def lose(self, tokens_in: int, tokens_out: int) -> None:
        """Count the tokens of a request without a reply."""
        with self._lock:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out

    def reuse(self, replies: int) -> None:
        """Count replies from the store."""
        with self._lock:
            self.kept += replies

    def check(self) -> None:
        """Raise `JudgeError` if the paid tokens exceed a cap; the estimate may have been too low."""
        if excess := self.budget.excess(self.tokens_in, self.tokens_out):
            raise JudgeError(f"stopped after {self.asked} replies, which are stored: {excess}")

    def facts(self) -> dict[str, Any]:
        """Return the counts as plain values for a record."""
        return {
            "asked": self.asked,
            "kept_before": self.kept,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "uncounted": self.uncounted,
            "cost": self.budget.prices.cost(self.tokens_in, self.tokens_out),
        }
