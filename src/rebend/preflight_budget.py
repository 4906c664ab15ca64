"""The budget of a run, looked at before its first job: told where somebody asks for it, refused above a cap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rebend.budget import budget_table, check_caps, estimate
from rebend.budget_facts import Facts
from rebend.budget_history import measured_jobs
from rebend.budget_work import PlannedJob
from rebend.errors import ConfigError
from rebend.plan import Plan
from rebend.preflight import check_before_jobs


def check_budget(plan: Plan, jobs: Sequence[PlannedJob]) -> None:
    """Raise `ConfigError` if jobs are expected to take more than a cap of the configuration; no cap costs no time."""
    if plan.config.budget.given():
        check_caps(plan.config.budget, estimate(jobs, Facts(plan), measured_jobs()))


def tell_budget(plan: Plan, jobs: Sequence[PlannedJob], tell: Callable[[str], None]) -> None:
    """Tell, line by line, what jobs will take and what a run would miss. Raises `ConfigError` above a cap."""
    facts = Facts(plan)
    estimates = estimate(jobs, facts, measured_jobs())
    for line in budget_table(estimates, facts):
        tell(line)
    try:
        check_before_jobs(plan)
    except ConfigError as mistakes:
        tell(f"missing before a run can start:{mistakes}")
    check_caps(plan.config.budget, estimates)
