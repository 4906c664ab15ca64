"""Number and cost of the requests to judges, estimated before the responses exist."""

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
    """Return a line per judge behind an address with missing verdicts: upper limits of requests, replies and cost.

    The exact numbers depend on the length of responses and on stored replies; each job logs them before its requests.
    """
    lines = [line for name in plan.used["judges"] for line in _win_rate_line(plan, name)]
    return [*lines, *(line for name in plan.used["safety_judges"] for line in _safety_line(plan, name))]


def _win_rate_line(plan: Plan, name: str) -> Iterator[str]:
    judge = plan.config["judges"][name]
    cells = [cell for cell in plan.cells if cell.role == "quality" and cell.grid.judge == name]
    missing = [
        cell for cell in cells if not Path(paths.verdicts(name, cell.model, cell.dataset, cell.control)).exists()
    ]
    if not isinstance(judge, OpenAIJudgeBlock) or not missing:
        return
    orders, asked = (2, "in both orders") if judge.orders == "both" else (1, "in one order")
    head = f"judges.{name}: {len(missing)} jobs ask '{judge.model}' {asked}"
    yield _limits(judge, head, "row", judge.sample and orders * judge.sample * len(missing))


def _safety_line(plan: Plan, name: str) -> Iterator[str]:
    judge = plan.config["safety_judges"][name]
    cells = [cell for cell in plan.cells if cell.role == "safety" and name in cell.grid.safety_judges]
    missing = [cell for cell in cells if not Path(cell.safety(name)).exists()]
    if isinstance(judge, RubricJudgeBlock) and missing:
        head = f"safety_judges.{name}: {len(missing)} jobs ask '{judge.model}'"
        yield _limits(judge, head, "completion", None)


def _limits(judge: ChatEndpointBlock, head: str, unit: str, requests: int | None) -> str:
    """Return a line with the largest number of requests, if it is known, and their largest cost."""
    cap = "" if judge.max_cost is None else f"; each job stops before it may cost more than {money(judge.max_cost)}"
    if requests is None:
        tokens, price = judge.max_tokens, judge.price_out
        each = f", replies of at most {tokens} tokens" + (f" ({money(tokens * price / 1e6)})" if price else "")
        return f"{head} about every {unit}{each} each{cap}"
    tokens = requests * judge.max_tokens
    cost = tokens * judge.price_out / 1e6 if judge.price_out is not None else None
    price_text = "" if cost is None else f", at most {money(cost)} without the prompts"
    return f"{head}: at most {requests} requests, replies of at most {tokens} tokens{price_text}{cap}"


_PROMPT_TOKENS = 900  # of one request: question, two answers, instructions


@dataclass(frozen=True)
class Requests:
    """Tokens of all requests of one job, prompts and replies, and their cost; None without prices."""

    tokens: float
    cost: float | None


def requests_of(job: PlannedJob, facts: Facts, earlier: Iterable[Measured]) -> Requests | None:
    """Estimate a job's judge requests, ignoring stored replies; None if it sends none.

    The tokens per request are the mean over the requests of earlier jobs of the rule. Without earlier jobs, the prompt
    is guessed, and the reply has the largest allowed length.
    """
    judge = job.settings.get("judge") or job.settings.get("safety_judge") or {}
    work = work_of(job, facts)
    if work.kind != "requests":
        return None
    spent = [measured.notes.get("spent_now") or {} for measured in earlier]
    requests = sum(costs.get("asked") or 0 for costs in spent)
    if requests:
        sent, replied = (sum(costs.get(key) or 0 for costs in spent) / requests for key in ("tokens_in", "tokens_out"))
    else:
        sent, replied = _PROMPT_TOKENS, judge["max_tokens"]
    prices = Prices(judge.get("price_in"), judge.get("price_out"))
    tokens_in, tokens_out = round(sent * work.amount), round(replied * work.amount)
    return Requests(tokens_in + tokens_out, prices.cost(tokens_in, tokens_out))
