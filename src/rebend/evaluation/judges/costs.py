"""What asking a judge costs: an estimate before, caps that refuse, and what was paid after.

Costs are in the currency of the prices. Before, tokens are taken as a quarter of the UTF-8 bytes that are sent (about
right for English, cautious for other scripts), and each reply as long as it may become, so a cost is "at most".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from rebend.errors import JudgeError
from rebend.evaluation.judges.reply_store import KeptReply

BYTES_PER_TOKEN = 4
TOKENS_AROUND = 12  # what a chat format puts around two messages


@dataclass(frozen=True)
class Budget:
    """Prices of a million tokens, and caps; None: unknown, or no cap."""

    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    max_tokens_total: int | None = None

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return what these tokens cost; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1_000_000

    def excess(self, tokens_in: int, tokens_out: int) -> str | None:
        """Return by what these tokens break a cap, in words; None if they break none."""
        cost, total = self.cost(tokens_in, tokens_out), tokens_in + tokens_out
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            return f"{money(cost)} is above max_cost {money(self.max_cost)}"
        if self.max_tokens_total is not None and total > self.max_tokens_total:
            return f"{total} tokens are above max_tokens_total {self.max_tokens_total}"
        return None


@dataclass(frozen=True)
class Outlook:
    """What is known before the first request."""

    questions: int
    kept: int
    tokens_in: int
    tokens_out: int  # at most

    def text(self, budget: Budget) -> str:
        """Return it as one line."""
        line = (
            f"judge: {self.questions} questions, {self.kept} answered before, {self.questions - self.kept} to ask: "
            f"about {self.tokens_in} tokens to send, replies of at most {self.tokens_out}"
        )
        cost = budget.cost(self.tokens_in, self.tokens_out)
        return line + (f"; cost at most about {money(cost)}" if cost is not None else "; no prices are given")


def outlook(system: str, questions: Sequence[str], waiting: Sequence[str], max_tokens: int) -> Outlook:
    """Return what asking the `waiting` ones of some questions will take."""
    sent = sum(tokens_of(system) + tokens_of(question) + TOKENS_AROUND for question in waiting)
    return Outlook(len(questions), len(questions) - len(waiting), sent, max_tokens * len(waiting))


def money(cost: float) -> str:
    """Return a cost as text: hundredths, or three digits below one."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.3g}"


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def check_outlook(expected: Outlook, budget: Budget) -> None:
    """Raise `JudgeError` if a cap might be broken; nothing has been sent then."""
    if excess := budget.excess(expected.tokens_in, expected.tokens_out):
        raise JudgeError(
            f"nothing was sent: {expected.questions - expected.kept} requests may take {expected.tokens_in} + "
            f"{expected.tokens_out} tokens, and {excess}. Raise the cap, or lower `sample` or `max_tokens`"
        )


@dataclass
class Spent:
    """What was asked and paid for in one run, as the address counted it; the replies that were kept cost nothing."""

    budget: Budget = field(default_factory=Budget)
    asked: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # replies of which the address did not say how long they were
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, reply: KeptReply) -> None:
        """Count a reply that was asked for."""
        with self._lock:
            self.asked += 1
            self.uncounted += reply.tokens_in is None or reply.tokens_out is None
            self.tokens_in += reply.tokens_in or 0
            self.tokens_out += reply.tokens_out or 0

    def reuse(self, replies: int) -> None:
        """Count replies that were there."""
        with self._lock:
            self.kept += replies

    def check(self) -> None:
        """Raise `JudgeError` if a cap has been broken after all: an estimate can be wrong."""
        if excess := self.budget.excess(self.tokens_in, self.tokens_out):
            raise JudgeError(f"stopped after {self.asked} replies, which are kept: {excess}")

    def facts(self) -> dict[str, Any]:
        """Return it as plain values for a record."""
        return {
            "asked": self.asked,
            "kept_before": self.kept,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "uncounted": self.uncounted,
            "cost": self.budget.cost(self.tokens_in, self.tokens_out),
        }
