"""What judges behind an address will be asked, and what that costs, before there are responses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rebend.budget_facts import Facts
from rebend.budget_history import Measured
from rebend.budget_work import PlannedJob, work_of
from rebend.judge_costs import Budget

_SENT = 900  # tokens of one request: question, two answers, instructions


@dataclass(frozen=True)
class Asked:
    """Tokens of all requests of one job, both ways, and their cost; None where no prices are given."""

    tokens: float
    cost: float | None


def asked_of(job: PlannedJob, facts: Facts, earlier: Iterable[Measured]) -> Asked | None:
    """Return what a job will ask, as if no reply were kept; None if it asks nobody.

    Tokens per request are those that earlier jobs of the rule counted, else a guess for what is sent and the longest
    reply that is allowed.
    """
    judge = job.settings.get("judge") or job.settings.get("safety_judge") or {}
    work = work_of(job, facts)
    if work.kind != "requests":
        return None
    spent = [found.notes.get("spent_now") or {} for found in earlier]
    requests = sum(one.get("asked") or 0 for one in spent)
    if requests:
        sent, replied = (sum(one.get(key) or 0 for one in spent) / requests for key in ("tokens_in", "tokens_out"))
    else:
        sent, replied = _SENT, judge["max_tokens"]
    prices = Budget(judge.get("price_in"), judge.get("price_out"))
    tokens_in, tokens_out = round(sent * work.amount), round(replied * work.amount)
    return Asked(tokens_in + tokens_out, prices.cost(tokens_in, tokens_out))
