"""What the judges of a study will be asked, as far as that is known before there are responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rebend.config.judges import ChatEndpointBlock, OpenAIJudgeBlock, Prices, money
from rebend.config.safety import RubricJudgeBlock
from rebend.pipeline.cost.history import Measured
from rebend.pipeline.cost.sizes import Facts
from rebend.pipeline.cost.work import PlannedJob, work_of
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan


def judge_outlook(plan: Plan) -> list[str]:
    """Return a line per judge behind an address whose verdicts are not all there: requests, replies, cost, caps.

    Only upper limits are known: how long responses are, and which replies are in the store, each job says itself
    before it sends anything.
    """
    lines = [line for name in plan.used["judges"] for line in _of_win_rates(plan, name)]
    return [*lines, *(line for name in plan.used["safety_judges"] for line in _of_safety(plan, name))]


def _of_win_rates(plan: Plan, name: str) -> Iterator[str]:
    judge = plan.config["judges"][name]
    cells = [cell for cell in plan.cells if cell.role == "quality" and cell.grid.judge == name]
    missing = [
        cell for cell in cells if not Path(paths.verdicts(name, cell.model, cell.dataset, cell.control)).exists()
    ]
    if not isinstance(judge, OpenAIJudgeBlock) or not missing:
        return
    head = f"judges.{name}: {len(missing)} jobs ask '{judge.model}' in both orders"
    yield _limits(judge, head, "row", judge.sample and 2 * judge.sample * len(missing))


def _of_safety(plan: Plan, name: str) -> Iterator[str]:
    judge = plan.config["safety_judges"][name]
    cells = [cell for cell in plan.cells if cell.role == "safety" and name in cell.grid.safety_judges]
    missing = [cell for cell in cells if not Path(cell.safety(name)).exists()]
    if isinstance(judge, RubricJudgeBlock) and missing:
        head = f"safety_judges.{name}: {len(missing)} jobs ask '{judge.model}'"
        yield _limits(judge, head, "completion", None)


def _limits(judge: ChatEndpointBlock, head: str, what: str, requests: int | None) -> str:
    """One line: at most how many requests, if that is known, and what they may cost."""
    cap = "" if judge.max_cost is None else f"; each job stops before it may cost more than {money(judge.max_cost)}"
    if requests is None:
        tokens, price = judge.max_tokens, judge.price_out
        each = f", replies of at most {tokens} tokens" + (f" ({money(tokens * price / 1e6)})" if price else "")
        return f"{head} about every {what}{each} each{cap}"
    tokens = requests * judge.max_tokens
    cost = tokens * judge.price_out / 1e6 if judge.price_out is not None else None
    price_text = "" if cost is None else f", at most {money(cost)} without what is sent"
    return f"{head}: at most {requests} requests, replies of at most {tokens} tokens{price_text}{cap}"


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
    prices = Prices(judge.get("price_in"), judge.get("price_out"))
    tokens_in, tokens_out = round(sent * work.amount), round(replied * work.amount)
    return Asked(tokens_in + tokens_out, prices.cost(tokens_in, tokens_out))
